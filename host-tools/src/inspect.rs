//! What is in a pack or safetensors network: blocks, shapes, parameters, operations, noise sources.

use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use distill_core::{Block, Role, Shape};
use serde::Serialize;

use crate::network::Network;

/// The object `inspect --json` prints.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The importer's name for the network.
    pub architecture: String,
    /// File it came from.
    pub source: String,
    /// Trained scalars.
    pub parameters: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Noise sources this network can be distilled with.
    pub noise: Vec<&'static str>,
    /// Its blocks, in order.
    pub blocks: Vec<BlockLine>,
}

/// One block.
#[derive(Debug, Serialize)]
pub struct BlockLine {
    /// Number among the neighbourhoods, as `--blocks` takes it; stem and head have none.
    pub index: Option<usize>,
    /// Its name.
    pub name: String,
    /// Stem, neighbourhood or head.
    pub role: Role,
    /// Shape of its input.
    pub input: Shape,
    /// Shape of its output.
    pub output: Shape,
    /// Channels that a smaller width takes from, per inner convolution.
    pub inner: Vec<usize>,
    /// Trained scalars.
    pub parameters: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
}

/// Looks at a network.
pub fn inspect(network: &Network) -> Inspection {
    let mut number = 0..;
    let line = |block: &Block| BlockLine {
        index: (block.role() == Role::Neighbourhood).then(|| number.next()).flatten(),
        name: block.name().to_owned(),
        role: block.role(),
        input: block.input(),
        output: block.output(),
        inner: distill_core::inner_channels(block),
        parameters: block.parameters(),
        macs: block.macs(),
    };
    let mut noise = vec!["standard"];
    if network.blocks.iter().any(Block::has_statistics) {
        noise.push("propagated");
    }
    Inspection {
        architecture: network.manifest.architecture.clone(),
        source: network.manifest.source.clone(),
        parameters: network.parameters(),
        macs: network.macs(),
        noise,
        blocks: network.blocks.iter().map(line).collect(),
    }
}

impl Inspection {
    /// The table a person reads.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(UTF8_HORIZONTAL_ONLY);
        table.set_header(["#", "block", "input", "output", "inner", "parameters", "MACs"]);
        for block in &self.blocks {
            let inner: Vec<String> = block.inner.iter().map(usize::to_string).collect();
            table.add_row([
                block.index.map_or_else(String::new, |i| i.to_string()),
                block.name.clone(),
                block.input.to_string(),
                block.output.to_string(),
                inner.join(","),
                block.parameters.to_string(),
                block.macs.to_string(),
            ]);
        }
        table.add_row(["", "total", "", "", "", &self.parameters.to_string(), &self.macs.to_string()]);
        for index in [0, 5, 6] {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        format!("{} from {}\n{table}\nnoise sources: {}", self.architecture, self.source, self.noise.join(", "))
    }
}
