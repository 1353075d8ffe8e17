//! What computes: devices, batches of images, blocks on a device, and their gradients.
//!
//! The CPU ([`cpu`]) is ours; other devices are Burn's (`burn`).

pub mod batch;
#[cfg(feature = "burn")]
pub mod burn;
mod chain;
pub mod cpu;
mod device;
mod device_block;
mod error;
mod network;
mod optimizer;
mod portions;

pub use self::{
    batch::Images,
    chain::Chain,
    device::Device,
    device_block::DeviceBlock,
    error::DistillError,
    network::NetworkTrainer,
    optimizer::Optimizer,
    portions::{MICRO_BATCH, Portions},
};
