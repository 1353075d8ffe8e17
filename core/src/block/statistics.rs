//! Which statistics batch norms use.

/// The source of a batch norm's mean and variance. Has no effect on blocks without batch norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// The teacher's running statistics: for evaluation and all targets.
    Running,
    /// The current batch's ("CS", Raikwar & Mishra 2022): keeps noise in the range on which the next block was trained.
    Current,
}
