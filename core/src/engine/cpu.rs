//! Blocks on the CPU: forward and backward passes over groups of images, with one arena per worker.
//!
//! A group of images goes through a whole block before the next group starts, so a pass needs one arena per thread,
//! independent of the batch size. Only batch norms with batch statistics make the groups wait for each other.

mod backward;
mod groups;
mod layout;
mod passes;
mod program;
mod sequence;
mod trainer;

use alloc::{vec, vec::Vec};
use core::{convert::Infallible, ops::Range};

#[cfg(feature = "burn")]
pub use self::trainer::STATISTICS_RATE;
pub use self::{
    backward::Backward,
    groups::{Groups, energy, from_lanes, to_lanes},
    passes::{Feed, Norms, Passes, Stop},
    program::{Program, ProgramBytes},
    trainer::{CpuTrainer, TrainerBytes},
};
use crate::{
    block::Statistics,
    kernels::{
        elementwise::Write,
        norm::Moments,
        parallel::{each, share, threads},
        plane::{LANES, Lanes},
    },
};

/// Arenas that are reused by the next pass, so that it allocates nothing.
#[derive(Debug)]
pub struct Workspace {
    arenas: Vec<Vec<Lanes>>,
    /// Maximum number of arenas, independent of the number of threads.
    most: usize,
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Workspace {
    /// A workspace for at most `most` groups of images at a time.
    pub fn new(most: usize) -> Self {
        Self { arenas: Vec::new(), most }
    }

    /// Heap bytes of at most `most` arenas of `arena` vectors each, for passes over `images` images at a time.
    pub fn bytes(most: usize, images: usize, arena: usize) -> u64 {
        most.min(images.div_ceil(LANES)) as u64 * (arena * size_of::<Lanes>()) as u64
    }

    /// Returns `count` arenas of at least `len` vectors, with unspecified content.
    pub fn arenas(&mut self, count: usize, len: usize) -> &mut [Vec<Lanes>] {
        if self.arenas.len() < count {
            self.arenas.resize_with(count, Vec::new);
        }
        let arenas = &mut self.arenas[..count];
        for arena in arenas.iter_mut().filter(|arena| arena.len() < len) {
            // Allocate anew: resizing would hold old and new at once.
            *arena = Vec::new();
            *arena = vec![Lanes::ZERO; len];
        }
        arenas
    }

    /// Returns `waiting` arenas, one per waiting group, and one for each thread that `pieces` pieces of work keep busy.
    pub fn split(&mut self, waiting: usize, pieces: usize, len: usize) -> Arenas<'_> {
        let workers = threads().min(pieces).min(self.most);
        let (waiting, workers) = self.arenas(waiting + workers, len).split_at_mut(waiting);
        Arenas { waiting, workers }
    }

    /// Returns one arena for each thread that `groups` groups of images keep busy.
    pub fn workers(&mut self, groups: usize, len: usize) -> &mut [Vec<Lanes>] {
        self.arenas(threads().min(groups).min(self.most), len)
    }
}

/// See [`Workspace::split`].
pub struct Arenas<'a> {
    pub waiting: &'a mut [Vec<Lanes>],
    pub workers: &'a mut [Vec<Lanes>],
}

/// Computes the last value of each image, with running statistics.
pub fn forward(program: &Program, input: &Groups, output: &mut Groups, workspace: &mut Workspace) {
    let workers = workspace.workers(input.groups().len(), program.arena());
    share(workers, output.groups_mut().enumerate(), |(index, output), arena| {
        program.load(arena, input.plane(index));
        program.forward(arena);
        program.store(arena, output, input.lanes(index));
    });
}

/// Computes the last value of each image with the statistics of the batch.
pub fn forward_current(mut program: Program, input: &Groups, output: &mut Groups, workspace: &mut Workspace) {
    let arenas = workspace.arenas(input.groups().len(), program.arena());
    let pass = BatchPass { count: input.len(), backwards: false, statistics: Statistics::Current };
    let Ok(()) = pass.run(&mut program, arenas, |program, arenas, transfer| {
        match transfer {
            Transfer::Load(groups) => {
                each(arenas.iter_mut().zip(groups), |(arena, group)| program.load(arena, input.plane(group)));
            }
            Transfer::Store(groups) => {
                let targets = output.groups_mut().skip(groups.start);
                each(arenas.iter().zip(targets).zip(groups), |((arena, target), group)| {
                    program.store(arena, target, input.lanes(group));
                });
            }
        }
        Ok::<(), Infallible>(())
    });
}

/// Zeros the lanes of a group after its first `lanes` images.
pub fn clear_absent((values, plane): Write<'_>, lanes: usize) {
    if lanes < LANES {
        for row in plane.rows() {
            values[row..row + plane.shape.width].iter_mut().for_each(|x| x.0[lanes..].fill(0.0));
        }
    }
}

/// A forward pass of a batch through a block.
///
/// With batch statistics each batch norm waits for the whole batch. Groups stay in their arenas if each has one;
/// otherwise every group is recomputed from its input for each batch norm, with bit-identical results.
#[derive(Clone, Copy, Debug)]
pub struct BatchPass {
    /// Images in the batch.
    pub count: usize,
    /// Whether the last groups are stored first: needed if larger outputs overwrite the inputs.
    pub backwards: bool,
    /// The source of the batch norms' mean and variance.
    pub statistics: Statistics,
}

/// A transfer that a [`BatchPass`] requests for these groups, one per arena.
#[derive(Clone, Debug)]
pub enum Transfer {
    /// Load the groups' inputs into the arenas.
    Load(Range<usize>),
    /// Store the groups' last values.
    Store(Range<usize>),
}

impl BatchPass {
    /// Runs all nodes; afterwards `program` holds the statistics that were used.
    ///
    /// # Errors
    /// The errors of `transfer`.
    pub fn run<E>(
        self,
        program: &mut Program,
        arenas: &mut [Vec<Lanes>],
        mut transfer: impl FnMut(&Program, &mut [Vec<Lanes>], Transfer) -> Result<(), E>,
    ) -> Result<(), E> {
        let (groups, held) = (self.count.div_ceil(LANES), arenas.len());
        let (kept, sets) = (held >= groups, groups.div_ceil(held.max(1)));
        let segments = match self.statistics {
            Statistics::Current => program.segments(),
            Statistics::Running => core::iter::once(0..program.steps.len()).collect(),
        };
        let most = segments.iter().map(|nodes| program.norm_channels(nodes.end)).max().unwrap_or(0);
        let (mut found, mut total) = (Vec::with_capacity(most.max(1) * groups), Vec::with_capacity(most));
        for nodes in segments {
            let channels = program.norm_channels(nodes.end);
            // After the last node there are no moments; one unused entry per group keeps the iterators aligned.
            found.resize(channels.max(1) * groups, Moments::default());
            let here = &*program;
            for set in 0..sets {
                let set = if self.backwards { sets - 1 - set } else { set };
                let set = set * held..groups.min((set + 1) * held);
                let arenas = &mut arenas[..set.len()];
                let start = if kept { nodes.start } else { 0 };
                if start == 0 {
                    transfer(here, arenas, Transfer::Load(set.clone()))?;
                }
                let found = found.chunks_exact_mut(channels.max(1)).skip(set.start);
                each(arenas.iter_mut().zip(found).zip(set.clone()), |((arena, found), group)| {
                    (start..nodes.end).for_each(|node| here.step(node, arena));
                    here.moments(nodes.end, arena, LANES.min(self.count - group * LANES), found);
                });
                if channels == 0 {
                    transfer(here, arenas, Transfer::Store(set))?;
                }
            }
            program.total(nodes.end, found.chunks_exact(channels.max(1)), &mut total);
            program.set_moments(nodes.end, &total);
        }
        Ok(())
    }
}
