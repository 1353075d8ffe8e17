//! Gradient steps on a sequence of blocks: a single block, a block with the blocks after it, or a whole network.

use alloc::{borrow::Cow, boxed::Box, string::ToString, vec::Vec};

use serde::{Deserialize, Serialize};

#[cfg(feature = "burn")]
use super::{batch::OTHER_DEVICE, burn::BurnTrainer};
use crate::{
    block::{Block, Statistics},
    engine::{
        Batch, Device, DistillError, Disturbance, Engine, Goals, Optimizer, batch,
        cpu::{CpuTrainer, Workspace},
    },
    recipe::Training,
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

/// What a trainer holds between two steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Steps taken.
    pub(crate) step: u32,
    weights: Vec<Vec<f32>>,
    optimizer: Optimizer,
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

    /// Adds noise to the output of every neighbourhood in all steps that follow.
    pub fn disturb(&mut self, disturbance: Disturbance) {
        on_backend!(&mut self.backend, on => on.disturb(disturbance))
    }

    /// Starts a step over `count` inputs that come in parts.
    pub(crate) fn begin(&mut self, count: usize) {
        on_backend!(&mut self.backend, on => on.begin(count, self.step))
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
        let rate = self.training.rate_of(self.step);
        on_backend!(&mut self.backend, on => on.update(rate));
        self.step += 1;
    }

    /// What it holds now, between two steps; `None` on Burn's devices, whose optimisers are not read back.
    pub(crate) fn state(&self) -> Option<TrainerState> {
        match &self.backend {
            Backend::Cpu(on) => {
                let (weights, optimizer) = on.state();
                let (weights, optimizer) = (weights.to_vec(), optimizer.clone());
                Some(TrainerState { step: self.step as u32, weights, optimizer })
            }
            #[cfg(feature = "burn")]
            Backend::Burn(_) => None,
        }
    }

    /// Continues from what a trainer of the same blocks and settings held; returns whether it is that.
    pub(crate) fn restore(&mut self, state: TrainerState) -> bool {
        let TrainerState { step, weights, optimizer } = state;
        let fits = match &mut self.backend {
            Backend::Cpu(on) => step as usize <= self.training.steps && on.restore(weights, optimizer),
            #[cfg(feature = "burn")]
            Backend::Burn(_) => false,
        };
        if fits {
            self.step = step as usize;
        }
        fits
    }

    /// The squared distance of a block's output from its goal over the last batch, before its step.
    pub fn distance(&self, block: usize) -> f64 {
        on_backend!(&self.backend, on => on.distance(block))
    }

    /// The mean of the last batch's cross-entropies, before its step; of several, their weighted sum.
    pub fn cross_entropy(&self) -> f32 {
        on_backend!(&self.backend, on => on.cross_entropy())
    }

    /// Changes a kernel of the first block. Zeros that it has then stay.
    pub(crate) fn prune(&mut self, weight: usize, change: impl FnOnce(&mut [f32])) {
        on_backend!(&mut self.backend, on => on.prune(weight, change))
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
