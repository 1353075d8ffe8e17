//! What is in a file of blocks: shapes, parameters, operations, noise sources.

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use distill_core::{Block, Calibrated, Contents, Manifest, Role, Shape, inner_channels};
use distill_device::open_pack;
use serde::Serialize;

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
    /// Noise sources this network can be distilled with; none for a pack of students.
    pub noise: Vec<&'static str>,
    /// Noise images that it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibrated: Option<Calibrated>,
    /// Its blocks, in order.
    pub blocks: Vec<BlockLine>,
}

/// One block.
#[derive(Debug, Serialize)]
pub struct BlockLine {
    /// Number among the network's neighbourhoods, as `--blocks` takes it; stem, head and students have none.
    pub index: Option<usize>,
    /// Its name.
    pub name: String,
    /// Stem, neighbourhood or head.
    pub role: Role,
    /// Shape of its input.
    pub input: Shape,
    /// Shape of its output.
    pub output: Shape,
    /// Neighbourhoods inside it that are distilled one by one; 0 where the block is one.
    pub parts: usize,
    /// Channels that a smaller width takes from, per inner convolution.
    pub inner: Vec<usize>,
    /// Trained scalars.
    pub parameters: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
}

/// Reads any pack, a network's or one of students.
///
/// # Errors
/// The file.
pub fn read_blocks(path: &Path) -> Result<(Manifest, Vec<Block>)> {
    let mut pack = open_pack(path)?;
    let blocks: Result<Vec<Block>, _> = (0..pack.blocks()).map(|index| pack.block(index)).collect();
    Ok((pack.manifest().clone(), blocks.with_context(|| format!("cannot read {}", path.display()))?))
}

/// Looks at blocks.
pub fn inspect(manifest: &Manifest, blocks: &[Block]) -> Inspection {
    let whole = manifest.contents == Contents::Network;
    let mut number = 0..;
    let line = |block: &Block| BlockLine {
        index: (whole && block.role() == Role::Neighbourhood).then(|| number.next()).flatten(),
        name: block.name().to_owned(),
        role: block.role(),
        input: block.input(),
        output: block.output(),
        parts: block.parts().len(),
        inner: inner_channels(block),
        parameters: block.parameters(),
        macs: block.macs(),
    };
    let mut neighbourhoods = blocks.iter().filter(|block| block.role() == Role::Neighbourhood);
    let noise = match (whole, neighbourhoods.all(Block::has_statistics)) {
        (true, true) => vec!["standard", "propagated"],
        (true, false) => vec!["standard"],
        (false, _) => Vec::new(),
    };
    Inspection {
        architecture: manifest.architecture.clone(),
        source: manifest.source.clone(),
        parameters: blocks.iter().map(Block::parameters).sum(),
        macs: blocks.iter().map(Block::macs).sum(),
        noise,
        calibrated: None,
        blocks: blocks.iter().map(line).collect(),
    }
}

impl Inspection {
    /// With the noise images of its pack.
    pub fn with_calibrated(mut self, calibrated: Option<Calibrated>) -> Self {
        self.noise.extend(calibrated.map(|_| "calibrated"));
        Self { calibrated, ..self }
    }

    /// The table a person reads.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(UTF8_BORDERS_ONLY);
        table.set_header(["#", "block", "input", "output", "inner", "parameters", "MACs"]);
        for block in &self.blocks {
            let inner: Vec<String> = block.inner.iter().map(usize::to_string).collect();
            table.add_row([
                block.index.map_or_else(String::new, |i| i.to_string()),
                if block.parts > 0 { format!("{} in {}", block.name, block.parts) } else { block.name.clone() },
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
        let noise = match self.noise.as_slice() {
            [] => "students for this network: recompose them with their teacher".to_owned(),
            sources => format!("noise sources: {}", sources.join(", ")),
        };
        let images = self.calibrated.map_or_else(String::new, |Calibrated { images, mismatch, .. }| {
            format!(" ({images} images, mismatch {mismatch:.3})")
        });
        format!("{} from {}\n{table}\n{noise}{images}", self.architecture, self.source)
    }
}
