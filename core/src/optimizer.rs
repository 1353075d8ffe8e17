//! First-order optimisers and learning-rate schedules, without std.
//!
//! An optimiser's state belongs to the memory budget: Adam keeps two numbers a weight, momentum one.

use alloc::{vec, vec::Vec};

use serde::Serialize;

/// Which update a step applies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Update {
    /// Kingma & Ba 2015, with β₁ 0.9, β₂ 0.999, ε 1e-8.
    Adam,
    /// `v ← μ·v + g; w ← w − η·v` (PyTorch's form, no Nesterov).
    Momentum {
        /// μ.
        momentum: f32,
    },
}

impl Update {
    /// Momentum of the paper.
    pub const MOMENTUM: Self = Self::Momentum { momentum: 0.9 };

    /// Peak learning rate after a solve, where none is asked for: the best on held-out noise that no block diverges with.
    pub fn default_rate(self) -> f32 {
        match self {
            Self::Adam => 1e-3,
            Self::Momentum { .. } => 3e-2,
        }
    }
}

/// How the learning rate changes over a block's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Schedule {
    /// From the peak to zero along half a cosine.
    Cosine,
    /// Divided by ten after each third of the steps (the paper's ÷10 every 32k of 96k).
    Step,
}

/// How weights are trained: how long, by which rule, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Training {
    /// Gradient steps; 0 leaves the start as it is.
    pub steps: usize,
    /// Inputs a step.
    pub batch: usize,
    /// Update rule.
    pub update: Update,
    /// Learning-rate schedule over the steps.
    pub schedule: Schedule,
    /// Peak learning rate.
    pub rate: f32,
    /// L2 strength.
    pub weight_decay: f32,
    /// Whether held-out noise may end the steps early and chooses the best student on the way.
    pub stop: bool,
}

impl Training {
    /// Steps of Adam down a cosine from its usual rate, without L2.
    pub fn adam(steps: usize, batch: usize) -> Self {
        let (update, schedule) = (Update::Adam, Schedule::Cosine);
        Self { steps, batch, update, schedule, rate: update.default_rate(), weight_decay: 0.0, stop: false }
    }

    /// Whether nothing moves any more: a student that is its teacher.
    pub(crate) fn is_over(&self, loss: f32) -> bool {
        loss == 0.0 && self.weight_decay == 0.0
    }
}

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// An update rule and its state, one entry a tensor.
#[derive(Debug)]
pub struct Optimizer {
    update: Update,
    weight_decay: f32,
    steps: i32,
    first: Vec<Vec<f32>>,
    second: Vec<Vec<f32>>,
}

impl Optimizer {
    /// For tensors of these sizes. `weight_decay` is L2: it is added to the gradient.
    pub fn new(update: Update, weight_decay: f32, sizes: impl Iterator<Item = usize>) -> Self {
        let first: Vec<Vec<f32>> = sizes.map(|size| vec![0.0; size]).collect();
        let second = if update == Update::Adam { first.clone() } else { Vec::new() };
        Self { update, weight_decay, steps: 0, first, second }
    }

    /// Heap bytes of the state for `parameters` scalars in `tensors` tensors.
    pub fn heap_bytes(update: Update, tensors: usize, parameters: usize) -> usize {
        let copies = if update == Update::Adam { 2 } else { 1 };
        copies * (tensors * size_of::<Vec<f32>>() + parameters * size_of::<f32>())
    }

    /// Moves every tensor against its gradient, in the order of the sizes. One of size 0 here stays as it is.
    pub fn step<'a>(&mut self, tensors: impl Iterator<Item = (&'a mut Vec<f32>, &'a Vec<f32>)>, rate: f32) {
        self.steps += 1;
        let decay = self.weight_decay;
        for (index, (weights, gradients)) in tensors.enumerate() {
            let moved = weights.iter_mut().zip(gradients).zip(&mut self.first[index]);
            match self.update {
                Update::Momentum { momentum } => {
                    for ((weight, gradient), velocity) in moved {
                        *velocity = *velocity * momentum + (gradient + *weight * decay);
                        *weight -= *velocity * rate;
                    }
                }
                Update::Adam => {
                    let first_bias = 1.0 - libm::powf(BETA_1, self.steps as f32);
                    let second_bias = 1.0 - libm::powf(BETA_2, self.steps as f32);
                    for (((weight, gradient), first), second) in moved.zip(&mut self.second[index]) {
                        let gradient = gradient + *weight * decay;
                        *first = *first * BETA_1 + gradient * (1.0 - BETA_1);
                        *second = *second * BETA_2 + gradient * gradient * (1.0 - BETA_2);
                        let root = libm::sqrtf(*second / second_bias);
                        *weight -= *first / first_bias * rate / (root + EPSILON);
                    }
                }
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
