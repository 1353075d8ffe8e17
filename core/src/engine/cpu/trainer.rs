//! Training on the CPU: the passes with weights, gradients and optimiser state.

use alloc::{borrow::Cow, vec, vec::Vec};

use super::{Feed, Groups, Norms, Passes, Stop, Workspace};
use crate::{
    block::{Block, op::Op},
    engine::{Disturbance, Goals, Learners, Optimizer},
    heap::held,
    kernels::norm::Moments,
    recipe::Training,
};

/// Weight of a batch in the running statistics (PyTorch's default).
pub const STATISTICS_RATE: f32 = 0.1;

/// See [`Trainer`](crate::engine::Trainer).
#[derive(Debug)]
pub struct CpuTrainer {
    /// Graphs and names, without weight values.
    blocks: Vec<Block>,
    passes: Passes,
    norms: Norms,
    /// The weights of all trained blocks, in order.
    weights: Vec<Vec<f32>>,
    gradients: Vec<Vec<f32>>,
    optimizer: Optimizer,
}

/// The heap use of a trainer.
#[derive(Debug)]
pub struct TrainerBytes {
    passes: Passes,
    /// Blocks, weights, gradients and optimiser state.
    state: usize,
}

impl CpuTrainer {
    pub fn new(mut blocks: Vec<Block>, learners: Learners, training: &Training) -> Self {
        let norms = Norms::from(learners.statistics);
        let passes = Passes::new(&blocks, learners.count, norms);
        let sizes = blocks[..learners.count].iter().flat_map(|block| {
            let size = |index: usize| if block.is_trained(index) { block.weights()[index].data.len() } else { 0 };
            (0..block.weights().len()).map(size)
        });
        let optimizer = Optimizer::new(training.update, training.weight_decay, sizes);
        // The passes hold packed copies of the other blocks' weights.
        let mut values: Vec<Vec<Vec<f32>>> = blocks.iter_mut().map(Block::take_values).collect();
        values.truncate(learners.count);
        let weights: Vec<Vec<f32>> = values.into_iter().flatten().collect();
        let gradients = weights.iter().map(|weight| vec![0.0; weight.len()]).collect();
        Self { blocks, passes, norms, weights, gradients, optimizer }
    }

    pub fn disturb(&mut self, disturbance: Disturbance) {
        self.passes.disturb(&self.blocks, disturbance);
    }

    pub fn begin(&mut self, count: usize, step: usize) {
        self.passes.set_weights(&self.blocks, &self.weights);
        self.gradients.iter_mut().for_each(|gradient| gradient.fill(0.0));
        self.passes.begin(count, step);
    }

    pub fn add(&mut self, images: &Groups, goals: Goals<'_>, waits: bool, workspace: &mut Workspace) {
        let Self { blocks, passes, norms, weights, gradients, .. } = self;
        let observe = &mut |Stop { block, stage, node, moments }: Stop<'_>| {
            if *norms == Norms::Current {
                update_running_statistics(block, node, moments, &mut weights[stage.weights..]);
            }
        };
        passes.add(blocks, Feed { images, goals, waits, slopes: None, observe }, workspace, gradients);
    }

    /// Takes a step. What a kernel has no weight for stays zero.
    pub fn update(&mut self, rate: f32) {
        let learning = self.blocks.iter().flat_map(Block::weights);
        for ((weight, values), gradients) in learning.zip(&self.weights).zip(&mut self.gradients) {
            if weight.is_kernel() {
                values
                    .iter()
                    .zip(gradients)
                    .filter(|(value, _)| **value == 0.0)
                    .for_each(|(_, gradient)| *gradient = 0.0);
            }
        }
        self.optimizer.step(self.weights.iter_mut().zip(&self.gradients), rate);
    }

    /// Changes a kernel of the first block. Its zeros stay.
    pub fn prune(&mut self, weight: usize, change: impl FnOnce(&mut [f32])) {
        change(&mut self.weights[weight]);
        self.optimizer.forget(weight, &self.weights[weight]);
    }

    /// Weights and optimiser state, which are all that lasts from one step to the next.
    pub fn state(&self) -> (&[Vec<f32>], &Optimizer) {
        (&self.weights, &self.optimizer)
    }

    /// Continues from a state of the same training; returns whether it is one.
    pub fn restore(&mut self, weights: Vec<Vec<f32>>, optimizer: Optimizer) -> bool {
        let fits = weights.len() == self.weights.len()
            && weights.iter().zip(&self.weights).all(|(weight, start)| weight.len() == start.len())
            && weights.iter().flatten().all(|value| value.is_finite())
            && optimizer.continues(&self.optimizer);
        if fits {
            (self.weights, self.optimizer) = (weights, optimizer);
        }
        fits
    }

    pub fn distance(&self, block: usize) -> f64 {
        self.passes.distances()[block]
    }

    pub fn cross_entropy(&self) -> f32 {
        self.passes.cross_entropy()
    }

    pub fn gradient(&self, weight: usize) -> Cow<'_, [f32]> {
        Cow::Borrowed(&self.gradients[weight])
    }

    /// Graph and weights of a trained block.
    pub fn block(&self, index: usize) -> (&Block, Vec<Vec<f32>>) {
        let first: usize = self.blocks[..index].iter().map(|block| block.weights().len()).sum();
        let block = &self.blocks[index];
        (block, self.weights[first..][..block.weights().len()].to_vec())
    }

    /// The graphs of the blocks, and the weights of the trained ones.
    pub fn into_parts(self) -> (Vec<Block>, Vec<Vec<f32>>) {
        (self.blocks, self.weights)
    }

    /// Predicts the heap use of a trainer of `blocks`.
    pub fn bytes(blocks: &[Block], learners: Learners, training: &Training) -> TrainerBytes {
        let learning = &blocks[..learners.count];
        let graphs = blocks.iter().map(Block::graph_bytes).sum::<usize>() + size_of_val(blocks);
        let tensors: usize = learning.iter().map(|block| block.weights().len()).sum();
        let values: usize = learning.iter().flat_map(Block::weights).map(|weight| held(&weight.data)).sum();
        let parameters = learning.iter().map(Block::parameters).sum();
        let state = graphs
            + 2 * (tensors * size_of::<Vec<f32>>() + values)
            + Optimizer::heap_bytes(training.update, tensors, parameters);
        TrainerBytes { passes: Passes::new(blocks, learners.count, Norms::from(learners.statistics)), state }
    }
}

impl TrainerBytes {
    /// Heap bytes for batches of `count` images in parts of `part`, excluding arenas.
    pub fn held(&self, count: usize, part: usize) -> u64 {
        (self.state + self.passes.heap_bytes(count, part) + size_of::<CpuTrainer>()) as u64
    }

    /// Vectors per arena.
    pub fn arena(&self) -> usize {
        self.passes.arena()
    }
}

/// Updates a batch norm's running mean and (unbiased) variance. `weights` start with the block's.
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
