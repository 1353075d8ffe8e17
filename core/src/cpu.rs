//! Blocks on the CPU: forward and backward passes over groups of images, each worker in an arena of its own.
//!
//! A group of images goes through a whole block before the next one starts, so what a pass needs is the arenas of its
//! threads, whatever the batch. Only statistics of the whole batch make it go node by node.

mod backward;
mod gradients;
mod layout;
mod program;

use alloc::{vec, vec::Vec};

pub use self::{
    backward::Backward,
    gradients::CpuGradients,
    program::{Kernel, Program},
};
use crate::{
    images::Images,
    kernels::{
        norm::{Moments, moments},
        parallel::{share, threads},
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
        program.store(arena, output);
        clear_absent(output, input.lanes(index));
    });
}

/// Zeros the lanes past a group's last image.
pub fn clear_absent(group: &mut [Lanes], lanes: usize) {
    if lanes < LANES {
        group.iter_mut().for_each(|x| x.0[lanes..].fill(0.0));
    }
}

/// All nodes on a loaded batch of `count` images, one group an arena, with the statistics of the batch.
pub fn forward_with_current_statistics(program: &mut Program, arenas: &mut [Vec<Lanes>], count: usize) {
    let workers = &mut [(); 64][..threads().clamp(1, 64)];
    for node in 0..program.steps.len() {
        if let Kernel::Norm(_) = program.steps[node].kernel {
            set_current_statistics(program, node, arenas, count);
        }
        share(workers, arenas.iter_mut(), |arena, ()| program.step(node, arena));
    }
}

/// Gives batch norm `node` the moments of its input in this batch.
pub fn set_current_statistics(program: &mut Program, node: usize, arenas: &[Vec<Lanes>], count: usize) {
    let slot = program.steps[node].inputs[0];
    let channels = program.layout.slots.plane(slot).shape.channels;
    let mut groups = vec![Moments::default(); channels * arenas.len()];
    let workers = &mut [(); 64][..threads().clamp(1, 64)];
    let items = groups.chunks_exact_mut(channels).zip(arenas).enumerate();
    share(workers, items, |(index, (found, arena)), ()| {
        let lanes = count.min((index + 1) * LANES) - index * LANES;
        moments(program.arch, program.layout.slots.get(arena, slot), lanes, found);
    });
    // In the order of the groups, whoever measured them.
    let total = |channel: usize| {
        groups.iter().skip(channel).step_by(channels).fold(Moments::default(), |total, group| total.and(*group))
    };
    let total: Vec<Moments> = (0..channels).map(total).collect();
    if let Kernel::Norm(norm) = &mut program.steps[node].kernel {
        norm.set_moments(&total);
    }
}
