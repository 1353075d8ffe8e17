//! Gradient steps on a whole network, towards probabilities of its classes.

use alloc::{vec, vec::Vec};

use crate::{
    block::Block,
    block_error::BlockError,
    cpu::{Goal, Passes, Target},
    device::Statistics,
    images::Images,
    kernels::norm::Moments,
    op::Op,
    optimizer::Optimizer,
    train::Training,
};

/// Share of a batch's statistics in the running ones (PyTorch's default).
const STATISTICS_RATE: f32 = 0.1;

/// A network in training on the CPU: weights, optimiser state, and every activation of a batch.
#[derive(Debug)]
pub struct NetworkTrainer<'a> {
    training: &'a Training,
    passes: Passes<'a>,
    /// Of each block, in its order.
    weights: Vec<Vec<Vec<f32>>>,
    gradients: Vec<Vec<Vec<f32>>>,
    optimizer: Optimizer,
    step: usize,
}

impl<'a> NetworkTrainer<'a> {
    /// Starts from the blocks' weights; each block takes what the one before it gives, the last gives `[classes, 1, 1]`.
    pub fn new(blocks: &'a [Block], training: &'a Training) -> Self {
        let values = |block: &Block| block.weights().iter().map(|weight| weight.data.clone()).collect();
        let zeros = |block: &Block| block.weights().iter().map(|weight| vec![0.0; weight.data.len()]).collect();
        let sizes = blocks.iter().flat_map(|block| {
            let size = |index: usize| if block.is_trained(index) { block.weights()[index].data.len() } else { 0 };
            (0..block.weights().len()).map(size)
        });
        Self {
            training,
            passes: Passes::new(blocks, true),
            weights: blocks.iter().map(values).collect(),
            gradients: blocks.iter().map(zeros).collect(),
            optimizer: Optimizer::new(training.update, training.weight_decay, sizes),
            step: 0,
        }
    }

    /// One step towards `labels`, batch norms with the statistics of the batch, which their running ones follow; returns the
    /// mean cross-entropy before it.
    ///
    /// # Panics
    /// If the images do not fit the first block, or there are not as many labels.
    pub fn step(&mut self, images: &Images, labels: &[u16]) -> f32 {
        assert_eq!(images.len(), labels.len(), "each image has a label");
        let classes = self.passes.parts.last().map_or(0, |part| part.block.output().channels);
        let mut probabilities = vec![0.0; labels.len() * classes];
        for (image, &label) in probabilities.chunks_exact_mut(classes.max(1)).zip(labels) {
            image[usize::from(label)] = 1.0;
        }
        self.step_towards(images, Target { probabilities: &probabilities, temperature: 1.0, weight: 1.0 }, &[])
    }

    /// One step towards `target`, and each block's output towards its goal where there are any; returns the mean cross-entropy
    /// before it.
    pub(crate) fn step_towards(&mut self, images: &Images, target: Target<'_>, goals: &[Goal]) -> f32 {
        for (part, weights) in self.passes.parts.iter_mut().zip(&self.weights) {
            part.program.set_weights(part.block, |index| &weights[index]);
            part.backward.set_weights(part.block, &part.program, |index| &weights[index]);
        }
        self.passes.prepare(images.len());
        let weights = &mut self.weights;
        self.passes.forward(images, Statistics::Current, |index, part, node, moments| {
            update_running_statistics(part.block, node, moments, &mut weights[index]);
        });
        let loss = self.passes.cross_entropy(target);
        self.passes.backward(Statistics::Current, goals);
        self.gradients.iter_mut().flatten().for_each(|gradient| gradient.fill(0.0));
        self.passes.add_gradients(&mut self.gradients);
        let rate = self.training.schedule.rate(self.training.rate, self.step, self.training.steps);
        let pairs = self.weights.iter_mut().flatten().zip(self.gradients.iter().flatten());
        self.optimizer.step(pairs, rate);
        self.step += 1;
        loss
    }

    /// The blocks with the weights and running statistics reached.
    ///
    /// # Errors
    /// [`BlockError::WeightValue`] if training diverged.
    pub fn finish(self) -> Result<Vec<Block>, BlockError> {
        let finish = |(part, values): (&crate::cpu::Part<'a>, Vec<Vec<f32>>)| {
            let mut weights = part.block.weights().to_vec();
            weights.iter_mut().zip(values).for_each(|(weight, values)| weight.data = values);
            part.block.with_weights(weights)
        };
        self.passes.parts.iter().zip(self.weights).map(finish).collect()
    }
}

/// Moves a batch norm's running mean and (unbiased) variance towards the batch's.
fn update_running_statistics(block: &Block, node: usize, moments: &[Moments], weights: &mut [Vec<f32>]) {
    let Some(node) = block.nodes().get(node).filter(|node| matches!(node.op, Op::BatchNorm(_))) else { return };
    let mut update = |slot: usize, value: &dyn Fn(&Moments) -> f64| {
        for (running, moments) in weights[usize::from(node.weights[slot])].iter_mut().zip(moments) {
            *running += STATISTICS_RATE * (value(moments) as f32 - *running);
        }
    };
    update(2, &|moments| moments.mean);
    update(3, &|moments| moments.scatter / (moments.count - 1.0).max(1.0));
}
