//! Gradient steps on a whole network, towards probabilities of its classes.

use alloc::{vec, vec::Vec};

use crate::{
    block::{Block, BlockError, Statistics, op::Op},
    engine::{
        Images, Optimizer,
        cpu::{Goal, Passes, Target},
    },
    kernels::norm::Moments,
    recipe::Training,
};

/// Share of a batch's statistics in the running ones (PyTorch's default).
const STATISTICS_RATE: f32 = 0.1;

/// A network in training on the CPU: weights, optimiser state, and every activation of a batch.
#[derive(Debug)]
pub struct NetworkTrainer<'a> {
    training: &'a Training,
    passes: Passes<'a>,
    statistics: Statistics,
    /// Of each block, in its order; of those that are not trained there are none.
    weights: Vec<Vec<Vec<f32>>>,
    gradients: Vec<Vec<Vec<f32>>>,
    optimizer: Optimizer,
    step: usize,
}

impl<'a> NetworkTrainer<'a> {
    /// Starts from the blocks' weights; each block takes what the one before it gives, the last gives `[classes, 1, 1]`.
    /// Batch norms work with the statistics of each batch, which their running ones follow.
    pub fn new(blocks: &'a [Block], training: &'a Training) -> Self {
        Self::of_first(blocks.len(), blocks, training, Statistics::Current)
    }

    /// Only the first `trained` blocks learn.
    pub(crate) fn of_first(
        trained: usize,
        blocks: &'a [Block],
        training: &'a Training,
        statistics: Statistics,
    ) -> Self {
        let learners = &blocks[..trained];
        let values = |block: &Block| block.weights().iter().map(|weight| weight.data.clone()).collect();
        let zeros = |block: &Block| block.weights().iter().map(|weight| vec![0.0; weight.data.len()]).collect();
        let sizes = learners.iter().flat_map(|block| {
            let size = |index: usize| if block.is_trained(index) { block.weights()[index].data.len() } else { 0 };
            (0..block.weights().len()).map(size)
        });
        Self {
            training,
            passes: Passes::new(blocks, trained),
            statistics,
            weights: learners.iter().map(values).collect(),
            gradients: learners.iter().map(zeros).collect(),
            optimizer: Optimizer::new(training.update, training.weight_decay, sizes),
            step: 0,
        }
    }

    /// One step towards `labels`; returns the mean cross-entropy before it.
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
        self.forward(images);
        let loss = self.passes.cross_entropy(target);
        self.backward(goals);
        loss
    }

    /// One step of every block's output towards its goal; returns the squared distance of the first's before it.
    pub(crate) fn step_to_goals(&mut self, images: &Images, goals: &[Goal]) -> f64 {
        let Some((last, goals)) = goals.split_last() else { return 0.0 };
        self.forward(images);
        let distance = self.passes.distance(0, goals.first().unwrap_or(last));
        self.passes.pull_last(last);
        self.backward(goals);
        distance
    }

    fn forward(&mut self, images: &Images) {
        for (part, weights) in self.passes.parts.iter_mut().zip(&self.weights) {
            part.program.set_weights(part.block, |index| &weights[index]);
            part.backward.set_weights(part.block, &part.program, |index| &weights[index]);
        }
        self.passes.prepare(images.len());
        let (weights, statistics) = (&mut self.weights, self.statistics);
        self.passes.forward(images, statistics, |index, part, node, moments| {
            if let Some(weights) = weights.get_mut(index).filter(|_| statistics == Statistics::Current) {
                update_running_statistics(part.block, node, moments, weights);
            }
        });
    }

    fn backward(&mut self, goals: &[Goal]) {
        self.passes.backward(self.statistics, goals);
        self.gradients.iter_mut().flatten().for_each(|gradient| gradient.fill(0.0));
        self.passes.add_gradients(&mut self.gradients);
        let rate = self.training.schedule.rate(self.training.rate, self.step, self.training.steps);
        let pairs = self.weights.iter_mut().flatten().zip(self.gradients.iter().flatten());
        self.optimizer.step(pairs, rate);
        self.step += 1;
    }

    /// Weights of the first block, in its order.
    pub(crate) fn first_weights(&self) -> &[Vec<f32>] {
        &self.weights[0]
    }

    /// The blocks that learned, with the weights and running statistics reached.
    ///
    /// # Errors
    /// [`BlockError::WeightValue`] if training diverged.
    pub fn finish(self) -> Result<Vec<Block>, BlockError> {
        let finish = |(part, values): (&crate::engine::cpu::Part<'a>, Vec<Vec<f32>>)| {
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
