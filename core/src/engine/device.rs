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
