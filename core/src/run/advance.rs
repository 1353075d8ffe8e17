//! Propagates the cached activations through a block, to the inputs of the next.

use alloc::vec::Vec;

use crate::{
    block::{Block, BlockError, Statistics},
    engine::{Device, DeviceBlock, Workspace, cpu::ProgramBytes},
    inputs::{Cache, NOISE_BATCH, Side, SideBlocks},
    kernels::{norm::Moments, parallel::threads, plane::LANES},
    recipe::{Recipe, SourceKind},
    run::plan::Way,
    storage::ScratchError,
    student::fold_batch_norms,
};

/// Propagates `cache` through the blocks that `load` returns for its sides, with at most `arenas` arenas.
pub fn advance<E: From<ScratchError>>(
    cache: &mut Cache,
    statistics: Statistics,
    arenas: usize,
    device: &Device,
    mut load: impl FnMut(Side) -> Result<Block, E>,
) -> Result<(), E> {
    let teacher = DeviceBlock::new(&load(Side::Teacher)?, device);
    let student = match cache.has_students() {
        true => Some(DeviceBlock::new(&load(Side::Student)?, device)),
        false => None,
    };
    Ok(cache.advance(SideBlocks { teacher, student }, statistics, arenas)?)
}

/// The heap use of programs that propagate activations.
#[derive(Clone, Copy, Debug)]
struct PushBytes {
    programs: ProgramBytes,
    /// Peak bytes while the programs are built.
    making: u64,
}

impl PushBytes {
    /// For a program of `block`, which is derived from another block of `source` bytes (0 if it is not).
    fn through(block: &Block, source: u64) -> Self {
        let programs = ProgramBytes::of(block, block.nodes().len());
        Self { programs, making: block.heap_bytes() as u64 + programs.held.max(source) }
    }

    /// For this program, and `next` built after it.
    fn and(self, next: Self) -> Self {
        let making = self.making.max(self.programs.held + next.making);
        Self { programs: self.programs.and(next.programs), making }
    }
}

/// The numbers of arenas for [`advance`], from the fastest to the leanest, with the heap use of each; `recipe` is
/// `None` for a block that is not distilled.
///
/// # Errors
/// As the transformations of a block.
pub fn advance_ways(
    block: &Block,
    recipe: Option<&Recipe>,
    kind: SourceKind,
    sequential: bool,
) -> Result<Vec<Way<usize>>, BlockError> {
    let (loaded, groups) = (block.heap_bytes() as u64, NOISE_BATCH.div_ceil(LANES));
    let (mut push, most_arenas, channels) = match kind.statistics() {
        // Statistics of the whole batch require all of its groups at once.
        Statistics::Current => (PushBytes::through(block, 0), groups, norm_channels(block)),
        Statistics::Running => (PushBytes::through(&fold_batch_norms(block)?, loaded), groups.min(threads()), 0),
    };
    if sequential {
        let folded = fold_batch_norms(block)?;
        // With neighbourhoods inside, a block shrinks less than as a whole.
        let student = match recipe.filter(|_| folded.parts().is_empty()) {
            Some(recipe) => recipe.student(&folded)?,
            None => folded,
        };
        // A distilled student is read from its pack; any other is the teacher's block.
        push = push.and(PushBytes::through(&student, if recipe.is_some() { 0 } else { loaded }));
    }
    let PushBytes { programs, making } = push;
    // Moments of each group, and of the batch.
    let moments = (channels.max(1) * (groups + 1) * size_of::<Moments>()) as u64;
    let way = |arenas: usize| {
        let pushing = programs.held + Workspace::bytes(arenas, usize::MAX, programs.arena) + moments;
        let elements = block.input().elements().max(block.output().elements());
        Way { cut: arenas, bytes: making.max(pushing), staging: Cache::staging_bytes(arenas * LANES, elements) }
    };
    Ok(halves(most_arenas).map(way).collect())
}

/// Numbers of groups to process at a time: `most`, then half as many each time, down to one.
pub fn halves(most: usize) -> impl Iterator<Item = usize> {
    core::iter::successors(Some(most.max(1)), |&groups| (groups > 1).then_some(groups / 2))
}

/// Number of channels of a block's widest batch norm.
fn norm_channels(block: &Block) -> usize {
    let norms =
        block.nodes().iter().enumerate().filter(|(_, node)| matches!(node.op, crate::block::op::Op::BatchNorm(_)));
    norms.map(|(index, _)| block.shape(index + 1).channels).max().unwrap_or(0)
}
