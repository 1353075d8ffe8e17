//! Transformations of the teacher's block into a student: fewer layers, other activations, fewer channels.

use alloc::vec::Vec;

use crate::{
    block::{
        Block, BlockError, Change,
        op::{Activation, Op},
    },
    kernels::conv::Conv,
    recipe::Recipe,
    student::{pruning::with_biases, shrink::shrink_rounded},
};

impl Recipe {
    /// The untrained student of a folded neighbourhood: with fewer layers, other activations and fewer channels.
    ///
    /// # Errors
    /// As [`Block::new`]; a valid block yields a valid student.
    pub fn student(&self, teacher: &Block) -> Result<Block, BlockError> {
        // Do not copy the block for steps that the recipe leaves out.
        let mut student = None;
        if self.fewer_layers > 0 {
            student = Some(without_layers(teacher, self.fewer_layers)?);
        }
        if let Some(activation) = self.activation {
            student = Some(replace_activations(student.as_ref().unwrap_or(teacher), activation)?);
        }
        with_biases(shrink_rounded(student.as_ref().unwrap_or(teacher), self.width, self.round_to)?, self)
    }
}

/// Replaces every ReLU-like activation in the block, except gates and the output's, which the next block expects.
///
/// # Errors
/// As [`Block::new`].
pub fn replace_activations(block: &Block, with: Activation) -> Result<Block, BlockError> {
    let gates = |activation: &Activation| matches!(activation, Activation::Sigmoid | Activation::HardSigmoid { .. });
    let last = block.nodes().len() - 1;
    let rewritten = block.rewrite(|index| match &block.nodes()[index].op {
        Op::Activation(activation) if index < last && !gates(activation) => {
            Change::Replace(Op::Activation(with), Vec::new())
        }
        _ => Change::Keep,
    });
    Ok(rewritten?.block)
}

/// Removes up to `count` layers, the last first, each with the norm and activation after it. Candidates are the dense
/// convolutions that keep their input's shape, except the last dense convolution.
///
/// # Errors
/// As [`Block::new`].
pub fn without_layers(block: &Block, count: usize) -> Result<Block, BlockError> {
    let nodes = block.nodes();
    let last = nodes.iter().rposition(|node| matches!(node.op, Op::Conv(Conv { groups: 1, .. })));
    let keeps_shape = |&index: &usize| {
        let dense = matches!(nodes[index].op, Op::Conv(Conv { groups: 1, .. }));
        dense && block.shape(nodes[index].inputs[0].into()) == block.shape(index + 1)
    };
    let mut gone: Vec<usize> = (0..last.unwrap_or(0)).rev().filter(keeps_shape).take(count).collect();
    for layer in gone.clone() {
        let mut value = layer + 1;
        // Keep the last node: the block's output must be computed.
        while let [reader] = block.readers(value).collect::<Vec<_>>()[..] {
            if !matches!(nodes[reader].op, Op::BatchNorm(_) | Op::Activation(_)) || reader + 1 == nodes.len() {
                break;
            }
            gone.push(reader);
            value = reader + 1;
        }
    }
    let change = |index: usize| if gone.contains(&index) { Change::Remove } else { Change::Keep };
    Ok(block.rewrite(change)?.block)
}
