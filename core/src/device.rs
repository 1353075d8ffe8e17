//! Where blocks compute, and in which mode.

use alloc::string::String;

/// A device: the CPU with the kernels of this crate, or one of Burn's.
#[derive(Clone, Debug, Default)]
pub enum Device {
    /// The kernels in `kernels/`, on all threads of rayon's current pool.
    #[default]
    Cpu,
    /// Burn's operators on one of its devices.
    #[cfg(feature = "burn")]
    Burn(burn::tensor::Device),
}

impl Device {
    /// Its kind; students of different kinds differ in their last bits.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
            #[cfg(feature = "burn")]
            Self::Burn(device) => alloc::format!("{device:?}"),
        }
    }
}

/// Where a batch norm takes its mean and variance from. Blocks without batch norms do not care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// The running statistics of the teacher file: evaluation, and every target.
    Running,
    /// The batch at hand ("CS", Raikwar & Mishra 2022): keeps noise in the range that the next
    /// block was trained on.
    Current,
}
