//! The gradient of a batch's mean squared error, on the CPU.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use super::{Backward, Program, Workspace, clear_absent};
use crate::{
    block::Block,
    engine::Images,
    kernels::{elementwise::squared_error, parallel::share, plane::LANES},
};

/// Parts of a batch whose gradients are summed apart, then in order: what keeps threads from changing a result.
pub const PIECES: usize = 8;

/// A student's passes and its partial sums, over a batch that may come in parts.
#[derive(Debug)]
pub struct CpuGradients {
    program: Program,
    backward: Backward,
    /// Pieces of the part at hand. The first may have begun in the part before.
    pieces: Vec<Piece>,
    /// Images of the batch, and of those groups of images that are through.
    count: usize,
    done: usize,
    error: f64,
}

/// What one piece of a batch adds.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// In the backward pass's order.
    pub sums: Vec<f32>,
    /// Of the loss.
    pub error: f64,
}

/// Pieces of a batch of `groups` groups that groups `part` belong to.
fn pieces_of(part: &Range<usize>, groups: usize) -> Range<usize> {
    let count = PIECES.min(groups);
    // Piece `p` starts at group `⌊p · groups / count⌋`.
    let piece = |group: usize| (0..count).rfind(|p| p * groups / count <= group).unwrap_or(0);
    if part.is_empty() { 0..0 } else { piece(part.start)..piece(part.end - 1) + 1 }
}

impl CpuGradients {
    /// For blocks like `student`.
    pub fn new(student: &Block) -> Self {
        let program = Program::new(student, student.nodes().len(), true);
        let backward = Backward::new(student, &program, false);
        Self { program, backward, pieces: Vec::new(), count: 0, done: 0, error: 0.0 }
    }

    /// Heap bytes over batches of `count` images that come in parts of `part`, without those of the arenas.
    pub fn heap_bytes(&self, count: usize, part: usize) -> usize {
        let groups = count.div_ceil(LANES);
        let parts = (0..groups).step_by(part.div_ceil(LANES).max(1));
        let pieces = parts.map(|first| pieces_of(&(first..groups.min(first + part.div_ceil(LANES))), groups).len());
        let piece = size_of::<Piece>() + self.backward.sums() * size_of::<f32>();
        self.program.heap_bytes() + self.backward.heap_bytes() + pieces.max().unwrap_or(0) * piece
    }

    /// Vectors that the arena of a worker needs.
    pub fn arena(&self) -> usize {
        self.program.arena() + self.backward.arena()
    }

    /// Starts a batch of `count` images with `weights`, in the block's order.
    pub fn begin(&mut self, student: &Block, weights: &[Vec<f32>], gradients: &mut [Vec<f32>], count: usize) {
        self.program.set_weights(student, |index| &weights[index]);
        self.backward.set_weights(student, &self.program, |index| &weights[index]);
        gradients.iter_mut().for_each(|gradient| gradient.fill(0.0));
        (self.count, self.done, self.error) = (count, 0, 0.0);
    }

    /// Adds one part's share of the gradients of the mean squared error per element. All parts but the last are whole groups
    /// of images.
    pub fn add(
        &mut self,
        student: &Block,
        input: &Images,
        target: &Images,
        gradients: &mut [Vec<f32>],
        workspace: &mut Workspace,
    ) {
        let Self { program, backward, pieces, .. } = self;
        let groups = self.count.div_ceil(LANES);
        let part = self.done..self.done + input.groups().len();
        let here = pieces_of(&part, groups);
        let bounds = |piece: usize| piece * groups / PIECES.min(groups)..(piece + 1) * groups / PIECES.min(groups);
        if pieces.len() < here.len() {
            pieces.resize_with(here.len(), || Piece { sums: vec![0.0; backward.sums()], error: 0.0 });
        }
        let scale = 2.0 / (self.count * student.output().elements()).max(1) as f32;
        let (program, backward) = (&*program, &*backward);
        let workers = workspace.workers(here.len(), program.arena() + backward.arena());
        share(workers, pieces.iter_mut().zip(here.clone()), |(Piece { sums, error }, piece), arena| {
            let bounds = bounds(piece);
            if bounds.start >= part.start {
                sums.fill(0.0);
                *error = 0.0;
            }
            let (values, slopes) = arena.split_at_mut(program.arena());
            for group in bounds.start.max(part.start) - part.start..bounds.end.min(part.end) - part.start {
                program.load(values, input.plane(group));
                program.forward(values);
                backward.slots.clear_borders(slopes);
                let Some(slope) = backward.gradient(slopes, student.nodes().len()) else { continue };
                clear_absent(program.output_mut(values), input.lanes(group));
                *error += squared_error(program.arch, program.output(values), target.group(group), slope, scale);
                backward.run(program, values, slopes, sums);
            }
        });
        for (index, piece) in here.enumerate() {
            if bounds(piece).end <= part.end {
                backward.add_sums(student, program, &pieces[index].sums, gradients);
                self.error += pieces[index].error;
            } else {
                pieces.swap(0, index);
            }
        }
        self.done = part.end;
    }

    /// The mean squared error per element of the whole batch.
    pub fn error(&self, student: &Block) -> f32 {
        (self.error / (self.count * student.output().elements()).max(1) as f64) as f32
    }
}

/// `total += sums`.
pub fn add(total: &mut [f32], sums: &[f32]) {
    total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
}
