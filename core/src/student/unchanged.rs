//! Why a student is its teacher's block.

use core::fmt;

use serde::Serialize;

use crate::{
    block::{Block, BlockError},
    recipe::Recipe,
    student::ChannelClasses,
};

/// Why a recipe does not change a block. Of several parts of a block, the reason that comes last counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Unchanged {
    /// No path from its input to its output has two layers: every channel is the input's or the output's.
    SingleLayer,
    /// Additions, gates, depthwise or grouped convolutions, or slices tie every channel inside it to its input or output.
    Tied,
    /// So many of its channels, or groups of them, are kept that rounding makes it all.
    Rounded,
    /// The width is 1.
    FullWidth,
    /// A sparsity was asked for, but there is no ordinary convolution that it takes anything from.
    Dense,
}

impl Recipe {
    /// Why this recipe's student of a folded block is the block itself; `None` if it differs.
    ///
    /// # Errors
    /// As [`student`](Self::student).
    pub fn unchanged(&self, folded: &Block) -> Result<Option<Unchanged>, BlockError> {
        if folded.parts().is_empty() {
            return self.unchanged_whole(folded);
        }
        let mut reason = Some(Unchanged::SingleLayer);
        for &part in folded.parts() {
            reason = reason.zip(self.unchanged_whole(&folded.part(part)?)?).map(|(one, other)| one.max(other));
        }
        Ok(reason)
    }

    fn unchanged_whole(&self, folded: &Block) -> Result<Option<Unchanged>, BlockError> {
        if !self.pruned(folded).is_empty() || self.student(folded)? != *folded {
            return Ok(None);
        }
        if self.is_sparse() && self.width.k() == 1.0 {
            return Ok(Some(Unchanged::Dense));
        }
        Ok(Some(match ChannelClasses::of(folded).has_inner() {
            true if self.width.k() == 1.0 => Unchanged::FullWidth,
            true => Unchanged::Rounded,
            false if most_layers(folded) < 2 => Unchanged::SingleLayer,
            false => Unchanged::Tied,
        }))
    }
}

/// Layers on the longest path through a block.
fn most_layers(block: &Block) -> usize {
    let mut layers = alloc::vec![0];
    for node in block.nodes() {
        let before = node.inputs.iter().map(|&value| layers[usize::from(value)]).max().unwrap_or(0);
        layers.push(before + usize::from(node.op.is_layer()));
    }
    layers.last().copied().unwrap_or(0)
}

impl fmt::Display for Unchanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SingleLayer => "without two layers in a row, all channels are of the input or the output",
            Self::Tied => {
                "additions, gates, depthwise convolutions or slices tie all channels to the input or the output"
            }
            Self::Rounded => "rounding keeps all channels at this width",
            Self::FullWidth => "a width of 1 keeps all channels",
            Self::Dense => "no weight of an ordinary convolution in it is to be removed",
        })
    }
}
