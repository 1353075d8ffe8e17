//! Gradient steps on one student block: the paper's local loss `L_{i,0}` (eq. 4) or its look-ahead loss (eq. 5).

use alloc::vec::Vec;

use crate::{
    block::Block,
    engine::{
        Batch, DeviceBlock, DistillError, Engine, Goal, Goals, Learners, Portions, Trainer, Workspace,
        cpu::{CpuTrainer, ProgramBytes, TrainerBytes},
    },
    inputs::{InputBytes, Inputs},
    recipe::{Recipe, Training},
    train::{
        early_stop::{EarlyStop, StopBytes},
        ramp::Ramp,
    },
};

/// The blocks that a training looks ahead at.
#[derive(Clone, Copy, Debug, Default)]
pub struct LookAhead<'a> {
    /// The next blocks, in order.
    pub blocks: &'a [Block],
    /// α_j of each in the loss; 1 where none is given.
    pub alpha: &'a [f32],
}

impl LookAhead<'_> {
    /// No blocks.
    pub const NONE: Self = Self { blocks: &[], alpha: &[] };
}

/// How a student block is trained.
#[derive(Clone, Copy, Debug)]
pub struct BlockTraining<'a> {
    /// The block to reproduce.
    pub teacher: &'a DeviceBlock,
    /// The teacher's next blocks, whose outputs are matched, too.
    pub ahead: LookAhead<'a>,
    /// Duration, update rule and learning rate.
    pub training: &'a Training,
    /// Weights that go on the way, which an early stop would undo.
    pub ramp: Option<&'a Ramp>,
    /// The compute engine.
    pub engine: &'a Engine,
}

/// Trains `student` on `inputs` with the look-ahead loss `L_{i,0} + Σ_j α_j L_{i,j}` (eq. 5). `progress` is
/// called after every step with the step's number (from 1) and `L_{i,0}`.
///
/// # Errors
/// [`DistillError::Diverged`], and those of the inputs.
pub fn train(
    student: Block,
    how: BlockTraining<'_>,
    inputs: &mut Inputs<'_>,
    mut progress: impl FnMut(usize, f32),
) -> Result<Block, DistillError> {
    let BlockTraining { teacher, ahead: LookAhead { blocks: ahead, alpha }, training, ramp, engine } = how;
    let trained = (0..student.weights().len()).any(|index| student.is_trained(index));
    if training.steps == 0 || !trained {
        return Ok(student);
    }
    let mut stop = match training.stop {
        true => Some(EarlyStop::new(teacher, &student, inputs, training.steps, engine)?),
        false => None,
    };
    let outputs = [&student].into_iter().chain(ahead).map(Block::output);
    let mut goals: Vec<Goal> = outputs.map(|shape| Goal::mean_squared(shape, training.batch, engine)).collect();
    goals[1..].iter_mut().zip(alpha).for_each(|(goal, alpha)| goal.weight *= alpha);
    let elements = training.batch * student.output().elements();
    let next: Vec<DeviceBlock> = ahead.iter().map(|block| DeviceBlock::new(block, &engine.device)).collect();
    let mut blocks = Vec::with_capacity(1 + ahead.len());
    blocks.push(student);
    blocks.extend_from_slice(ahead);
    let mut trainer = Trainer::new(blocks, Learners::FIRST, training, engine);
    let mut batches = inputs.epochs();
    let [mut input, mut other] = engine.batches();
    for step in 1..=training.steps {
        trainer.begin(training.batch);
        let mut left = training.batch;
        while left > 0 {
            batches.next_into(left.min(engine.portions.training), &mut input)?;
            let theirs = batches.teachers(&input, &mut other)?;
            teacher.forward_into(theirs, &mut goals[0].output, &mut trainer.workspace);
            for (index, block) in next.iter().enumerate() {
                let (done, goals) = goals.split_at_mut(index + 1);
                block.forward_into(&done[index].output, &mut goals[0].output, &mut trainer.workspace);
            }
            trainer.add(&input, Goals { outputs: &goals, classes: &[] });
            left -= left.min(engine.portions.training);
        }
        trainer.update();
        if let Some(ramp) = ramp {
            ramp.cut(step, &mut trainer);
        }
        let loss = (trainer.distance(0) / elements.max(1) as f64) as f32;
        progress(step, loss);
        // Once a loss is not finite, neither are the weights.
        if !loss.is_finite() || stop.as_mut().is_some_and(|stop| stop.stops(step, &trainer)) {
            break;
        }
    }
    match stop {
        Some(stop) => Ok(stop.into_best()),
        None => Ok(trainer.finish()?.swap_remove(0)),
    }
}

/// The heap use of [`train`], excluding the student and the blocks ahead.
pub struct TrainBytes {
    training: Training,
    /// The programs of the teacher's block and the blocks ahead.
    teacher: ProgramBytes,
    stop: Option<StopBytes>,
    trainer: TrainerBytes,
    ramp: u64,
    /// The copies of the blocks ahead that the trainer is made from.
    ahead: u64,
    /// Values per image of all goals.
    goals: usize,
    inputs: InputBytes,
    /// Images per epoch.
    order: usize,
}

impl TrainBytes {
    /// `None` if nothing is trained. `blocks` are the student and the blocks ahead.
    pub fn new(
        teacher: ProgramBytes,
        blocks: &[Block],
        inputs: InputBytes,
        recipe: &Recipe,
        order: usize,
    ) -> Option<Self> {
        let training = &recipe.training;
        let student = blocks.first().filter(|_| training.steps > 0)?;
        let next = blocks[1..].iter().map(|block| ProgramBytes::of(block, block.nodes().len()));
        Some(Self {
            training: *training,
            teacher: next.fold(teacher, ProgramBytes::and),
            stop: training.stop.then(|| StopBytes::new(student, inputs)),
            trainer: CpuTrainer::bytes(blocks, Learners::FIRST, training),
            ramp: Ramp::new(student, recipe).map_or(0, |ramp| ramp.bytes()),
            ahead: blocks[1..].iter().map(|block| block.heap_bytes() as u64).sum(),
            goals: blocks.iter().map(|block| block.output().elements()).sum(),
            inputs,
            order,
        })
    }

    /// Heap bytes with these portions.
    pub fn bytes(&self, portions: Portions) -> u64 {
        let Self { training, teacher, trainer, goals, inputs, .. } = self;
        let portion = portions.training.min(training.batch);
        let step = trainer.held(training.batch, portion)
            + Batch::bytes(inputs.elements + inputs.beside() + goals, portion)
            + Workspace::bytes(portions.workers, portion, teacher.arena.max(trainer.arena()))
            + inputs.bytes(portion, self.order);
        let step = step.max(self.ahead + trainer.held(0, 0));
        teacher.held
            + self.ramp
            + match &self.stop {
                Some(stop) => stop.held(teacher.arena, portions.workers) + step.max(stop.first()),
                None => step,
            }
    }
}
