//! First-order optimisers and learning-rate schedules, without std.
//!
//! Ours because `burn-optim` needs std, and because an optimiser's state belongs to the memory
//! budget: Adam keeps two tensors a weight, momentum one.

use alloc::vec::Vec;

use burn::tensor::Tensor;

/// Which update a step applies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Update {
    /// Kingma & Ba 2015, with β₁ 0.9, β₂ 0.999, ε 1e-8.
    Adam,
    /// `v ← μ·v + g; w ← w − η·v` (PyTorch's form, no Nesterov).
    Momentum {
        /// μ, 0.9 in the paper.
        momentum: f32,
    },
}

/// How the learning rate changes over a block's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// From the peak to zero along half a cosine.
    Cosine,
    /// Divided by ten after each third of the steps (the paper's ÷10 every 32k of 96k).
    Step,
}

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// An update rule and its state, one entry a weight.
#[derive(Debug)]
pub struct Optimizer {
    update: Update,
    weight_decay: f32,
    steps: i32,
    first: Vec<Tensor<1>>,
    second: Vec<Tensor<1>>,
}

impl Optimizer {
    /// `weight_decay` is L2: it is added to the gradient.
    pub fn new(update: Update, weight_decay: f32) -> Self {
        Self { update, weight_decay, steps: 0, first: Vec::new(), second: Vec::new() }
    }

    /// New values of all weights from their gradients, in the same order.
    pub fn step(&mut self, weights: Vec<Tensor<1>>, gradients: Vec<Tensor<1>>, rate: f32) -> Vec<Tensor<1>> {
        if self.steps == 0 {
            self.first = gradients.iter().map(Tensor::zeros_like).collect();
            if self.update == Update::Adam {
                self.second = self.first.clone();
            }
        }
        self.steps += 1;
        let pairs = weights.into_iter().zip(gradients).enumerate();
        pairs.map(|(index, (weight, gradient))| self.update_one(index, weight, gradient, rate)).collect()
    }

    fn update_one(&mut self, index: usize, weight: Tensor<1>, gradient: Tensor<1>, rate: f32) -> Tensor<1> {
        let gradient = if self.weight_decay > 0.0 { gradient + weight.clone() * self.weight_decay } else { gradient };
        match self.update {
            Update::Momentum { momentum } => {
                let velocity = self.first[index].clone() * momentum + gradient;
                self.first[index] = velocity.clone();
                weight - velocity * rate
            }
            Update::Adam => {
                let first = self.first[index].clone() * BETA_1 + gradient.clone() * (1.0 - BETA_1);
                let second = self.second[index].clone() * BETA_2 + gradient.square() * (1.0 - BETA_2);
                self.first[index] = first.clone();
                self.second[index] = second.clone();
                let unbiased_first = first / (1.0 - libm::powf(BETA_1, self.steps as f32));
                let unbiased_second = second / (1.0 - libm::powf(BETA_2, self.steps as f32));
                weight - unbiased_first * rate / (unbiased_second.sqrt() + EPSILON)
            }
        }
    }
}

impl Schedule {
    /// Learning rate of `step` (from 0) of `steps`.
    pub fn rate(self, peak: f32, step: usize, steps: usize) -> f32 {
        let progress = step as f32 / steps.max(1) as f32;
        match self {
            Self::Cosine => peak * 0.5 * (1.0 + libm::cosf(core::f32::consts::PI * progress)),
            Self::Step => peak * libm::powf(0.1, libm::floorf(3.0 * progress)),
        }
    }
}
