//! Builds a block node by node, for importers and graph transformations.

use alloc::{borrow::ToOwned, string::String, vec, vec::Vec};

use crate::{
    block::{Block, BlockError, Node, Nodes, Role, op::Op},
    tensor::{Shape, Weight},
};

/// A block under construction. Value 0 is its input; [`push`](Self::push) returns the values after it.
#[derive(Debug)]
pub struct BlockBuilder {
    name: String,
    role: Role,
    input: Shape,
    nodes: Nodes,
    weights: Vec<Weight>,
}

impl BlockBuilder {
    /// The value that is the block's input.
    pub const INPUT: u8 = 0;

    /// An empty graph.
    pub fn new(name: &str, role: Role, input: Shape) -> Self {
        Self { name: name.to_owned(), role, input, nodes: Nodes::new(), weights: Vec::new() }
    }

    /// Appends an operator with the weights it owns; returns its output value.
    ///
    /// # Errors
    /// [`BlockError::TooManyNodes`], or [`BlockError::WrongArity`] if no operator has this many inputs or weights.
    pub fn push(&mut self, name: &str, op: Op, inputs: &[u8], weights: Vec<Weight>) -> Result<u8, BlockError> {
        let arity = || BlockError::WrongArity { node: name.to_owned() };
        let first = u8::try_from(self.weights.len()).map_err(|_| arity())?;
        let count = u8::try_from(weights.len()).map_err(|_| arity())?;
        let node = Node {
            name: name.to_owned(),
            op,
            inputs: heapless::Vec::from_slice(inputs).map_err(|_| arity())?,
            weights: (weights.len() <= 4).then(|| (first..first + count).collect()).ok_or_else(arity)?,
        };
        self.nodes.push(node).map_err(|_| BlockError::TooManyNodes { block: self.name.clone() })?;
        self.weights.extend(weights);
        Ok(self.nodes.len() as u8)
    }

    /// Appends a block that reads `input`; returns its output value.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub(super) fn append(&mut self, block: &Block, input: u8) -> Result<u8, BlockError> {
        let mut values = vec![input];
        for (index, node) in block.nodes().iter().enumerate() {
            let inputs: Vec<u8> = node.inputs.iter().map(|&value| values[usize::from(value)]).collect();
            let weights = block.weights_of(index).into_iter().cloned().collect();
            values.push(self.push(&node.name, node.op.clone(), &inputs, weights)?);
        }
        Ok(values[block.nodes().len()])
    }

    /// Checks the graph; the value pushed last is the block's output.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn finish(self) -> Result<Block, BlockError> {
        Block::new(self.name, self.role, self.input, self.nodes, self.weights)
    }
}
