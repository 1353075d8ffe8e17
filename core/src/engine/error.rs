//! Why a block was not distilled.

use core::fmt;

use crate::{block::BlockError, storage::ScratchError};

/// Why a block was not distilled.
#[derive(Debug)]
#[non_exhaustive]
pub enum DistillError {
    /// Training diverged, or a defect of this crate.
    Block(BlockError),
    /// The storage that holds the cached inputs.
    Inputs(ScratchError),
}

impl From<BlockError> for DistillError {
    fn from(error: BlockError) -> Self {
        Self::Block(error)
    }
}

impl From<ScratchError> for DistillError {
    fn from(error: ScratchError) -> Self {
        Self::Inputs(error)
    }
}

impl fmt::Display for DistillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(error) => write!(f, "{error}"),
            Self::Inputs(error) => write!(f, "cannot use the cache of activations: {error}"),
        }
    }
}

impl core::error::Error for DistillError {}
