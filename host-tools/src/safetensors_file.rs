//! Networks as `.safetensors`: the weights by name, and a JSON description of the blocks.
//!
//! The metadata entry `distill` holds the description; `docs/run-in-pytorch.md` runs such a file in
//! PyTorch. A node's `weights` are indices into its block's list of weight names.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result, ensure};
use distill_core::{Block, Contents, Manifest, Node, Nodes, Parts, Role, Shape, Weight};
use safetensors::{Dtype, tensor::TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    checkpoint::{Checkpoint, TensorValues},
    network::Network,
};

/// Key of the description in the file's metadata.
const KEY: &str = "distill";

/// The whole network without its weights.
#[derive(Serialize, Deserialize)]
struct Description {
    architecture: String,
    mean: Vec<f32>,
    std: Vec<f32>,
    classes: Vec<String>,
    blocks: Vec<BlockDescription>,
}

#[derive(Serialize, Deserialize)]
struct BlockDescription {
    name: String,
    role: Role,
    input: Shape,
    nodes: Vec<Node>,
    #[serde(default)]
    parts: Parts,
    weights: Vec<String>,
}

/// The bytes of a network's file.
///
/// # Errors
/// Two weights of one name.
pub fn encode(network: &Network) -> Result<Vec<u8>> {
    let describe = |block: &Block| BlockDescription {
        name: block.name().to_owned(),
        role: block.role(),
        input: block.input(),
        nodes: block.nodes().to_vec(),
        parts: block.parts().iter().copied().collect(),
        weights: block.weights().iter().map(|w| w.name.clone()).collect(),
    };
    let Manifest { architecture, mean, std, classes, .. } = network.manifest.clone();
    let blocks = network.blocks.iter().map(describe).collect();
    let description = serde_json::to_string(&Description { architecture, mean, std, classes, blocks })?;
    let mut tensors: Vec<(&str, Vec<usize>, Vec<u8>)> = Vec::new();
    for weight in network.blocks.iter().flat_map(Block::weights) {
        let bytes = weight.data.iter().flat_map(|v| v.to_le_bytes()).collect();
        let dims = weight.dims.iter().map(|&d| d as usize).collect();
        ensure!(tensors.iter().all(|(name, ..)| *name != weight.name), "two weights are called {}", weight.name);
        tensors.push((&weight.name, dims, bytes));
    }
    let views: Result<Vec<_>, _> = tensors
        .iter()
        .map(|(name, dims, bytes)| TensorView::new(Dtype::F32, dims.clone(), bytes).map(|view| (*name, view)))
        .collect();
    let metadata = HashMap::from([(KEY.to_owned(), description)]);
    Ok(safetensors::serialize(views?, Some(metadata))?)
}

/// Reads a network that was exported; `None` for a safetensors file without a description.
///
/// # Errors
/// The file, or a description that its weights do not fit.
pub fn read(path: &Path) -> Result<Option<Network>> {
    let context = || format!("cannot read {}", path.display());
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    decode(&std::fs::read(path).with_context(context)?, &name).with_context(context)
}

/// Reads the bytes of such a file, of this name.
///
/// # Errors
/// As [`read`].
pub fn decode(bytes: &[u8], name: &str) -> Result<Option<Network>> {
    let mut checkpoint = Checkpoint::from_safetensors(bytes)?;
    let Some(description) = checkpoint.metadata.get(KEY) else { return Ok(None) };
    let description: Description = serde_json::from_str(description)?;
    let mut build = |block: BlockDescription| -> Result<Block> {
        let take = |name: String| -> Result<Weight> {
            let TensorValues { dims, data } = checkpoint.take(&name)?;
            ensure!((1..=4).contains(&dims.len()), "tensor {name} has {} dimensions", dims.len());
            Ok(Weight::new(name, &dims, data))
        };
        let weights: Result<Vec<Weight>> = block.weights.into_iter().map(take).collect();
        let nodes = Nodes::from_slice(&block.nodes).map_err(|_| anyhow::anyhow!("a block has too many operators"))?;
        Ok(Block::new(block.name, block.role, block.input, nodes, weights?)?.with_parts(block.parts)?)
    };
    let blocks: Result<Vec<Block>> = description.blocks.into_iter().map(&mut build).collect();
    let manifest = Manifest {
        contents: Contents::Network,
        architecture: description.architecture,
        mean: description.mean,
        std: description.std,
        classes: description.classes,
        source: name.to_owned(),
        source_sha256: Sha256::digest(bytes).into(),
    };
    Network::new(manifest, blocks?).map(Some)
}
