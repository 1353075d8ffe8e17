//! Which statistics batch norms work with.

/// Where a batch norm takes its mean and variance from. Blocks without batch norms do not care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// The running statistics of the teacher file: evaluation, and every target.
    Running,
    /// The batch at hand ("CS", Raikwar & Mishra 2022): keeps noise in the range that the next
    /// block was trained on.
    Current,
}
