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
    /// Gradient steps took the student further from its teacher than it was before them.
    Worse {
        /// The block's name.
        block: String,
        /// Relative error on held-out inputs before the steps.
        before: f64,
        /// And after them.
        after: f64,
    },
    /// The student is no closer to its teacher's block than an output of zeros would be.
    Useless {
        /// The block's name.
        block: String,
        /// Its relative error on held-out inputs, at least 1.
        relative_error: f64,
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
                write!(f, "block {block} diverged: values are not finite")
            }
            Self::Worse { block, before, after } => {
                write!(
                    f,
                    "training took the student of block {block} from a relative error of {before:.3} to {after:.3}"
                )
            }
            Self::Useless { block, relative_error } => {
                write!(
                    f,
                    "the student of block {block} is no closer to it than zeros would be (relative error {relative_error:.3})"
                )
            }
            Self::Block(error) => write!(f, "{error}"),
            Self::Inputs(error) => write!(f, "cannot read or keep the inputs: {error}"),
        }
    }
}

impl core::error::Error for DistillError {}
