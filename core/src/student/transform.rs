//! How a student differs from its teacher: fewer layers, other activations, fewer channels.

use alloc::vec::Vec;

use crate::{
    block::{
        Block, BlockError, Change,
        op::{Activation, Op},
    },
    kernels::conv::Conv,
    recipe::Recipe,
    student::shrink,
};

impl Recipe {
    /// The student of a folded neighbourhood before anything is learned: the teacher with layers left out, other activations
    /// and fewer channels.
    ///
    /// # Errors
    /// As [`Block::new`]; a valid block gives a valid student.
    pub fn student(&self, teacher: &Block) -> Result<Block, BlockError> {
        // A device holds no more blocks than the recipe needs.
        let mut student = None;
        if self.fewer_layers > 0 {
            student = Some(without_layers(teacher, self.fewer_layers)?);
        }
        if let Some(activation) = self.activation {
            student = Some(replace_activations(student.as_ref().unwrap_or(teacher), activation)?);
        }
        shrink(student.as_ref().unwrap_or(teacher), self.width)
    }
}

/// The block with every ReLU-like activation inside it replaced: not that of its output, which the next block expects as it
/// is, and not those of gates.
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

/// The block without `count` of its layers, each with the norm and the activation behind it: dense convolutions that keep
/// their value's shape, the last of all excepted, the latest first. Fewer are left out where there are fewer.
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
        // A block's output stays something that is computed.
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
