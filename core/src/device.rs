//! Where blocks compute.

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
