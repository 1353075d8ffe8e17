//! Gradient steps on one student block: local loss `L_{i,0}` of the paper (eq. 4).

use alloc::vec::Vec;

use burn::tensor::{Device, Tensor};

use crate::{
    block::{Block, BlockError},
    forward::{DeviceBlock, Statistics, host_values},
    inputs::Inputs,
    kernels::mean_squared_error,
    optimizer::{Optimizer, Schedule, Update},
};

/// How a block is trained after its start from the teacher.
#[derive(Clone, Copy, Debug, PartialEq)]
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
}

/// A student block in training: weights and optimiser state on a device.
#[derive(Debug)]
pub struct BlockTrainer<'a> {
    student: &'a Block,
    training: &'a Training,
    weights: Vec<Tensor<1>>,
    /// Indices of the weights that move: all but running statistics.
    trained: Vec<usize>,
    optimizer: Optimizer,
    tracked: Device,
    step: usize,
}

impl<'a> BlockTrainer<'a> {
    /// Starts from the student's weights.
    pub fn new(student: &'a Block, training: &'a Training, device: &Device) -> Self {
        Self {
            student,
            training,
            weights: DeviceBlock::new(student, device).into_weights(),
            trained: (0..student.weights().len()).filter(|&index| student.is_trained(index)).collect(),
            optimizer: Optimizer::new(training.update, training.weight_decay),
            tracked: device.clone().autodiff(),
            step: 0,
        }
    }

    /// One step towards `target`; returns the mean squared error per element before it.
    ///
    /// # Shapes
    /// - input `[N, C, H, W]` of the block's input shape
    /// - target `[N, C', H', W']` of its output shape
    pub fn step(&mut self, input: Tensor<4>, target: Tensor<4>) -> f32 {
        let lift = |weight: &Tensor<1>| Tensor::from_inner(weight.clone()).to_device(&self.tracked);
        let mut lifted: Vec<Tensor<1>> = self.weights.iter().map(lift).collect();
        for &index in &self.trained {
            lifted[index] = lifted[index].clone().require_grad();
        }
        let leaves: Vec<Tensor<1>> = self.trained.iter().map(|&index| lifted[index].clone()).collect();
        let student = DeviceBlock::with_weights(self.student, lifted);
        let output = student.forward(Tensor::from_inner(input), Statistics::Running);
        let loss = mean_squared_error(output, Tensor::from_inner(target));
        let mut gradients = loss.backward();
        let gradient = |leaf: &Tensor<1>| leaf.grad_remove(&mut gradients).expect("the output depends on every weight");
        let gradients = leaves.iter().map(gradient).collect();
        let rate = self.training.schedule.rate(self.training.rate, self.step, self.training.steps);
        let weights = self.trained.iter().map(|&index| self.weights[index].clone()).collect();
        for (&index, moved) in self.trained.iter().zip(self.optimizer.step(weights, gradients, rate)) {
            self.weights[index] = moved;
        }
        self.step += 1;
        loss.into_scalar()
    }

    /// The student with the weights reached.
    ///
    /// # Errors
    /// [`BlockError::WeightValue`] if training diverged.
    pub fn finish(self) -> Result<Block, BlockError> {
        let mut trained = self.student.weights().to_vec();
        for (weight, values) in trained.iter_mut().zip(self.weights) {
            weight.data = host_values(values);
        }
        self.student.with_weights(trained)
    }
}

/// Trains `student` to reproduce `teacher` on `inputs`; `progress` is called after every step with
/// the step's number (from 1) and its loss.
///
/// # Errors
/// As [`BlockTrainer::finish`].
pub fn train(
    teacher: &DeviceBlock<'_>,
    student: &Block,
    inputs: &Inputs<'_>,
    training: &Training,
    mut progress: impl FnMut(usize, f32),
) -> Result<Block, BlockError> {
    let mut trainer = BlockTrainer::new(student, training, inputs.device);
    let steps = if trainer.trained.is_empty() { 0 } else { training.steps };
    for (step, input) in inputs.epochs(training.batch).take(steps).enumerate() {
        let target = teacher.forward(input.clone(), Statistics::Running);
        progress(step + 1, trainer.step(input, target));
    }
    trainer.finish()
}
