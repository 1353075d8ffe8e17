//! What training moves blocks towards: terms of a loss.

use alloc::{vec, vec::Vec};

use crate::{
    engine::{Batch, Device, Engine},
    tensor::Shape,
};

/// The targets of a step: the loss is the sum of these terms.
#[derive(Clone, Copy, Debug, Default)]
pub struct Goals<'a> {
    /// Goals for the blocks' outputs, from the first block on; may be fewer than the blocks.
    pub outputs: &'a [Goal],
    /// Goals for the last output, taken as logits.
    pub classes: &'a [Classes<'a>],
}

/// `weight · ‖S − output‖²` over a batch.
#[derive(Clone, Debug)]
pub struct Goal {
    /// The target for a block's output.
    pub output: Batch,
    /// Weight of the squared distance in the loss.
    pub weight: f32,
}

/// `weight · CE(probabilities, softmax(z / temperature))`, averaged over a batch.
#[derive(Clone, Copy, Debug)]
pub struct Classes<'a> {
    /// Target probabilities: `[N, classes]`.
    pub probabilities: &'a [f32],
    /// Divisor of the logits before the softmax.
    pub temperature: f32,
    /// Weight of the cross-entropy in the loss.
    pub weight: f32,
}

/// Noise on activations in training: a unit learns to bear the errors of those before it (the paper's regularised teacher,
/// fig. 5). Each step, image and value gets its own; a step taken again gets the same.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Disturbance {
    /// σ of the `N(0, σ²)` that is added to every neighbourhood's output; 0 for none.
    pub deviation: f32,
    /// Every random number follows from it.
    pub seed: u64,
}

impl Goal {
    /// An empty goal on `device`.
    pub fn new(device: &Device) -> Self {
        Self { output: Batch::new(device), weight: 0.0 }
    }

    /// An empty goal, weighted for the mean squared error (eq. 4) over batches of `count` outputs of `shape`.
    pub fn mean_squared(shape: Shape, count: usize, engine: &Engine) -> Self {
        Self { weight: 1.0 / (count * shape.elements()).max(1) as f32, ..Self::new(&engine.device) }
    }
}

/// One-hot probabilities of the labels: `[N, classes]`.
///
/// # Panics
/// If a label is not below `classes`.
pub fn one_hot(labels: &[u16], classes: usize) -> Vec<f32> {
    let mut probabilities = vec![0.0; labels.len() * classes];
    for (image, &label) in probabilities.chunks_exact_mut(classes.max(1)).zip(labels) {
        image[usize::from(label)] = 1.0;
    }
    probabilities
}
