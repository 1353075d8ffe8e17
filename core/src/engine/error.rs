//! Why a block was not distilled.

use alloc::string::String;
use core::fmt;

use crate::{block::BlockError, storage::ScratchError};

/// Why a block was not distilled.
#[derive(Debug)]
#[non_exhaustive]
pub enum DistillError {
    /// Weights or outputs became infinite or NaN.
    Diverged {
        /// The block's name.
        block: String,
    },
    /// A transformation of a block failed.
    Block(BlockError),
    /// The storage of the cached inputs failed.
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
            Self::Diverged { block } => {
                write!(f, "training of block {block} diverged: its values are no longer finite")
            }
            Self::Block(error) => write!(f, "{error}"),
            Self::Inputs(error) => write!(f, "cannot use the cache of activations: {error}"),
        }
    }
}

impl core::error::Error for DistillError {}
