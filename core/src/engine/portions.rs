//! The portions in which work is done to fit in memory.

/// Number of inputs that the solve and the measurement process at a time, if memory allows.
pub const MICRO_BATCH: usize = 32;

/// The portions of a block's work. They do not affect results. Numbers of images are whole groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portions {
    /// Maximum groups of images processed at the same time, and so of busy threads.
    pub workers: usize,
    /// Images per portion of a solve or a measurement.
    pub solving: usize,
    /// Images per portion of a gradient step; the gradients of a batch are accumulated.
    pub training: usize,
}

impl Default for Portions {
    /// No limit on workers, and whole batches in training.
    fn default() -> Self {
        Self { workers: usize::MAX, solving: MICRO_BATCH, training: usize::MAX }
    }
}
