//! A narrower student of a block: the bottleneck multiplier `k` of the paper (section 3).
//!
//! Channel dimensions that must agree (through additions, pointwise operators and depthwise
//! convolutions) form a group. Groups that reach the block's input or output stay; every other
//! group keeps its strongest `max(1, ⌊k·C⌋)` channels, so the block's boundary never changes.

use alloc::{vec, vec::Vec};
use core::fmt;

use serde::Serialize;

use crate::{
    block::{Block, BlockError, Conv, Op, Weight},
    builder::BlockBuilder,
};

/// The bottleneck multiplier: above 0, at most 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Width(f32);

/// A number that is no [`Width`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WidthError(pub f32);

impl Width {
    /// Every channel kept.
    pub const FULL: Self = Self(1.0);

    /// # Errors
    /// [`WidthError`] unless `0 < k ≤ 1`.
    pub fn new(k: f32) -> Result<Self, WidthError> {
        if k > 0.0 && k <= 1.0 { Ok(Self(k)) } else { Err(WidthError(k)) }
    }

    /// Channels kept of `channels`: `⌊k·C⌋`, at least 1.
    pub fn of(self, channels: usize) -> usize {
        // The small term keeps 0.29 · 100 at 29.
        ((self.0 * channels as f32 + 1e-3) as usize).clamp(1, channels)
    }
}

/// Keeps the strongest inner channels of a folded block.
///
/// A channel's strength is ‖w_in‖·‖w_out‖: the norm of the weights that write it times the norm
/// of the weights that read it.
///
/// # Errors
/// As [`Block::new`]; a valid block shrinks to a valid block.
pub fn shrink(block: &Block, width: Width) -> Result<Block, BlockError> {
    let groups = channel_groups(block);
    let kept = kept_channels(block, &groups, width);
    let mut builder = BlockBuilder::new(block.name(), block.role(), block.input());
    for (index, node) in block.nodes().iter().enumerate() {
        let mut op = node.op.clone();
        let written = kept[groups[index + 1]].as_deref();
        let read = kept[groups[usize::from(node.inputs[0])]].as_deref();
        if let (Op::Conv(Conv { groups, .. }), Some(keep)) = (&mut op, written)
            && *groups > 1
        {
            *groups = keep.len() as u16;
        }
        // Only the kernel of a dense operator has a dimension for what it reads.
        let dense = matches!(node.op, Op::Conv(Conv { groups: 1, .. }) | Op::Linear);
        let narrowed = |(slot, &weight): (usize, &u8)| {
            let weight = &block.weights()[usize::from(weight)];
            weight.select([written, read.filter(|_| dense && slot == 0)])
        };
        let weights: Vec<Weight> = node.weights.iter().enumerate().map(narrowed).collect();
        builder.push(&node.name, op, &node.inputs, weights)?;
    }
    builder.finish()
}

/// Channels of each group that a width below 1 takes from, in the graph's order.
pub fn inner_channels(block: &Block) -> Vec<usize> {
    let groups = channel_groups(block);
    let inner = |&group: &usize| groups[group] == group && group != groups[0];
    (0..groups.len()).filter(inner).map(|group| block.shape(group).channels).collect()
}

/// For every value the group its channels belong to, named by the group's first value.
/// Groups tied to the block's boundary are the input's and the output's.
fn channel_groups(block: &Block) -> Vec<usize> {
    let values = block.nodes().len() + 1;
    let mut group: Vec<usize> = (0..values).collect();
    let mut tie = |a: usize, b: usize| {
        let (from, to) = (group[a].max(group[b]), group[a].min(group[b]));
        group.iter_mut().filter(|g| **g == from).for_each(|g| *g = to);
    };
    for (index, node) in block.nodes().iter().enumerate() {
        let read = usize::from(node.inputs[0]);
        match node.op {
            // A depthwise convolution keeps its channels apart; a dense one starts a new group.
            Op::Conv(conv)
                if conv.groups > 1
                    && [read, index + 1].iter().all(|&v| block.shape(v).channels == usize::from(conv.groups)) =>
            {
                tie(read, index + 1);
            }
            // Neither side of any other grouped convolution can shrink channel by channel: tie both to the boundary.
            Op::Conv(conv) if conv.groups > 1 => {
                tie(0, read);
                tie(0, index + 1);
            }
            Op::Conv(_) | Op::Linear => {}
            Op::BatchNorm { .. } | Op::Relu | Op::Subsample { .. } | Op::GlobalAveragePool => tie(read, index + 1),
            Op::Add => {
                tie(read, index + 1);
                tie(usize::from(node.inputs[1]), index + 1);
            }
            Op::PadChannels { .. } => {
                tie(0, read);
                tie(0, index + 1);
            }
        }
    }
    tie(0, values - 1);
    group
}

/// For every group (by its first value) the channels it keeps, ascending; `None` where it stays whole.
fn kept_channels(block: &Block, groups: &[usize], width: Width) -> Vec<Option<Vec<usize>>> {
    let fixed = groups[0];
    (0..groups.len())
        .map(|group| {
            if groups[group] != group || group == fixed {
                return None;
            }
            let channels = block.shape(group).channels;
            let keep = width.of(channels);
            if keep == channels {
                return None;
            }
            let strength = channel_strength(block, groups, group);
            let mut order: Vec<usize> = (0..channels).collect();
            order.sort_by(|&a, &b| strength[b].total_cmp(&strength[a]).then(a.cmp(&b)));
            order.truncate(keep);
            order.sort_unstable();
            Some(order)
        })
        .collect()
}

/// ‖w_in‖·‖w_out‖ per channel of a group (squared; the order is the same).
fn channel_strength(block: &Block, groups: &[usize], group: usize) -> Vec<f32> {
    let channels = block.shape(group).channels;
    let (mut written, mut read) = (vec![0.0f32; channels], vec![0.0f32; channels]);
    for (index, node) in block.nodes().iter().enumerate() {
        let Some(kernel) = block.weight(index, 0).filter(|w| w.dims.len() >= 2) else { continue };
        let outputs = kernel.dims[0] as usize;
        let inputs = kernel.dims[1] as usize;
        let area = kernel.data.len() / (outputs * inputs);
        for (position, tap) in kernel.data.chunks_exact(area).enumerate() {
            let energy: f32 = tap.iter().map(|w| w * w).sum();
            if groups[index + 1] == group {
                written[position / inputs] += energy;
            } else if groups[usize::from(node.inputs[0])] == group {
                read[position % inputs] += energy;
            }
        }
    }
    written.iter().zip(&read).map(|(w, r)| w * r).collect()
}

impl fmt::Display for WidthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "width {} is not above 0 and at most 1", self.0)
    }
}

impl core::error::Error for WidthError {}
