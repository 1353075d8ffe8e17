//! Neighbourhoods inside a block: the layers of a residual unit, some at a time.
//!
//! A part is what lies between two values of a block and sees nothing else of it, such as two layers of a residual branch.
//! It is a block of its own while it is distilled; its student then takes its place.

use alloc::{vec, vec::Vec};

use super::{Block, Parts};
use crate::block::{BlockBuilder, BlockError};

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

    fn no_part(&self, [from, to]: [u8; 2]) -> BlockError {
        BlockError::Part { block: self.name.clone(), from: from.into(), to: to.into() }
    }

    /// For each value up to `to`, whether `to` needs it after `from`: where that is 0, whether it needs it.
    pub(crate) fn needed(&self, [from, to]: [usize; 2]) -> Vec<bool> {
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
    pub(crate) fn part_nodes(&self, part: [u8; 2]) -> Result<Vec<usize>, BlockError> {
        let [from, to] = part.map(usize::from);
        if from >= to || to > self.nodes.len() {
            return Err(self.no_part(part));
        }
        // What comes before `from` may not be needed.
        let needed = self.needed([from, to]);
        let foreign = (0..from).any(|value| needed[value]);
        let nodes: Vec<usize> = (from + 1..=to).filter(|&value| needed[value]).map(|value| value - 1).collect();
        // What the part computes on the way may be read by nothing outside.
        let inner = |value: u8| value != part[1] && nodes.contains(&usize::from(value).wrapping_sub(1));
        let outside = (0..self.nodes.len()).filter(|node| !nodes.contains(node));
        let leaks = outside.flat_map(|node| &self.nodes[node].inputs).any(|&value| inner(value));
        if foreign || leaks || !needed[from] { Err(self.no_part(part)) } else { Ok(nodes) }
    }

    /// A part as a block of its own.
    ///
    /// # Errors
    /// As [`with_parts`](Self::with_parts).
    pub fn part(&self, part: [u8; 2]) -> Result<Self, BlockError> {
        let mut builder = BlockBuilder::new(&self.name, self.role, self.shape(part[0].into()));
        let mut renamed = vec![0; self.nodes.len() + 1];
        for node in self.part_nodes(part)? {
            self.copy_node(node, &mut renamed, &mut builder)?;
        }
        builder.finish()
    }

    /// The block with `student` in the place of a part.
    ///
    /// # Errors
    /// As [`Block::new`], if the student does not fit.
    pub fn with_part(&self, part: [u8; 2], student: &Self) -> Result<Self, BlockError> {
        let nodes = self.part_nodes(part)?;
        let mut builder = BlockBuilder::new(&self.name, self.role, self.input);
        let mut renamed = vec![0; self.nodes.len() + 1];
        for node in 0..self.nodes.len() {
            if !nodes.contains(&node) {
                self.copy_node(node, &mut renamed, &mut builder)?;
            } else if node + 1 == usize::from(part[1]) {
                let mut inside = vec![0; student.nodes.len() + 1];
                inside[0] = renamed[usize::from(part[0])];
                for node in 0..student.nodes.len() {
                    student.copy_node(node, &mut inside, &mut builder)?;
                }
                renamed[node + 1] = inside[student.nodes.len()];
            }
        }
        let rename = |&[from, to]: &[u8; 2]| [renamed[usize::from(from)], renamed[usize::from(to)]];
        builder.finish()?.with_parts(self.parts.iter().map(rename).collect())
    }

    /// Appends node `node` to another graph, where `renamed` tells the values it reads.
    fn copy_node(&self, node: usize, renamed: &mut [u8], builder: &mut BlockBuilder) -> Result<(), BlockError> {
        let inputs: Vec<u8> = self.nodes[node].inputs.iter().map(|&value| renamed[usize::from(value)]).collect();
        let weights = self.weights_of(node).into_iter().cloned().collect();
        let name = &self.nodes[node].name;
        renamed[node + 1] = builder.push(name, self.nodes[node].op.clone(), &inputs, weights)?;
        Ok(())
    }
}
