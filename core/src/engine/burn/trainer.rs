//! Training on a Burn device: weights, gradients and optimiser state stay there as tensors.

use alloc::{borrow::Cow, vec, vec::Vec};

use burn::tensor::{Device, Tensor, TensorData, activation::log_softmax};

use super::{BurnBatch, download, forward, weights_of};
use crate::{
    block::{
        Block, Role, Statistics,
        op::{Op, burn::moments},
    },
    engine::{
        Classes, Disturbance, Goals, Learners,
        batch::{Backend, OTHER_DEVICE},
        cpu::STATISTICS_RATE,
        optimizer::adam_bias,
    },
    recipe::{ADAM_BETA_1, ADAM_BETA_2, ADAM_EPSILON, Training, Update},
    stream::{Purpose, Stream},
};

/// See [`Trainer`](crate::engine::Trainer).
#[derive(Debug)]
pub struct BurnTrainer {
    /// Graphs and names, without weight values.
    blocks: Vec<Block>,
    learners: Learners,
    training: Training,
    disturbance: Disturbance,
    device: Device,
    /// The weights of each block, in the block's order.
    weights: Vec<Vec<Tensor<1>>>,
    /// The trained weights of all blocks, in order, with their optimiser state.
    states: Vec<State>,
    /// Images in the current batch, and steps taken.
    count: usize,
    steps: i32,
    /// The squared distance of each block's output from its goal, then the cross-entropy.
    errors: Vec<Tensor<1>>,
}

/// A trained weight.
#[derive(Debug)]
struct State {
    block: usize,
    weight: usize,
    gradient: Tensor<1>,
    first: Tensor<1>,
    second: Tensor<1>,
}

impl BurnTrainer {
    pub fn new(mut blocks: Vec<Block>, learners: Learners, training: &Training, device: &Device) -> Self {
        let weights: Vec<Vec<Tensor<1>>> = blocks.iter().map(|block| weights_of(block, device)).collect();
        let mut states = Vec::new();
        for (block, weights) in weights.iter().enumerate().take(learners.count) {
            for (weight, values) in weights.iter().enumerate().filter(|&(weight, _)| blocks[block].is_trained(weight)) {
                let zeros = values.zeros_like();
                states.push(State { block, weight, gradient: zeros.clone(), first: zeros.clone(), second: zeros });
            }
        }
        let errors = (0..=blocks.len()).map(|_| zero(device)).collect();
        blocks.iter_mut().for_each(|block| drop(block.take_values()));
        let (training, device) = (*training, device.clone());
        let disturbance = Disturbance::default();
        Self { blocks, learners, training, disturbance, device, weights, states, count: 0, steps: 0, errors }
    }

    pub fn disturb(&mut self, disturbance: Disturbance) {
        self.disturbance = disturbance;
    }

    pub fn begin(&mut self, count: usize, _step: usize) {
        self.count = count;
        self.states.iter_mut().for_each(|state| state.gradient = state.gradient.zeros_like());
        self.errors.iter_mut().for_each(|error| *error = zero(&self.device));
    }

    pub fn add(&mut self, input: &BurnBatch, goals: Goals<'_>) {
        let statistics = self.learners.statistics;
        let stops = self.blocks.iter().any(Block::has_statistics) && statistics == Statistics::Current;
        assert!(!stops || input.len() == self.count, "statistics of a batch are of the whole batch");
        let mut weights = self.weights.clone();
        for State { block, weight, .. } in &self.states {
            let leaf = &mut weights[*block][*weight];
            *leaf = leaf.clone().autodiff().require_grad();
        }
        let (mut value, mut loss) = (input.tensor(), zero(&self.device).autodiff());
        for (index, block) in self.blocks.iter().enumerate() {
            let running = &mut self.weights[index];
            let mut observe = |node: usize, input: &Tensor<4>| {
                if statistics == Statistics::Current {
                    update_running_statistics(block, node, input, running);
                }
            };
            value = forward(block, block.nodes().len(), &weights[index], value, statistics, &mut observe);
            let before = value.clone();
            if self.disturbance.deviation > 0.0 && block.role() == Role::Neighbourhood && index + 1 < self.blocks.len()
            {
                value = value + self.noise(index, before.dims());
            }
            let Some(goal) = goals.outputs.get(index) else { continue };
            let Backend::Burn(output) = &goal.output.0 else { panic!("{OTHER_DEVICE}") };
            let distance = (before - output.tensor()).square().sum();
            self.errors[index] = self.errors[index].clone() + distance.clone().inner();
            loss = loss + distance * goal.weight;
        }
        for &Classes { probabilities, temperature, weight } in goals.classes {
            let dims = [input.len(), probabilities.len() / input.len()];
            let wanted = Tensor::<2>::from_data(TensorData::new(probabilities.to_vec(), dims), &self.device);
            let entropy = -(log_softmax(value.clone().reshape(dims) / temperature, 1) * wanted).sum() * weight;
            let last = self.blocks.len();
            self.errors[last] = self.errors[last].clone() + entropy.clone().inner();
            loss = loss + entropy / self.count as f32;
        }
        let mut found = loss.backward();
        for State { block, weight, gradient, .. } in &mut self.states {
            if let Some(here) = weights[*block][*weight].grad_remove(&mut found) {
                *gradient = gradient.clone() + here;
            }
        }
    }

    /// What disturbs the output of a block in this step.
    fn noise(&self, block: usize, dims: [usize; 4]) -> Tensor<4> {
        let Disturbance { deviation, seed } = self.disturbance;
        let mut values = vec![0.0; dims.iter().product()];
        let index = ((self.steps as usize) << 24) ^ block;
        Stream::new(seed, Purpose::Disturb, index).disturb(deviation, &mut values);
        Tensor::from_data(TensorData::new(values, dims), &self.device).autodiff()
    }

    pub fn update(&mut self, rate: f32) {
        self.steps += 1;
        let Training { update, weight_decay, .. } = self.training;
        let [first_bias, second_bias] = adam_bias(self.steps);
        for State { block, weight, gradient, first, second } in &mut self.states {
            let is_kernel = self.blocks[*block].weights()[*weight].is_kernel();
            let weight = &mut self.weights[*block][*weight];
            let mut gradient = gradient.clone() + weight.clone() * weight_decay;
            if is_kernel {
                gradient = gradient * weight.clone().not_equal_elem(0.0).float();
            }
            let step = match update {
                Update::Momentum { momentum } => {
                    *first = first.clone() * momentum + gradient;
                    first.clone()
                }
                Update::Adam => {
                    *first = first.clone() * ADAM_BETA_1 + gradient.clone() * (1.0 - ADAM_BETA_1);
                    *second = second.clone() * ADAM_BETA_2 + gradient.square() * (1.0 - ADAM_BETA_2);
                    (first.clone() / first_bias) / ((second.clone() / second_bias).sqrt() + ADAM_EPSILON)
                }
            };
            *weight = weight.clone() - step * rate;
        }
    }

    pub fn prune(&mut self, weight: usize, change: impl FnOnce(&mut [f32])) {
        let mut values = download(self.weights[0][weight].clone());
        change(&mut values);
        let pruned = Tensor::from_data(TensorData::new(values, [self.weights[0][weight].dims()[0]]), &self.device);
        let stays = pruned.clone().not_equal_elem(0.0).float();
        self.weights[0][weight] = pruned;
        for state in self.states.iter_mut().filter(|state| (state.block, state.weight) == (0, weight)) {
            state.first = state.first.clone() * stays.clone();
            state.second = state.second.clone() * stays.clone();
        }
    }

    pub fn distance(&self, block: usize) -> f64 {
        f64::from(self.errors[block].clone().into_scalar::<f32>())
    }

    pub fn cross_entropy(&self) -> f32 {
        let total: f32 = self.errors[self.blocks.len()].clone().into_scalar();
        total / self.count.max(1) as f32
    }

    pub fn gradient(&self, weight: usize) -> Cow<'_, [f32]> {
        let state = self.states.iter().find(|state| (state.block, state.weight) == (0, weight));
        Cow::Owned(state.map_or_else(Vec::new, |state| download(state.gradient.clone())))
    }

    pub fn block(&self, index: usize) -> (&Block, Vec<Vec<f32>>) {
        (&self.blocks[index], self.weights[index].iter().cloned().map(download).collect())
    }

    pub fn into_parts(self) -> (Vec<Block>, Vec<Vec<f32>>) {
        let trained = self.weights.into_iter().take(self.learners.count);
        (self.blocks, trained.flatten().map(download).collect())
    }
}

fn zero(device: &Device) -> Tensor<1> {
    Tensor::zeros([1], device)
}

/// Updates a batch norm's running mean and (unbiased) variance from its input batch.
fn update_running_statistics(block: &Block, node: usize, input: &Tensor<4>, weights: &mut [Tensor<1>]) {
    let node = &block.nodes()[node];
    if !matches!(node.op, Op::BatchNorm(_)) {
        return;
    }
    let [n, _, h, w] = input.dims();
    let values = (n * h * w) as f32;
    let [mean, variance] = moments(&input.clone().inner());
    let unbiased = variance * (values / (values - 1.0).max(1.0));
    for (slot, found) in [(2, mean), (3, unbiased)] {
        let running = &mut weights[usize::from(node.weights[slot])];
        *running = running.clone() + (found - running.clone()) * STATISTICS_RATE;
    }
}
