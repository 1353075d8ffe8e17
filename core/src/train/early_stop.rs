//! When training has done what it can, as held-out inputs see it.

use crate::{
    block::Block,
    engine::{Batch, DeviceBlock, Difference, DistillError, Engine, Trainer, Workspace, cpu::ProgramBytes},
    noise::{InputBytes, Inputs, Purpose, VALIDATED_INPUTS},
};

/// Checks over a training.
const CHECKS: usize = 10;
/// Checks without a new best after which it stops.
const PATIENCE: usize = 3;

/// Keeps the student with the lowest held-out error.
pub struct EarlyStop<'a> {
    engine: &'a Engine,
    /// Steps of the training.
    steps: usize,
    input: Batch,
    target: Batch,
    output: Batch,
    workspace: Workspace,
    best: Block,
    least: f64,
    /// Checks since then.
    since: usize,
}

impl<'a> EarlyStop<'a> {
    /// Starts from the student before any of `steps` steps.
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

    /// Looks at the first block of a trainer after `step`, if a check is due; whether nothing is to be hoped for any more.
    pub fn stops(&mut self, step: usize, trainer: &Trainer) -> bool {
        if !step.is_multiple_of(self.steps.div_ceil(CHECKS)) && step < self.steps {
            return false;
        }
        // One that diverged is worse than any.
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

/// What [`EarlyStop`] takes.
pub struct StopBytes {
    inputs: InputBytes,
    student: u64,
    program: ProgramBytes,
    /// Values of an output.
    output: usize,
}

impl StopBytes {
    /// For a student on these inputs.
    pub fn new(student: &Block, inputs: InputBytes) -> Self {
        let program = ProgramBytes::of(student, student.nodes().len());
        Self { inputs, student: student.heap_bytes() as u64, program, output: student.output().elements() }
    }

    /// Heap bytes: of what tells students apart, the best so far, and a rival in the making. `arena` serves the teacher.
    pub fn held(&self, arena: usize, workers: usize) -> u64 {
        Batch::bytes(self.inputs.elements + 2 * self.output, VALIDATED_INPUTS)
            + Workspace::bytes(workers, VALIDATED_INPUTS, arena.max(self.program.arena))
            + 2 * self.student
            + self.program.held
    }

    /// Heap bytes more before the first step: the teacher's inputs.
    pub fn first(&self) -> u64 {
        Batch::bytes(self.inputs.beside(), VALIDATED_INPUTS) + self.inputs.bytes(VALIDATED_INPUTS, 0)
    }
}
