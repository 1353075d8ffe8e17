//! Gradient steps on one student block: local loss `L_{i,0}` of the paper (eq. 4).

use alloc::{boxed::Box, vec, vec::Vec};

#[cfg(feature = "burn")]
use crate::burn_device::BurnGradients;
use crate::{
    block::{Block, BlockError},
    cpu::{CpuGradients, Workspace},
    device::{Device, Statistics},
    forward::DeviceBlock,
    images::Images,
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

/// A student block in training: weights, gradients and optimiser state.
#[derive(Debug)]
pub struct BlockTrainer<'a> {
    student: &'a Block,
    training: &'a Training,
    /// Values and gradients of the weights, in the block's order; running statistics never move.
    weights: Vec<Vec<f32>>,
    gradients: Vec<Vec<f32>>,
    optimizer: Optimizer,
    on: On,
    workspace: Workspace,
    step: usize,
}

#[derive(Debug)]
enum On {
    Cpu(Box<CpuGradients>),
    #[cfg(feature = "burn")]
    Burn(BurnGradients),
}

impl<'a> BlockTrainer<'a> {
    /// Starts from the student's weights.
    pub fn new(student: &'a Block, training: &'a Training, device: &Device) -> Self {
        let size = |weight: usize| student.weights()[weight].data.len();
        let state = |weight: usize| if student.is_trained(weight) { size(weight) } else { 0 };
        let weights = 0..student.weights().len();
        Self {
            student,
            training,
            weights: student.weights().iter().map(|weight| weight.data.clone()).collect(),
            gradients: weights.clone().map(|weight| vec![0.0; size(weight)]).collect(),
            optimizer: Optimizer::new(training.update, training.weight_decay, weights.map(state)),
            on: match device {
                Device::Cpu => On::Cpu(Box::new(CpuGradients::new(student))),
                #[cfg(feature = "burn")]
                Device::Burn(device) => On::Burn(BurnGradients::new(device)),
            },
            workspace: Workspace::default(),
            step: 0,
        }
    }

    /// One step towards `target`; returns the mean squared error per element before it.
    ///
    /// # Shapes
    /// - input `[N, C, H, W]` of the block's input shape
    /// - target `[N, C', H', W']` of its output shape
    pub fn step(&mut self, input: &Images, target: &Images) -> f32 {
        let Self { student, weights, gradients, workspace, .. } = self;
        let loss = match &mut self.on {
            On::Cpu(on) => on.compute(student, weights, input, target, gradients, workspace),
            #[cfg(feature = "burn")]
            On::Burn(on) => on.compute(student, weights, input, target, gradients),
        };
        let rate = self.training.schedule.rate(self.training.rate, self.step, self.training.steps);
        self.optimizer.step(weights.iter_mut().zip(&*gradients), rate);
        self.step += 1;
        loss
    }

    /// The student with the weights reached.
    ///
    /// # Errors
    /// [`BlockError::WeightValue`] if training diverged.
    pub fn finish(self) -> Result<Block, BlockError> {
        let mut trained = self.student.weights().to_vec();
        for (weight, values) in trained.iter_mut().zip(self.weights) {
            weight.data = values;
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
    device: &Device,
    mut progress: impl FnMut(usize, f32),
) -> Result<Block, BlockError> {
    let trained = (0..student.weights().len()).any(|index| student.is_trained(index));
    if training.steps == 0 || !trained {
        return Ok(student.clone());
    }
    let mut trainer = BlockTrainer::new(student, training, device);
    let mut batches = inputs.epochs();
    let (mut input, mut target) = (Images::zeros(student.input(), 0), Images::zeros(student.output(), 0));
    for step in 1..=training.steps {
        batches.next_into(training.batch, &mut input);
        teacher.forward_into(&input, Statistics::Running, &mut target, &mut trainer.workspace);
        progress(step, trainer.step(&input, &target));
    }
    trainer.finish()
}
