//! Blocks on the CPU: forward and backward passes over groups of images, each worker in an arena of its own.
//!
//! A group of images goes through a whole block before the next one starts, so what a pass needs is the arenas of its
//! threads, whatever the batch. Only statistics of the whole batch make it stop, at each batch norm.

mod backward;
mod gradients;
mod layout;
mod program;

use alloc::vec::Vec;

pub use self::{
    backward::Backward,
    gradients::{CpuGradients, PIECES, add},
    program::Program,
};
use crate::{
    images::Images,
    kernels::{
        elementwise::Write,
        norm::Moments,
        parallel::{each, share, threads},
        plane::{LANES, Lanes},
    },
};

/// Arenas that outlive a pass, so that the next one allocates nothing.
#[derive(Debug, Default)]
pub struct Workspace {
    arenas: Vec<Vec<Lanes>>,
}

impl Workspace {
    /// `count` arenas of at least `len` vectors; what they hold is left over.
    pub fn arenas(&mut self, count: usize, len: usize) -> &mut [Vec<Lanes>] {
        if self.arenas.len() < count {
            self.arenas.resize_with(count, Vec::new);
        }
        let arenas = &mut self.arenas[..count];
        for arena in arenas.iter_mut().filter(|arena| arena.len() < len) {
            // A fresh one, because resizing would hold old and new at once.
            *arena = Vec::new();
            arena.resize(len, Lanes::ZERO);
        }
        arenas
    }

    /// One arena for each thread that `groups` groups of images can keep busy.
    pub fn workers(&mut self, groups: usize, len: usize) -> &mut [Vec<Lanes>] {
        self.arenas(threads().min(groups), len)
    }
}

/// The last value of each image, with running statistics.
pub fn forward(program: &Program, input: &Images, output: &mut Images, workspace: &mut Workspace) {
    let workers = workspace.workers(input.groups().len(), program.arena());
    share(workers, output.groups_mut().enumerate(), |(index, output), arena| {
        program.load(arena, input.plane(index));
        program.forward(arena);
        program.store(arena, output, input.lanes(index));
    });
}

/// Zeros the images of a group past its last.
pub fn clear_absent((values, plane): Write<'_>, lanes: usize) {
    if lanes < LANES {
        for row in plane.rows() {
            values[row..row + plane.shape.width].iter_mut().for_each(|x| x.0[lanes..].fill(0.0));
        }
    }
}

/// All nodes on a loaded batch of `count` images, one group an arena, with the statistics of the batch.
pub fn forward_with_current_statistics(program: &mut Program, arenas: &mut [Vec<Lanes>], count: usize) {
    let mut found = Vec::new();
    for nodes in program.segments() {
        // After the last node there are none; the places keep the arenas company all the same.
        let channels = program.norm_channels(nodes.end).max(1);
        found.resize(channels * arenas.len(), Moments::default());
        let items = arenas.iter_mut().zip(found.chunks_exact_mut(channels)).enumerate();
        let here = &*program;
        each(items, |(index, (arena, found))| {
            nodes.clone().for_each(|node| here.step(node, arena));
            here.moments(nodes.end, arena, LANES.min(count - index * LANES), found);
        });
        program.set_moments(nodes.end, &found);
    }
}
