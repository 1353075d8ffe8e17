//! First-order optimisers and learning-rate schedules, without std.
//!
//! An optimiser's state belongs to the memory budget: Adam keeps two numbers a weight, momentum one.

use alloc::{vec, vec::Vec};

use crate::recipe::{ADAM_BETA_1, ADAM_BETA_2, ADAM_EPSILON, Update};

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

/// What Adam's two moments are divided by after so many steps, because they began at zero.
pub fn adam_bias(steps: i32) -> [f32; 2] {
    [ADAM_BETA_1, ADAM_BETA_2].map(|beta| 1.0 - libm::powf(beta, steps as f32))
}
