//! Gradient steps on one student block: local loss `L_{i,0}` of the paper (eq. 4).

use alloc::vec::Vec;

use burn::tensor::{Device, Tensor};

use crate::{
    block::{Block, BlockError},
    forward::{DeviceBlock, Statistics, host_values},
    inputs::Inputs,
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

/// Trains `student` to reproduce `teacher` on `inputs`; `progress` is called after every step with
/// the step's number (from 1) and its loss, the mean squared error per element.
///
/// # Errors
/// As [`Block::new`]; weights that training made non-finite are not an error here, the report shows them.
pub fn train(
    teacher: &DeviceBlock<'_>,
    student: Block,
    inputs: &Inputs<'_>,
    (training, seed): (&Training, u64),
    device: &Device,
    mut progress: impl FnMut(usize, f32),
) -> Result<Block, BlockError> {
    if training.steps == 0 {
        return Ok(student);
    }
    let tracked = device.clone().autodiff();
    let mut weights = DeviceBlock::new(&student, device).into_weights();
    let mut optimizer = Optimizer::new(training.update, training.weight_decay);
    for (step, input) in inputs.epochs(seed, training.batch, device).take(training.steps).enumerate() {
        let target = teacher.forward(input.clone(), Statistics::Running);
        let leaves: Vec<Tensor<1>> =
            weights.iter().map(|w| Tensor::from_inner(w.clone()).to_device(&tracked).require_grad()).collect();
        let output = DeviceBlock::with_weights(&student, leaves.clone())
            .forward(Tensor::from_inner(input), Statistics::Running);
        let loss = (output - Tensor::from_inner(target)).square().mean();
        let mut gradients = loss.backward();
        let gradients = leaves.iter().map(|leaf| leaf.grad_remove(&mut gradients).expect("every weight is used"));
        let rate = training.schedule.rate(training.rate, step, training.steps);
        weights = optimizer.step(weights, gradients.collect(), rate);
        progress(step + 1, loss.into_scalar());
    }
    let mut trained = student.weights().to_vec();
    for (weight, values) in trained.iter_mut().zip(weights) {
        weight.data = host_values(values);
    }
    student.with_weights(trained)
}
