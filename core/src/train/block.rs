//! Gradient steps on one student block: local loss `L_{i,0}` of the paper (eq. 4).

use alloc::{boxed::Box, vec, vec::Vec};

#[cfg(feature = "burn")]
use crate::engine::burn::BurnGradients;
use crate::{
    block::{Block, BlockError, Statistics},
    engine::{
        Device, DeviceBlock, DistillError, Images, NetworkTrainer, Optimizer, Portions,
        cpu::{CpuGradients, Goal, Workspace},
    },
    noise::{Inputs, Purpose, VALIDATED_INPUTS},
    recipe::Training,
    storage::ScratchError,
};

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
    pub(crate) workspace: Workspace,
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

/// Trains `student` to reproduce `teacher` on `inputs`, and what the teacher's blocks `ahead` make of it: the look-ahead loss
/// `L_{i,0} + Σ_j L_{i,j}` (eq. 5, every α_j = 1). `progress` is called after every step with the step's number (from 1) and
/// `L_{i,0}`.
///
/// # Errors
/// As [`BlockTrainer::finish`], and those of the inputs.
pub fn train(
    teacher: &DeviceBlock,
    student: Block,
    ahead: &[Block],
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
    let mut judge = match training.stop {
        true => Some(Judge::new(teacher, &student, inputs, on)?),
        false => None,
    };
    let mut batches = inputs.epochs();
    let [mut input, mut other] = [(); 2].map(|()| Images::zeros(student.input(), 0));
    if !ahead.is_empty() {
        let blocks: Vec<Block> = [student].into_iter().chain(ahead.iter().cloned()).collect();
        let mut window = Window::new(&blocks, training, device);
        let mut workspace = Workspace::new(portions.workers);
        for step in 1..=training.steps {
            batches.next_into(training.batch, &mut input)?;
            let theirs = batches.teachers(&input, &mut other)?;
            let loss = window.step(&input, theirs, teacher, &mut workspace);
            progress(step, loss);
            if training.is_over(loss)
                || judge.as_mut().is_some_and(|judge| judge.stops(step, training, window.trainer.first_weights()))
            {
                break;
            }
        }
        return match judge {
            Some(judge) => Ok(judge.best),
            None => Ok(window.trainer.finish()?.swap_remove(0)),
        };
    }
    let mut target = Images::zeros(student.output(), 0);
    let mut trainer = BlockTrainer::new(student, training, device);
    trainer.workspace = Workspace::new(portions.workers);
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
        let loss = trainer.update();
        progress(step, loss);
        if training.is_over(loss) || judge.as_mut().is_some_and(|judge| judge.stops(step, training, &trainer.weights)) {
            break;
        }
    }
    match judge {
        Some(judge) => Ok(judge.best),
        None => Ok(trainer.finish()?),
    }
}

/// A student with the teacher's blocks behind it, which pass on what they say of it but do not learn.
struct Window<'a> {
    trainer: NetworkTrainer<'a>,
    ahead: Vec<DeviceBlock>,
    goals: Vec<Goal>,
}

impl<'a> Window<'a> {
    /// `blocks` are the student and what is ahead.
    fn new(blocks: &'a [Block], training: &'a Training, device: &Device) -> Self {
        let goal = |block: &Block| {
            let elements = training.batch * block.output().elements();
            Goal { values: Images::zeros(block.output(), 0), scale: 2.0 / elements.max(1) as f32 }
        };
        Self {
            trainer: NetworkTrainer::of_first(1, blocks, training, Statistics::Running),
            ahead: blocks[1..].iter().map(|block| DeviceBlock::new(block, device)).collect(),
            goals: blocks.iter().map(goal).collect(),
        }
    }

    /// One step; returns the student's own mean squared error before it.
    fn step(&mut self, input: &Images, theirs: &Images, teacher: &DeviceBlock, workspace: &mut Workspace) -> f32 {
        teacher.forward_into(theirs, &mut self.goals[0].values, workspace);
        for (index, block) in self.ahead.iter().enumerate() {
            let (done, next) = self.goals.split_at_mut(index + 1);
            block.forward_into(&done[index].values, &mut next[0].values, workspace);
        }
        let elements = input.len() * teacher.output().elements();
        (self.trainer.step_to_goals(input, &self.goals) / elements.max(1) as f64) as f32
    }
}

/// Checks over a training.
const CHECKS: usize = 10;
/// Checks without a new best after which it stops.
const PATIENCE: usize = 3;

/// Keeps the best student, as held-out noise sees it.
struct Judge<'a> {
    device: &'a Device,
    input: Images,
    target: Images,
    output: Images,
    workspace: Workspace,
    best: Block,
    least: f64,
    /// Checks since then.
    since: usize,
}

impl<'a> Judge<'a> {
    fn new(
        teacher: &DeviceBlock,
        student: &Block,
        inputs: &mut Inputs<'_>,
        (device, portions): (&'a Device, Portions),
    ) -> Result<Self, ScratchError> {
        let [mut input, mut other] = [(); 2].map(|()| Images::zeros(student.input(), 0));
        let [mut target, output] = [(); 2].map(|()| Images::zeros(student.output(), 0));
        let mut workspace = Workspace::new(portions.workers);
        let mut batches = inputs.pass(Purpose::Validate, VALIDATED_INPUTS);
        batches.next_into(VALIDATED_INPUTS, &mut input)?;
        teacher.forward_into(batches.teachers(&input, &mut other)?, &mut target, &mut workspace);
        let mut judge =
            Self { device, input, target, output, workspace, best: student.clone(), least: f64::INFINITY, since: 0 };
        judge.least = judge.error(student);
        Ok(judge)
    }

    fn error(&mut self, student: &Block) -> f64 {
        DeviceBlock::new(student, self.device).forward_into(&self.input, &mut self.output, &mut self.workspace);
        self.output.distance(&self.target)
    }

    /// Whether nothing is to be hoped for after `step`, at which the student has `weights`.
    fn stops(&mut self, step: usize, training: &Training, weights: &[Vec<f32>]) -> bool {
        if !step.is_multiple_of(training.steps.div_ceil(CHECKS)) && step < training.steps {
            return false;
        }
        // Weights that are not finite are no block's.
        let here = self.best.clone().with_values(weights.to_vec()).ok();
        let error = here.as_ref().map_or(f64::INFINITY, |here| self.error(here));
        log::debug!("{}: step {step}, held-out error {error:.6}, best so far {:.6}", self.best.name(), self.least);
        self.since += 1;
        if let Some(here) = here.filter(|_| error < self.least) {
            (self.best, self.least, self.since) = (here, error, 0);
        }
        self.since == PATIENCE
    }
}
