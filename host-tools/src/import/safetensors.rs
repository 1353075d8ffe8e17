//! Networks from `.safetensors` files that we wrote: the weights by name, and a JSON description of the blocks.
//!
//! The metadata entry `distill` holds the description; `docs/run-in-pytorch.md` runs such a file in PyTorch. A node's
//! `weights` are indices into its block's list of weight names.

use anyhow::Result;
use distill_core::{Block, Contents, Interface, Manifest, Node, Nodes, Parts, Role, Shape, Weight};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::checkpoint::Checkpoint;
use crate::network::Network;

/// Key of the description in the file's metadata.
pub(crate) const KEY: &str = "distill";

/// As many as a pack holds.
const MAX_BLOCKS: usize = 4095;

/// A network without its weights.
#[derive(Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) architecture: String,
    pub(crate) mean: Vec<f32>,
    pub(crate) std: Vec<f32>,
    pub(crate) classes: Vec<String>,
    /// What a student was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made_from: Option<String>,
    /// Names and dimensions in the `.onnx` that the network came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<Interface>,
    pub(crate) blocks: Vec<BlockDescription>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct BlockDescription {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) input: Shape,
    pub(crate) nodes: Vec<Node>,
    #[serde(default)]
    pub(crate) parts: Parts,
    pub(crate) weights: Vec<String>,
}

/// Reads the bytes of an exported network of this name; `None` for a safetensors file without a description.
///
/// # Errors
/// A description that does not fit its weights.
pub fn decode(bytes: &[u8], name: &str) -> Result<Option<Network>> {
    let mut checkpoint = Checkpoint::from_safetensors(bytes)?;
    let Some(description) = checkpoint.metadata.get(KEY) else { return Ok(None) };
    let description: Description = serde_json::from_str(description)?;
    anyhow::ensure!(description.blocks.len() <= MAX_BLOCKS, "it describes more than {MAX_BLOCKS} blocks");
    let blocks: Result<Vec<Block>> =
        description.blocks.into_iter().map(|block| build(block, &mut checkpoint)).collect();
    let manifest = Manifest {
        contents: Contents::Network,
        architecture: description.architecture,
        mean: description.mean,
        std: description.std,
        classes: description.classes,
        source: name.to_owned(),
        source_sha256: Sha256::digest(bytes).into(),
        made_from: description.made_from.and_then(|kind| serde_json::from_value(kind.into()).ok()),
        interface: description.interface,
    };
    Network::new(manifest, blocks?).map(Some)
}

fn build(block: BlockDescription, checkpoint: &mut Checkpoint) -> Result<Block> {
    let weights: Result<Vec<Weight>> = block.weights.iter().map(|name| checkpoint.weight(name)).collect();
    let nodes = Nodes::from_slice(&block.nodes).map_err(|_| anyhow::anyhow!("a block has too many operators"))?;
    Ok(Block::new(block.name, block.role, block.input, nodes, weights?)?.with_parts(block.parts)?)
}
