//! Untrained students: the teacher's block without batch norms and with fewer inner channels.

mod fold;
mod pruning;
mod shrink;
mod transform;
mod unchanged;

pub use self::{
    fold::fold_batch_norms,
    pruning::{Group, Kernel, cheapest, prunable, prune},
    shrink::{ChannelClasses, inner_channels, inner_nodes, shrink},
    transform::{replace_activations, without_layers},
    unchanged::Unchanged,
};
