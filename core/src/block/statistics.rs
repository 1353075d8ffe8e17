//! Which statistics batch norms use.

/// The source of a batch norm's mean and variance. Has no effect on blocks without batch norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// The teacher's running statistics: for evaluation and all targets.
    Running,
    /// The statistics of the current batch ("CS", Raikwar & Mishra 2022), which keep noise in the range that the next
    /// block was trained on.
    Current,
}
