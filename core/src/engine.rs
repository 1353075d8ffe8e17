//! What computes: devices, batches of images, blocks on a device, and their training.
//!
//! A batch, a block and a trainer belong to a device, which holds them in its own layout. The CPU ([`cpu`]) is ours; other
//! devices are Burn's (`burn`).

/// The same work on whatever device an `On` is.
macro_rules! on {
    ($on:expr, $device:pat => $work:expr) => {
        match $on {
            On::Cpu($device) => $work,
            #[cfg(feature = "burn")]
            On::Burn($device) => $work,
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
    optimizer::Optimizer,
    portions::{MICRO_BATCH, Portions},
    trainer::{Classes, Goal, Goals, Learners, Trainer, one_hot},
};

/// What computes a block's work, and how that is cut to fit in memory.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    /// What computes.
    pub device: Device,
    /// How the work is cut.
    pub portions: Portions,
}

impl Engine {
    /// A device in all the memory there is.
    pub fn new(device: Device) -> Self {
        Self { device, portions: Portions::default() }
    }

    /// Memory for a stage's passes.
    pub(crate) fn workspace(&self) -> Workspace {
        Workspace::new(self.portions.workers)
    }

    /// Batches without images.
    pub(crate) fn batches<const N: usize>(&self) -> [Batch; N] {
        [(); N].map(|()| Batch::new(&self.device))
    }
}
