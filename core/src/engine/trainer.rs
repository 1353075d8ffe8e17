//! Gradient steps on a sequence of blocks: a single block, a block with the blocks after it, or a whole network.

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

/// Blocks in training. Their weights, gradients and optimiser state stay on the device until the end.
#[derive(Debug)]
pub struct Trainer {
    training: Training,
    backend: Backend,
    /// The arenas of its passes. Between two parts of a batch, other passes may use them.
    pub(crate) workspace: Workspace,
    /// Maximum images in memory at a time.
    portion: usize,
    step: usize,
}

#[derive(Debug)]
enum Backend {
    Cpu(Box<CpuTrainer>),
    #[cfg(feature = "burn")]
    Burn(Box<BurnTrainer>),
}

/// Which blocks are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learners {
    /// Number of trained blocks, from the first. The remaining blocks only pass gradients on.
    pub count: usize,
    /// Statistics that batch norms use. [`Statistics::Current`] also updates the running statistics.
    pub statistics: Statistics,
}

impl Learners {
    /// The first block, with running statistics.
    pub const FIRST: Self = Self { count: 1, statistics: Statistics::Running };
}

/// The targets of a step: the loss is the sum of these terms.
#[derive(Clone, Copy, Debug, Default)]
pub struct Goals<'a> {
    /// Goals for the blocks' outputs, from the first block on; may be fewer than the blocks.
    pub outputs: &'a [Goal],
    /// Goal for the last output, taken as logits.
    pub classes: Option<Classes<'a>>,
}

/// `weight · ‖S − output‖²` over a batch.
#[derive(Clone, Debug)]
pub struct Goal {
    /// The target for a block's output.
    pub output: Batch,
    /// Weight of the squared distance in the loss.
    pub weight: f32,
}

/// `weight · CE(probabilities, softmax(z / temperature))`, averaged over a batch.
#[derive(Clone, Copy, Debug)]
pub struct Classes<'a> {
    /// Target probabilities: `[N, classes]`.
    pub probabilities: &'a [f32],
    /// Divisor of the logits before the softmax.
    pub temperature: f32,
    /// Weight of the cross-entropy in the loss.
    pub weight: f32,
}

impl Goal {
    /// An empty goal on `device`.
    pub fn new(device: &Device) -> Self {
        Self { output: Batch::new(device), weight: 0.0 }
    }

    /// An empty goal, weighted for the mean squared error (eq. 4) over batches of `count` outputs of `shape`.
    pub fn mean_squared(shape: Shape, count: usize, engine: &Engine) -> Self {
        Self { weight: 1.0 / (count * shape.elements()).max(1) as f32, ..Self::new(&engine.device) }
    }
}

/// One-hot probabilities of the labels: `[N, classes]`.
///
/// # Panics
/// If a label is not below `classes`.
pub fn one_hot(labels: &[u16], classes: usize) -> Vec<f32> {
    let mut probabilities = vec![0.0; labels.len() * classes];
    for (image, &label) in probabilities.chunks_exact_mut(classes.max(1)).zip(labels) {
        image[usize::from(label)] = 1.0;
    }
    probabilities
}

impl Trainer {
    /// Starts from the weights of `blocks`; each block's input is the previous block's output.
    pub fn new(blocks: Vec<Block>, learners: Learners, training: &Training, engine: &Engine) -> Self {
        let backend = match &engine.device {
            Device::Cpu => Backend::Cpu(Box::new(CpuTrainer::new(blocks, learners, training))),
            #[cfg(feature = "burn")]
            Device::Burn(device) => Backend::Burn(Box::new(BurnTrainer::new(blocks, learners, training, device))),
        };
        Self { training: *training, backend, workspace: engine.workspace(), portion: engine.portions.training, step: 0 }
    }

    /// Takes one step over a whole batch.
    ///
    /// # Panics
    /// If inputs or goals are on another device or do not fit the blocks.
    pub fn step(&mut self, input: &Batch, goals: Goals<'_>) {
        self.begin(input.len());
        self.add(input, goals);
        self.update();
    }

    /// Starts a step over `count` inputs that come in parts.
    pub(crate) fn begin(&mut self, count: usize) {
        on_backend!(&mut self.backend, on => on.begin(count))
    }

    /// Adds the gradients of a part of the inputs to the step. All parts but the last are whole groups of images; if
    /// batch norms use batch statistics, the part must be the whole batch.
    ///
    /// # Panics
    /// If inputs or goals are on another device or do not fit the blocks.
    pub(crate) fn add(&mut self, input: &Batch, goals: Goals<'_>) {
        match (&mut self.backend, &input.0) {
            (Backend::Cpu(on), batch::Backend::Cpu(input)) => {
                on.add(input, goals, input.len() <= self.portion, &mut self.workspace);
            }
            #[cfg(feature = "burn")]
            (Backend::Burn(on), batch::Backend::Burn(input)) => on.add(input, goals),
            #[cfg(feature = "burn")]
            _ => panic!("{OTHER_DEVICE}"),
        }
    }

    /// Updates the weights with the accumulated gradients.
    pub(crate) fn update(&mut self) {
        let Training { schedule, rate, steps, .. } = self.training;
        let rate = schedule.rate(rate, self.step, steps);
        on_backend!(&mut self.backend, on => on.update(rate));
        self.step += 1;
    }

    /// The squared distance of a block's output from its goal over the last batch, before its step.
    pub fn distance(&self, block: usize) -> f64 {
        on_backend!(&self.backend, on => on.distance(block))
    }

    /// The mean cross-entropy of the last batch, before its step and without its weight.
    pub fn cross_entropy(&self) -> f32 {
        on_backend!(&self.backend, on => on.cross_entropy())
    }

    /// The gradient of a weight of the first block.
    pub(crate) fn gradient(&self, weight: usize) -> Cow<'_, [f32]> {
        on_backend!(&self.backend, on => on.gradient(weight))
    }

    /// Copies a trained block with its current weights.
    ///
    /// # Errors
    /// [`DistillError::Diverged`].
    pub fn block(&self, index: usize) -> Result<Block, DistillError> {
        let (block, values) = on_backend!(&self.backend, on => on.block(index));
        trained(block.clone(), values)
    }

    /// Returns the trained blocks with their final weights and running statistics.
    ///
    /// # Errors
    /// [`DistillError::Diverged`].
    pub fn finish(self) -> Result<Vec<Block>, DistillError> {
        let (blocks, values) = on_backend!(self.backend, on => on.into_parts());
        let mut values = values.into_iter();
        let blocks = blocks.into_iter().map_while(|block| {
            let values: Vec<Vec<f32>> = values.by_ref().take(block.weights().len()).collect();
            (values.len() == block.weights().len()).then(|| trained(block, values))
        });
        blocks.collect()
    }
}

/// Puts trained weights into a block.
fn trained(block: Block, values: Vec<Vec<f32>>) -> Result<Block, DistillError> {
    if values.iter().flatten().all(|value| value.is_finite()) {
        return Ok(block.with_values(values)?);
    }
    Err(DistillError::Diverged { block: block.name().to_string() })
}
