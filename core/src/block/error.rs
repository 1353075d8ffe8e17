//! Why a graph is not a block.

use alloc::string::String;
use core::fmt;

use crate::tensor::{Dims, Shape};

/// Nodes a block can hold: an inverted residual with squeeze-and-excite needs about 20, six bottlenecks as one 64.
pub const MAX_NODES: usize = 64;

/// Why a graph is not a block.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum BlockError {
    /// More nodes than [`MAX_NODES`].
    TooManyNodes {
        /// The block.
        block: String,
    },
    /// No node at all: the block would have no output.
    Empty {
        /// The block.
        block: String,
    },
    /// A node reads a value that is not computed before it, or a weight that is not there.
    DanglingReference {
        /// The node.
        node: String,
    },
    /// A node has the wrong number of inputs or weights.
    WrongArity {
        /// The node.
        node: String,
    },
    /// A weight does not have the shape its node needs.
    WeightShape {
        /// The weight.
        weight: String,
        /// What the node needs.
        expected: Dims,
        /// What is there.
        found: Dims,
    },
    /// A weight's values are not as many as its extents say.
    WeightLength {
        /// The weight.
        weight: String,
        /// Product of the extents.
        expected: usize,
        /// Values there.
        found: usize,
    },
    /// A value that is not finite, or a variance below zero.
    WeightValue {
        /// The weight.
        weight: String,
    },
    /// A node's value or a weight that nothing reads.
    Unused {
        /// The node or weight.
        name: String,
    },
    /// A weight that is read twice: each belongs to one node.
    SharedWeight {
        /// The weight.
        weight: String,
    },
    /// A neighbourhood inside the block that sees more than one value of it.
    Part {
        /// The block.
        block: String,
        /// The value it should begin at.
        from: usize,
        /// The value it should end at.
        to: usize,
    },
    /// The operator cannot work on this input (a zero extent, a stride of 0, two shapes to add, …).
    ValueShape {
        /// The node.
        node: String,
        /// The shape it was given.
        found: Shape,
    },
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyNodes { block } => write!(f, "block {block} has more than {MAX_NODES} operators"),
            Self::Empty { block } => write!(f, "block {block} has no operators"),
            Self::DanglingReference { node } => {
                write!(f, "operator {node} refers to a value or weight that is not there")
            }
            Self::WrongArity { node } => write!(f, "operator {node} has the wrong number of inputs or weights"),
            Self::WeightShape { weight, expected, found } => {
                write!(f, "weight {weight} should have shape {:?}, but has {:?}", expected.as_slice(), found.as_slice())
            }
            Self::WeightLength { weight, expected, found } => {
                write!(f, "weight {weight} should have {expected} values, but has {found}")
            }
            Self::WeightValue { weight } => {
                write!(f, "weight {weight} holds a value that is not finite, or a variance below zero")
            }
            Self::Unused { name } => write!(f, "nothing reads {name}"),
            Self::SharedWeight { weight } => write!(f, "weight {weight} is read twice"),
            Self::Part { block, from, to } => {
                write!(f, "what lies between values {from} and {to} of block {block} is no neighbourhood")
            }
            Self::ValueShape { node, found } => write!(f, "operator {node} cannot work on shape {found}"),
        }
    }
}

impl core::error::Error for BlockError {}
