//! Magnitude pruning in the course of a training (Zhu & Gupta 2017).

use alloc::vec::Vec;

use crate::{
    block::Block,
    engine::Trainer,
    recipe::{Recipe, Sparsity},
    student::Kernel,
};

/// Times at which weights go.
const CUTS: usize = 100;

/// Removes the smallest weights of a block over the first half of its steps: after step `t` of `n` a share `s (1 − (1 − t/n)³)`.
#[derive(Debug)]
pub struct Ramp {
    kernels: Vec<(usize, Kernel, Sparsity)>,
    steps: usize,
}

impl Ramp {
    /// For a training of `recipe.training.steps` steps.
    ///
    /// `None` if it removes nothing: with a solve, which chose better ones, or without a sparsity.
    pub fn new(student: &Block, recipe: &Recipe) -> Option<Self> {
        let pruned = if recipe.solve { Vec::new() } else { recipe.pruned(student) };
        let kernel = |(node, sparsity): (usize, Sparsity)| {
            (student.nodes()[node].weights[0].into(), Kernel::of(student, node), sparsity)
        };
        let kernels: Vec<_> = pruned.into_iter().map(kernel).collect();
        (!kernels.is_empty()).then_some(Self { kernels, steps: (recipe.training.steps / 2).max(1) })
    }

    /// Removes what is due after `step` (from 1).
    pub(crate) fn cut(&self, step: usize, trainer: &mut Trainer) {
        let is_due = step.is_multiple_of(self.steps.div_ceil(CUTS)) || step == self.steps;
        if step > self.steps || !is_due {
            return;
        }
        let left = 1.0 - step as f32 / self.steps as f32;
        for &(weight, kernel, sparsity) in &self.kernels {
            trainer.prune(weight, |values| kernel.prune(sparsity, 1.0 - left * left * left, values));
        }
    }

    /// Heap bytes while it removes.
    pub(crate) fn bytes(&self) -> u64 {
        let kernels = self.kernels.iter().map(|(_, kernel, sparsity)| kernel.pruning_bytes(sparsity.pattern));
        (self.kernels.capacity() * size_of::<(usize, Kernel, Sparsity)>()) as u64 + kernels.max().unwrap_or(0)
    }
}
