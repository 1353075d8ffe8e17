//! First-order optimisers and learning-rate schedules, without std.
//!
//! An optimiser's state counts towards the memory budget: Adam keeps two numbers per weight, momentum one.

use alloc::{vec, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::recipe::{ADAM_BETA_1, ADAM_BETA_2, ADAM_EPSILON, Update};

/// An update rule and its state, one entry per tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    update: Update,
    weight_decay: f32,
    steps: i32,
    first: Vec<Vec<f32>>,
    second: Vec<Vec<f32>>,
}

impl Optimizer {
    /// Creates the state for tensors of these sizes. `weight_decay` is L2: it is added to the gradient.
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

    /// Whether this is the state of the same rule for tensors of the same sizes, and finite.
    pub fn continues(&self, start: &Self) -> bool {
        let sizes = |tensors: &[Vec<f32>]| tensors.iter().map(Vec::len).collect::<Vec<_>>();
        let finite = self.first.iter().chain(&self.second).flatten().all(|value| value.is_finite());
        (self.update, self.weight_decay) == (start.update, start.weight_decay)
            && sizes(&self.first) == sizes(&start.first)
            && sizes(&self.second) == sizes(&start.second)
            && self.steps >= 0
            && finite
    }

    /// Forgets what it holds of the weights of a tensor that are zero.
    pub fn forget(&mut self, tensor: usize, weights: &[f32]) {
        for state in [self.first.get_mut(tensor), self.second.get_mut(tensor)].into_iter().flatten() {
            state.iter_mut().zip(weights).filter(|(_, weight)| **weight == 0.0).for_each(|(held, _)| *held = 0.0);
        }
    }

    /// Updates every tensor, in the order of the sizes. Tensors declared with size 0 stay unchanged.
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
                    let [first_bias, second_bias] = adam_bias(self.steps);
                    for (((weight, gradient), first), second) in moved.zip(&mut self.second[index]) {
                        let gradient = gradient + *weight * decay;
                        *first = *first * ADAM_BETA_1 + gradient * (1.0 - ADAM_BETA_1);
                        *second = *second * ADAM_BETA_2 + gradient * gradient * (1.0 - ADAM_BETA_2);
                        let root = libm::sqrtf(*second / second_bias);
                        *weight -= *first / first_bias * rate / (root + ADAM_EPSILON);
                    }
                }
            }
        }
    }
}

/// Bias corrections of Adam's two moments after `steps` steps: the divisors that undo their start at zero.
pub fn adam_bias(steps: i32) -> [f32; 2] {
    [ADAM_BETA_1, ADAM_BETA_2].map(|beta| 1.0 - libm::powf(beta, steps as f32))
}
