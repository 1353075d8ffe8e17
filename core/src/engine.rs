//! The compute engine: devices, batches of images, blocks on a device, and their training.
//!
//! A batch, a block and a trainer belong to one device, which stores them in its own layout. The CPU backend ([`cpu`])
//! is part of this crate; the other devices are Burn's (`burn`).

/// Runs the same code for each variant of an `On`.
macro_rules! on_backend {
    ($on:expr, $device:pat => $work:expr) => {
        match $on {
            Backend::Cpu($device) => $work,
            #[cfg(feature = "burn")]
            Backend::Burn($device) => $work,
        }
    };
}

pub mod batch;
#[cfg(feature = "burn")]
pub mod burn;
mod chain;
pub mod cpu;
mod device;
mod device_block;
mod error;
mod goals;
mod optimizer;
mod portions;
mod trainer;

pub use self::{
    batch::{Batch, Difference},
    chain::Chain,
    cpu::Workspace,
    device::Device,
    device_block::DeviceBlock,
    error::DistillError,
    goals::{Classes, Disturbance, Goal, Goals, one_hot},
    optimizer::Optimizer,
    portions::{MICRO_BATCH, Portions},
    trainer::{Learners, Trainer, TrainerState},
};

/// A device, and the portions in which it processes work to fit in memory.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    /// The device.
    pub device: Device,
    /// The portions of work.
    pub portions: Portions,
}

impl Engine {
    /// An engine without memory limits.
    pub fn new(device: Device) -> Self {
        Self { device, portions: Portions::default() }
    }

    /// An empty workspace for the passes of a stage.
    pub(crate) fn workspace(&self) -> Workspace {
        Workspace::new(self.portions.workers)
    }

    /// Creates empty batches.
    pub(crate) fn batches<const N: usize>(&self) -> [Batch; N] {
        [(); N].map(|()| Batch::new(&self.device))
    }
}
