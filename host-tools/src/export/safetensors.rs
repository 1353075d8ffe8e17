//! Networks as `.safetensors`, in the form that [`crate::import::safetensors`] reads.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use distill_core::{Block, Manifest};
use safetensors::{Dtype, tensor::TensorView};

use crate::{
    import::safetensors::{BlockDescription, Description, KEY},
    network::Network,
};

/// The bytes of a network's file.
pub fn encode(network: &Network) -> Result<Vec<u8>> {
    let describe = |block: &Block| BlockDescription {
        name: block.name().to_owned(),
        role: block.role(),
        input: block.input(),
        nodes: block.nodes().to_vec(),
        parts: block.parts().iter().copied().collect(),
        weights: block.weights().iter().map(|w| w.name.clone()).collect(),
    };
    let Manifest { architecture, mean, std, classes, made_from, interface, .. } = network.manifest.clone();
    let blocks = network.blocks.iter().map(describe).collect();
    let made_from = made_from.map(|source| source.to_string());
    let description = Description { architecture, mean, std, classes, made_from, interface, blocks };
    let description = serde_json::to_string(&description)?;
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
