//! Rewrites a block operator by operator; folding, shrinking and all other transformations build on it.

use alloc::{vec, vec::Vec};

use super::{Block, BlockBuilder, BlockError, Part, Parts, op::Op};
use crate::tensor::{Shape, Weight};

/// How to rewrite a node.
pub enum Change<'a> {
    /// Copy it.
    Keep,
    /// Replace it by an operator with the same inputs.
    Replace(Op, Vec<Weight>),
    /// Drop it; its readers read its first input instead.
    Remove,
    /// Replace it by a block whose input is this value of the old block.
    Splice(u8, &'a Block),
}

/// A rewritten block.
pub struct Rewritten {
    /// The block, without the neighbourhoods inside it.
    pub block: Block,
    /// For each value of the old block, the value that replaces it.
    values: Vec<u8>,
}

impl Block {
    /// Rewrites the block, applying `change` to each node in order.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub(crate) fn rewrite<'a>(&self, change: impl FnMut(usize) -> Change<'a>) -> Result<Rewritten, BlockError> {
        self.rewrite_from(self.input, change)
    }

    /// [`rewrite`](Self::rewrite) with an input of another shape.
    pub(super) fn rewrite_from<'a>(
        &self,
        input: Shape,
        mut change: impl FnMut(usize) -> Change<'a>,
    ) -> Result<Rewritten, BlockError> {
        let mut builder = BlockBuilder::new(&self.name, self.role, input);
        let mut values = vec![BlockBuilder::INPUT];
        for (index, node) in self.nodes.iter().enumerate() {
            let inputs: Vec<u8> = node.inputs.iter().map(|&value| values[usize::from(value)]).collect();
            let weights = || self.weights_of(index).into_iter().cloned().collect();
            values.push(match change(index) {
                Change::Keep => builder.push(&node.name, node.op.clone(), &inputs, weights())?,
                Change::Replace(op, weights) => builder.push(&node.name, op, &inputs, weights)?,
                Change::Remove => inputs[0],
                Change::Splice(from, block) => builder.append(block, values[usize::from(from)])?,
            });
        }
        Ok(Rewritten { block: builder.finish()?, values })
    }

    /// The nodes that read a value.
    pub(crate) fn readers(&self, value: usize) -> impl Iterator<Item = usize> {
        let reads = move |node: &usize| self.nodes[*node].inputs.iter().any(|&read| usize::from(read) == value);
        (0..self.nodes.len()).filter(reads)
    }
}

impl Rewritten {
    /// Marks the old block's neighbourhoods in the new block.
    ///
    /// # Errors
    /// As [`Block::with_parts`].
    pub fn with_parts(self, parts: &[Part]) -> Result<Block, BlockError> {
        let renamed = |value: u8| self.values[usize::from(value)];
        let parts: Parts = parts.iter().map(|part| Part { from: renamed(part.from), to: renamed(part.to) }).collect();
        self.block.with_parts(parts)
    }
}
