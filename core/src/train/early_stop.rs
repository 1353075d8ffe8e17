//! Early stopping on held-out inputs.

use crate::{
    block::Block,
    engine::{Batch, DeviceBlock, Difference, DistillError, Engine, Trainer, Workspace, cpu::ProgramBytes},
    inputs::{InputBytes, Inputs, VALIDATED_INPUTS},
    stream::Purpose,
};

/// Number of checks during a training.
const CHECKS: usize = 10;
/// Consecutive checks without improvement after which training stops.
const PATIENCE: usize = 3;

/// Keeps the student with the lowest held-out error.
pub struct EarlyStop<'a> {
    engine: &'a Engine,
    /// Total steps of the training.
    steps: usize,
    input: Batch,
    target: Batch,
    output: Batch,
    workspace: Workspace,
    best: Block,
    least: f64,
    /// Checks since the last improvement.
    since: usize,
}

impl<'a> EarlyStop<'a> {
    /// Starts from `student`, the best so far, before the first of `steps` steps.
    pub fn new(
        teacher: &DeviceBlock,
        student: &Block,
        inputs: &mut Inputs<'_>,
        steps: usize,
        engine: &'a Engine,
    ) -> Result<Self, DistillError> {
        let [mut input, mut other, mut target, output] = engine.batches();
        let mut workspace = engine.workspace();
        let mut batches = inputs.pass(Purpose::Validate, VALIDATED_INPUTS);
        batches.next_into(VALIDATED_INPUTS, &mut input)?;
        teacher.forward_into(batches.teachers(&input, &mut other)?, &mut target, &mut workspace);
        let (best, least) = (student.clone(), f64::INFINITY);
        let mut stop = Self { engine, steps, input, target, output, workspace, best, least, since: 0 };
        stop.least = stop.error(student);
        Ok(stop)
    }

    fn error(&mut self, student: &Block) -> f64 {
        let student = DeviceBlock::new(student, &self.engine.device);
        student.forward_into(&self.input, &mut self.output, &mut self.workspace);
        let mut difference = Difference::default();
        self.output.add_difference(&self.target, &mut difference);
        difference.error
    }

    /// Checks the trainer's first block after `step`, if a check is due; returns whether to stop.
    pub fn stops(&mut self, step: usize, trainer: &Trainer) -> bool {
        if !step.is_multiple_of(self.steps.div_ceil(CHECKS)) && step < self.steps {
            return false;
        }
        // A diverged student is worse than any other.
        let here = trainer.block(0).ok();
        let error = here.as_ref().map_or(f64::INFINITY, |here| self.error(here));
        log::debug!("{}: step {step}, held-out error {error:.6}, best so far {:.6}", self.best.name(), self.least);
        self.since += 1;
        if let Some(here) = here.filter(|_| error < self.least) {
            (self.best, self.least, self.since) = (here, error, 0);
        }
        self.since == PATIENCE
    }

    /// The best student so far.
    pub fn into_best(self) -> Block {
        self.best
    }
}

/// The heap use of [`EarlyStop`].
pub struct StopBytes {
    inputs: InputBytes,
    student: u64,
    program: ProgramBytes,
    /// Values per output.
    output: usize,
}

impl StopBytes {
    /// For a student with these inputs.
    pub fn new(student: &Block, inputs: InputBytes) -> Self {
        let program = ProgramBytes::of(student, student.nodes().len());
        Self { inputs, student: student.heap_bytes() as u64, program, output: student.output().elements() }
    }

    /// Heap bytes: the batches of a check, the best student so far, and a candidate. `arena` is the teacher's.
    pub fn held(&self, arena: usize, workers: usize) -> u64 {
        Batch::bytes(self.inputs.elements + 2 * self.output, VALIDATED_INPUTS)
            + Workspace::bytes(workers, VALIDATED_INPUTS, arena.max(self.program.arena))
            + 2 * self.student
            + self.program.held
    }

    /// Additional heap bytes before the first step, for the teacher's inputs.
    pub fn first(&self) -> u64 {
        Batch::bytes(self.inputs.beside(), VALIDATED_INPUTS) + self.inputs.bytes(VALIDATED_INPUTS, 0)
    }
}
