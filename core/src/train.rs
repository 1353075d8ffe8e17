//! Gradient steps on one student block: local loss `L_{i,0}` of the paper (eq. 4).

use alloc::{boxed::Box, vec, vec::Vec};

use serde::Serialize;

#[cfg(feature = "burn")]
use crate::burn_device::BurnGradients;
use crate::{
    block::Block,
    block_error::BlockError,
    cpu::{CpuGradients, Workspace},
    device::Device,
    forward::DeviceBlock,
    images::Images,
    inputs::Inputs,
    optimizer::{Optimizer, Schedule, Update},
    stage::{DistillError, Portions},
};

/// How a block is trained after its start from the teacher.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
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
    /// Its graph; the values of its weights are apart.
    student: Block,
    training: &'a Training,
    /// Values and gradients of the weights, in the block's order; running statistics never move.
    weights: Vec<Vec<f32>>,
    gradients: Vec<Vec<f32>>,
    optimizer: Optimizer,
    on: On,
    workspace: Workspace,
    /// Inputs of the step at hand.
    batch: usize,
    step: usize,
}

#[derive(Debug)]
enum On {
    Cpu(Box<CpuGradients>),
    #[cfg(feature = "burn")]
    Burn(BurnGradients, f32),
}

impl<'a> BlockTrainer<'a> {
    /// Starts from the student's weights.
    pub fn new(mut student: Block, training: &'a Training, device: &Device) -> Self {
        let on = match device {
            Device::Cpu => On::Cpu(Box::new(CpuGradients::new(&student))),
            #[cfg(feature = "burn")]
            Device::Burn(device) => On::Burn(BurnGradients::new(device), 0.0),
        };
        let size = |weight: usize| student.weights()[weight].data.len();
        let state = |weight: usize| if student.is_trained(weight) { size(weight) } else { 0 };
        let weights = 0..student.weights().len();
        let optimizer = Optimizer::new(training.update, training.weight_decay, weights.clone().map(state));
        let gradients = weights.map(|weight| vec![0.0; size(weight)]).collect();
        let weights = student.take_values();
        Self {
            student,
            training,
            weights,
            gradients,
            optimizer,
            on,
            workspace: Workspace::default(),
            batch: 0,
            step: 0,
        }
    }

    /// One step towards `target`; returns the mean squared error per element before it.
    ///
    /// # Shapes
    /// - input `[N, C, H, W]` of the block's input shape
    /// - target `[N, C', H', W']` of its output shape
    pub fn step(&mut self, input: &Images, target: &Images) -> f32 {
        self.begin(input.len());
        self.add(input, target);
        self.update()
    }

    /// Starts a step over `count` inputs that come in parts.
    pub(crate) fn begin(&mut self, count: usize) {
        self.batch = count;
        match &mut self.on {
            On::Cpu(on) => on.begin(&self.student, &self.weights, &mut self.gradients, count),
            #[cfg(feature = "burn")]
            On::Burn(_, error) => {
                *error = 0.0;
                self.gradients.iter_mut().for_each(|gradient| gradient.fill(0.0));
            }
        }
    }

    /// Adds a part of the inputs to the step's gradients. All but the last are whole groups of images.
    pub(crate) fn add(&mut self, input: &Images, target: &Images) {
        let Self { student, gradients, .. } = self;
        match &mut self.on {
            On::Cpu(on) => on.add(student, input, target, gradients, &mut self.workspace),
            #[cfg(feature = "burn")]
            On::Burn(on, error) => {
                let share = input.len() as f32 / self.batch as f32;
                *error += on.add(student, &self.weights, (input, target, share), gradients);
            }
        }
    }

    /// Gradients of the step at hand, in the block's order.
    pub(crate) fn gradients(&self) -> &[Vec<f32>] {
        &self.gradients
    }

    /// Moves the weights; returns the step's error.
    fn update(&mut self) -> f32 {
        let error = match &self.on {
            On::Cpu(on) => on.error(&self.student),
            #[cfg(feature = "burn")]
            On::Burn(_, error) => *error,
        };
        let rate = self.training.schedule.rate(self.training.rate, self.step, self.training.steps);
        self.optimizer.step(self.weights.iter_mut().zip(&self.gradients), rate);
        self.step += 1;
        error
    }

    /// The student with the weights reached.
    ///
    /// # Errors
    /// [`BlockError::WeightValue`] if training diverged.
    pub fn finish(self) -> Result<Block, BlockError> {
        self.student.with_values(self.weights)
    }
}

/// Trains `student` to reproduce `teacher` on `inputs`; `progress` is called after every step with
/// the step's number (from 1) and its loss.
///
/// # Errors
/// As [`BlockTrainer::finish`], and those of the inputs.
pub fn train(
    teacher: &DeviceBlock,
    student: Block,
    inputs: &mut Inputs<'_>,
    training: &Training,
    on: (&Device, Portions),
    mut progress: impl FnMut(usize, f32),
) -> Result<Block, DistillError> {
    let (device, portions) = on;
    let trained = (0..student.weights().len()).any(|index| student.is_trained(index));
    if training.steps == 0 || !trained {
        return Ok(student);
    }
    let [mut input, mut other] = [(); 2].map(|()| Images::zeros(student.input(), 0));
    let mut target = Images::zeros(student.output(), 0);
    let mut trainer = BlockTrainer::new(student, training, device);
    trainer.workspace = Workspace::new(portions.workers);
    let mut batches = inputs.epochs();
    for step in 1..=training.steps {
        trainer.begin(training.batch);
        let mut left = training.batch;
        while left > 0 {
            batches.next_into(left.min(portions.training), &mut input)?;
            let theirs = batches.teachers(&input, &mut other)?;
            teacher.forward_into(theirs, &mut target, &mut trainer.workspace);
            trainer.add(&input, &target);
            left -= left.min(portions.training);
        }
        progress(step, trainer.update());
    }
    Ok(trainer.finish()?)
}
