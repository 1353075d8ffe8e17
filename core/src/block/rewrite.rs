//! A block made from another, operator by operator: what folding, shrinking and every other transformation are made of.

use alloc::{vec, vec::Vec};

use super::{Block, BlockBuilder, BlockError, Part, Parts, op::Op};
use crate::tensor::{Shape, Weight};

/// What becomes of a node.
pub enum Change<'a> {
    /// It stays.
    Keep,
    /// Another operator takes its inputs, or the same with other weights.
    Replace(Op, Vec<Weight>),
    /// Whoever reads its value reads its first input instead.
    Remove,
    /// A block takes its place, and is fed a value of the old one's.
    Splice(u8, &'a Block),
}

/// A rewritten block.
pub struct Rewritten {
    /// Without neighbourhoods inside it.
    pub block: Block,
    /// For each value of the old block the one that stands for it.
    values: Vec<u8>,
}

impl Block {
    /// The block after `change` of each of its nodes, in order.
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

    /// Nodes that read a value.
    pub(crate) fn readers(&self, value: usize) -> impl Iterator<Item = usize> {
        let reads = move |node: &usize| self.nodes[*node].inputs.iter().any(|&read| usize::from(read) == value);
        (0..self.nodes.len()).filter(reads)
    }
}

impl Rewritten {
    /// The block with the neighbourhoods inside it that the old one has.
    ///
    /// # Errors
    /// As [`Block::with_parts`].
    pub fn with_parts(self, parts: &[Part]) -> Result<Block, BlockError> {
        let renamed = |value: u8| self.values[usize::from(value)];
        let parts: Parts = parts.iter().map(|part| Part { from: renamed(part.from), to: renamed(part.to) }).collect();
        self.block.with_parts(parts)
    }
}
