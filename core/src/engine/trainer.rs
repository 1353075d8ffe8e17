//! Gradient steps on blocks that follow each other: one alone, one with those that look at it, or a whole network.

use alloc::{borrow::Cow, boxed::Box, string::ToString, vec, vec::Vec};

#[cfg(feature = "burn")]
use super::{batch::OTHER_DEVICE, burn::BurnTrainer};
use crate::{
    block::{Block, Statistics},
    engine::{
        Batch, Device, DistillError, Engine, batch,
        cpu::{CpuTrainer, Workspace},
    },
    recipe::Training,
    tensor::Shape,
};

/// Blocks in training on a device, which holds their weights, gradients and optimiser state from the first step to the last.
#[derive(Debug)]
pub struct Trainer {
    training: Training,
    on: On,
    /// What its passes work in; it may serve those of other blocks between two parts of a batch.
    pub(crate) workspace: Workspace,
    /// Images that may be in memory at a time.
    portion: usize,
    step: usize,
}

#[derive(Debug)]
enum On {
    Cpu(Box<CpuTrainer>),
    #[cfg(feature = "burn")]
    Burn(Box<BurnTrainer>),
}

/// Which blocks learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learners {
    /// So many, from the first. The others pass gradients on.
    pub count: usize,
    /// What batch norms work with. The running statistics follow those of the batches.
    pub statistics: Statistics,
}

impl Learners {
    /// One block, with running statistics.
    pub const FIRST: Self = Self { count: 1, statistics: Statistics::Running };
}

/// What a step moves towards: the loss is the sum of these terms.
#[derive(Clone, Copy, Debug, Default)]
pub struct Goals<'a> {
    /// For each block's output, from the first on, as far as there are any.
    pub outputs: &'a [Goal],
    /// For the last output, as logits.
    pub classes: Option<Classes<'a>>,
}

/// `weight · ‖S − output‖²` over a batch.
#[derive(Clone, Debug)]
pub struct Goal {
    /// What a block's output should be.
    pub output: Batch,
    /// Of its squared distance in the loss.
    pub weight: f32,
}

/// `weight · CE(probabilities, softmax(z / temperature))`, the mean over a batch.
#[derive(Clone, Copy, Debug)]
pub struct Classes<'a> {
    /// A probability for each class: `[N, classes]`.
    pub probabilities: &'a [f32],
    /// The logits are divided by it before the softmax.
    pub temperature: f32,
    /// Weight of the cross-entropy in the loss.
    pub weight: f32,
}

impl Goal {
    /// Nothing yet, on `device`.
    pub fn new(device: &Device) -> Self {
        Self { output: Batch::new(device), weight: 0.0 }
    }

    /// The mean squared error per element of outputs of `shape` over batches of `count` images (eq. 4).
    pub fn mean_squared(shape: Shape, count: usize, engine: &Engine) -> Self {
        Self { weight: 1.0 / (count * shape.elements()).max(1) as f32, ..Self::new(&engine.device) }
    }
}

/// Probabilities that are 1 for each image's label: `[N, classes]`.
///
/// # Panics
/// If a label is no class.
pub fn one_hot(labels: &[u16], classes: usize) -> Vec<f32> {
    let mut probabilities = vec![0.0; labels.len() * classes];
    for (image, &label) in probabilities.chunks_exact_mut(classes.max(1)).zip(labels) {
        image[usize::from(label)] = 1.0;
    }
    probabilities
}

impl Trainer {
    /// Starts from the weights of `blocks`; each takes what the one before it gives.
    pub fn new(blocks: Vec<Block>, learners: Learners, training: &Training, engine: &Engine) -> Self {
        let on = match &engine.device {
            Device::Cpu => On::Cpu(Box::new(CpuTrainer::new(blocks, learners, training))),
            #[cfg(feature = "burn")]
            Device::Burn(device) => On::Burn(Box::new(BurnTrainer::new(blocks, learners, training, device))),
        };
        Self { training: *training, on, workspace: engine.workspace(), portion: engine.portions.training, step: 0 }
    }

    /// One step over a whole batch.
    ///
    /// # Panics
    /// As [`add`](Self::add).
    pub fn step(&mut self, input: &Batch, goals: Goals<'_>) {
        self.begin(input.len());
        self.add(input, goals);
        self.update();
    }

    /// Starts a step over `count` inputs that come in parts.
    pub(crate) fn begin(&mut self, count: usize) {
        on!(&mut self.on, on => on.begin(count))
    }

    /// Adds a part of the inputs to the step's gradients. All but the last are whole groups of images; where batch norms work with
    /// the statistics of the batch, it is the whole.
    ///
    /// # Panics
    /// If inputs or goals are on another device, or do not fit the blocks.
    pub(crate) fn add(&mut self, input: &Batch, goals: Goals<'_>) {
        match (&mut self.on, &input.0) {
            (On::Cpu(on), batch::On::Cpu(input)) => {
                on.add(input, goals, input.len() <= self.portion, &mut self.workspace);
            }
            #[cfg(feature = "burn")]
            (On::Burn(on), batch::On::Burn(input)) => on.add(input, goals),
            #[cfg(feature = "burn")]
            _ => panic!("{OTHER_DEVICE}"),
        }
    }

    /// Moves the weights.
    pub(crate) fn update(&mut self) {
        let Training { schedule, rate, steps, .. } = self.training;
        let rate = schedule.rate(rate, self.step, steps);
        on!(&mut self.on, on => on.update(rate));
        self.step += 1;
    }

    /// The squared distance of a block's output from its goal before the last step, over its batch.
    pub fn distance(&self, block: usize) -> f64 {
        on!(&self.on, on => on.distance(block))
    }

    /// The mean cross-entropy before the last step, without its weight.
    pub fn cross_entropy(&self) -> f32 {
        on!(&self.on, on => on.cross_entropy())
    }

    /// The gradient by a weight of the first block.
    pub(crate) fn gradient(&self, weight: usize) -> Cow<'_, [f32]> {
        on!(&self.on, on => on.gradient(weight))
    }

    /// A copy of a block that learns, with the weights reached.
    ///
    /// # Errors
    /// [`DistillError::Diverged`].
    pub fn block(&self, index: usize) -> Result<Block, DistillError> {
        let (block, values) = on!(&self.on, on => on.block(index));
        trained(block.clone(), values)
    }

    /// The blocks that learned, with the weights and running statistics reached.
    ///
    /// # Errors
    /// [`DistillError::Diverged`].
    pub fn finish(self) -> Result<Vec<Block>, DistillError> {
        let (blocks, values) = on!(self.on, on => on.into_parts());
        let mut values = values.into_iter();
        let blocks = blocks.into_iter().map_while(|block| {
            let values: Vec<Vec<f32>> = values.by_ref().take(block.weights().len()).collect();
            (values.len() == block.weights().len()).then(|| trained(block, values))
        });
        blocks.collect()
    }
}

/// A block with the weights that training reached.
fn trained(block: Block, values: Vec<Vec<f32>>) -> Result<Block, DistillError> {
    if values.iter().flatten().all(|value| value.is_finite()) {
        return Ok(block.with_values(values)?);
    }
    Err(DistillError::Diverged { block: block.name().to_string() })
}
