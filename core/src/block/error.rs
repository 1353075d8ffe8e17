//! Why a graph is not a block.

use alloc::string::String;
use core::fmt;

use crate::tensor::{Dims, Shape};

/// Maximum nodes per block: an inverted residual with squeeze-and-excite has about 20, six bottlenecks have 64.
pub const MAX_NODES: usize = 64;

/// Why a graph is not a block.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum BlockError {
    /// The name of a block, a node or a weight has control characters, which would reach a terminal.
    Name {
        /// The name.
        name: String,
    },
    /// More nodes than [`MAX_NODES`].
    TooManyNodes {
        /// The block.
        block: String,
    },
    /// No nodes: the block would have no output.
    Empty {
        /// The block.
        block: String,
    },
    /// A node reads a value that is not computed before it, or a weight that does not exist.
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
        /// The shape the node needs.
        expected: Dims,
        /// The weight's shape.
        found: Dims,
    },
    /// The number of a weight's values is not the product of its extents.
    WeightLength {
        /// The weight.
        weight: String,
        /// Product of the extents.
        expected: usize,
        /// Number of values found.
        found: usize,
    },
    /// A weight holds a value that is not finite, or a negative variance.
    WeightValue {
        /// The weight.
        weight: String,
    },
    /// No node reads this value or weight.
    Unused {
        /// The node or weight.
        name: String,
    },
    /// A weight is read twice; each must belong to one node.
    SharedWeight {
        /// The weight.
        weight: String,
    },
    /// The nodes between two values are not a neighbourhood: they have other connections to the block.
    Part {
        /// The block.
        block: String,
        /// Its input value.
        from: usize,
        /// Its output value.
        to: usize,
    },
    /// The operator does not support its input shape (a zero extent, a stride of 0, two different shapes to add, …).
    ValueShape {
        /// The node.
        node: String,
        /// The unsupported shape.
        found: Shape,
    },
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { name } => write!(f, "the name {name:?} has control characters"),
            Self::TooManyNodes { block } => write!(f, "block {block} has more than {MAX_NODES} operators"),
            Self::Empty { block } => write!(f, "block {block} has no operators"),
            Self::DanglingReference { node } => {
                write!(f, "operator {node} refers to a value or weight that does not exist")
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
                write!(f, "values {from} to {to} of block {block} are not a neighbourhood")
            }
            Self::ValueShape { node, found } => write!(f, "operator {node} does not support shape {found}"),
        }
    }
}

impl core::error::Error for BlockError {}
