//! Folds batch norms into the convolutions before them.
//!
//! A folded block computes the block's evaluation-mode output, with biases instead of batch norms. Students are made
//! from it: they need fewer passes and parameters, and their last convolution has a closed-form solution.

use alloc::{format, string::String, vec, vec::Vec};

use crate::{
    block::{
        Block, BlockError, Change,
        op::{BatchNorm, Op},
    },
    tensor::Weight,
};

/// Folds every batch norm that is the only reader of a convolution's output.
///
/// With `s = scale / sqrt(variance + ε)`, the kernel becomes `s · kernel` and the bias `shift + s · (bias − mean)`.
///
/// # Errors
/// As [`Block::new`]; a valid block folds to a valid block.
pub fn fold_batch_norms(block: &Block) -> Result<Block, BlockError> {
    let rewritten = block.rewrite(|index| {
        let node = &block.nodes()[index];
        let producer = usize::from(node.inputs[0]).checked_sub(1);
        if producer.is_some_and(|producer| norm_of(block, producer) == Some(index)) {
            return Change::Remove;
        }
        match norm_of(block, index) {
            Some(norm) => Change::Replace(node.op.clone(), folded_weights(block, index, norm)),
            None => Change::Keep,
        }
    });
    rewritten?.with_parts(block.parts())
}

/// The batch norm to fold into node `index`: the only reader of a convolution.
fn norm_of(block: &Block, index: usize) -> Option<usize> {
    matches!(block.nodes()[index].op, Op::Conv(_)).then_some(())?;
    let mut readers = block.readers(index + 1);
    let norm = readers.next()?;
    (readers.next().is_none() && matches!(block.nodes()[norm].op, Op::BatchNorm(_))).then_some(norm)
}

fn folded_weights(block: &Block, conv: usize, norm: usize) -> Vec<Weight> {
    let values = |slot: usize| block.weight(norm, slot).map_or(&[][..], |w| &w.data);
    let (scale, shift, mean, variance) = (values(0), values(1), values(2), values(3));
    let Op::BatchNorm(BatchNorm { epsilon }) = block.nodes()[norm].op else { return Vec::new() };
    let gain: Vec<f32> = scale.iter().zip(variance).map(|(s, v)| s / libm::sqrtf(v + epsilon)).collect();
    let Some(mut kernel) = block.weight(conv, 0).cloned() else { return Vec::new() };
    let per_filter = kernel.data.len() / gain.len();
    for (filter, gain) in kernel.data.chunks_exact_mut(per_filter).zip(&gain) {
        filter.iter_mut().for_each(|w| *w *= gain);
    }
    let old_bias = |channel: usize| block.weight(conv, 1).map_or(0.0, |bias| bias.data[channel]);
    let bias = (0..gain.len()).map(|c| shift[c] + gain[c] * (old_bias(c) - mean[c])).collect();
    let bias = Weight::new(bias_name(&kernel.name), &[gain.len()], bias);
    vec![kernel, bias]
}

fn bias_name(kernel: &str) -> String {
    format!("{}.bias", kernel.strip_suffix(".weight").unwrap_or(kernel))
}
