//! Neighbourhoods inside a block: the layers of a residual unit, some at a time.
//!
//! A part is what lies between two values of a block and sees nothing else of it, such as two layers of a residual branch.
//! It is a block of its own while it is distilled; its student then takes its place.

use alloc::{vec, vec::Vec};

use serde::{Deserialize, Serialize};

use super::{Block, BlockError, rewrite::Change};

/// Neighbourhoods inside one block.
pub const MAX_PARTS: usize = 8;

/// Neighbourhoods inside a block; none where the whole block is one.
pub type Parts = heapless::Vec<Part, MAX_PARTS>;

/// A neighbourhood inside a block: all that lies between two of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u8; 2]", into = "[u8; 2]")]
pub struct Part {
    /// The value it takes.
    pub from: u8,
    /// The value it gives.
    pub to: u8,
}

impl From<[u8; 2]> for Part {
    fn from([from, to]: [u8; 2]) -> Self {
        Self { from, to }
    }
}

impl From<Part> for [u8; 2] {
    fn from(Part { from, to }: Part) -> Self {
        [from, to]
    }
}

impl Block {
    /// The block with these neighbourhoods inside it, in the order of their values.
    ///
    /// # Errors
    /// [`BlockError::Part`]: a value is not there, something else of the block reaches into a part, or two overlap.
    pub fn with_parts(mut self, parts: Parts) -> Result<Self, BlockError> {
        let mut taken = vec![false; self.nodes.len()];
        for &part in &parts {
            let nodes = self.part_nodes(part)?;
            if nodes.iter().any(|&node| core::mem::replace(&mut taken[node], true)) {
                return Err(self.no_part(part));
            }
        }
        self.parts = parts;
        Ok(self)
    }

    fn no_part(&self, Part { from, to }: Part) -> BlockError {
        BlockError::Part { block: self.name.clone(), from: from.into(), to: to.into() }
    }

    /// For each value up to `to`, whether `to` needs it after `from`: where that is 0, whether it needs it.
    pub(crate) fn needed(&self, from: usize, to: usize) -> Vec<bool> {
        let mut needed = vec![false; to + 1];
        needed[to] = true;
        for value in (1..=to).rev() {
            if needed[value] && value != from {
                self.nodes[value - 1].inputs.iter().for_each(|&input| needed[usize::from(input)] = true);
            }
        }
        needed
    }

    /// The nodes of a part, in order: all that value `to` needs after value `from`.
    pub(crate) fn part_nodes(&self, part: Part) -> Result<Vec<usize>, BlockError> {
        let (from, to) = (usize::from(part.from), usize::from(part.to));
        if from >= to || to > self.nodes.len() {
            return Err(self.no_part(part));
        }
        // What comes before `from` may not be needed.
        let needed = self.needed(from, to);
        let foreign = (0..from).any(|value| needed[value]);
        let nodes: Vec<usize> = (from + 1..=to).filter(|&value| needed[value]).map(|value| value - 1).collect();
        // What the part computes on the way may be read by nothing outside.
        let inner = nodes.iter().filter(|&&node| node + 1 != to);
        let leaks = inner.flat_map(|&node| self.readers(node + 1)).any(|reader| !nodes.contains(&reader));
        if foreign || leaks || !needed[from] { Err(self.no_part(part)) } else { Ok(nodes) }
    }

    /// A part as a block of its own.
    ///
    /// # Errors
    /// As [`with_parts`](Self::with_parts).
    pub fn part(&self, part: Part) -> Result<Self, BlockError> {
        let nodes = self.part_nodes(part)?;
        let change = |node: usize| if nodes.contains(&node) { Change::Keep } else { Change::Remove };
        Ok(self.rewrite_from(self.shape(part.from.into()), change)?.block)
    }

    /// The block with `student` in the place of a part.
    ///
    /// # Errors
    /// As [`Block::new`], if the student does not fit.
    pub fn with_part(&self, part: Part, student: &Self) -> Result<Self, BlockError> {
        let nodes = self.part_nodes(part)?;
        let rewritten = self.rewrite(|node| match nodes.contains(&node) {
            true if node + 1 == usize::from(part.to) => Change::Splice(part.from, student),
            true => Change::Remove,
            false => Change::Keep,
        });
        rewritten?.with_parts(&self.parts)
    }
}
