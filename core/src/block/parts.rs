//! Neighbourhoods inside a block: subsets of the layers of a residual unit.
//!
//! A part is the sub-graph between two values of a block that has no other connection to it, such as two layers of a
//! residual branch. It is distilled as a block of its own; its student then replaces it.

use alloc::{vec, vec::Vec};

use serde::{Deserialize, Serialize};

use super::{Block, BlockError, rewrite::Change};

/// Maximum neighbourhoods inside one block.
pub const MAX_PARTS: usize = 8;

/// Neighbourhoods inside a block; empty if the whole block is one.
pub type Parts = heapless::Vec<Part, MAX_PARTS>;

/// A neighbourhood inside a block: the sub-graph between two of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u8; 2]", into = "[u8; 2]")]
pub struct Part {
    /// Its input value.
    pub from: u8,
    /// Its output value.
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
    /// Marks neighbourhoods inside the block, in the order of their values.
    ///
    /// # Errors
    /// [`BlockError::Part`] if a value does not exist, a part has other connections to the block, or two parts overlap.
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

    /// For each value up to `to`, whether `to` depends on it by a path that does not pass through `from`.
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

    /// The nodes of a part, in order: those that compute `to` from `from`.
    pub(crate) fn part_nodes(&self, part: Part) -> Result<Vec<usize>, BlockError> {
        let (from, to) = (usize::from(part.from), usize::from(part.to));
        if from >= to || to > self.nodes.len() {
            return Err(self.no_part(part));
        }
        // A part must not read values from before `from`.
        let needed = self.needed(from, to);
        let foreign = (0..from).any(|value| needed[value]);
        let nodes: Vec<usize> = (from + 1..=to).filter(|&value| needed[value]).map(|value| value - 1).collect();
        // Nodes outside must not read the part's intermediate values.
        let inner = nodes.iter().filter(|&&node| node + 1 != to);
        let leaks = inner.flat_map(|&node| self.readers(node + 1)).any(|reader| !nodes.contains(&reader));
        if foreign || leaks || !needed[from] { Err(self.no_part(part)) } else { Ok(nodes) }
    }

    /// Copies a part into a block of its own.
    ///
    /// # Errors
    /// As [`with_parts`](Self::with_parts).
    pub fn part(&self, part: Part) -> Result<Self, BlockError> {
        let nodes = self.part_nodes(part)?;
        let change = |node: usize| if nodes.contains(&node) { Change::Keep } else { Change::Remove };
        Ok(self.rewrite_from(self.shape(part.from.into()), change)?.block)
    }

    /// Replaces a part by `student`.
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
