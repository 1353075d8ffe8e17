//! How work is cut to fit in memory.

/// Inputs that the solve and the measurement push through a block at a time, where memory allows.
pub const MICRO_BATCH: usize = 32;

/// How a block's work is cut to fit in memory. No result depends on it. Numbers of images are whole groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portions {
    /// Groups of images in work at the same time: most threads.
    pub workers: usize,
    /// Images of a solve or a measurement at a time.
    pub solving: usize,
    /// Images of a gradient step at a time; the gradients of a batch are accumulated.
    pub training: usize,
}

impl Default for Portions {
    /// As much as threads can use, and whole batches.
    fn default() -> Self {
        Self { workers: usize::MAX, solving: MICRO_BATCH, training: usize::MAX }
    }
}
