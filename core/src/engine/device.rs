//! The devices on which blocks run.

use alloc::string::String;

/// A device: the CPU with this crate's kernels, or one of Burn's devices.
#[derive(Clone, Debug, Default)]
pub enum Device {
    /// The kernels in `kernels/`, on all threads of rayon's current pool.
    #[default]
    Cpu,
    /// A Burn device, with Burn's operators.
    #[cfg(feature = "burn")]
    Burn(burn::tensor::Device),
}

impl Device {
    /// The kind of device. Students from different kinds differ in their last bits.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
            #[cfg(feature = "burn")]
            Self::Burn(device) => alloc::format!("{device:?}"),
        }
    }
}
