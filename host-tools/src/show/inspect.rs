//! What a file of blocks holds: shapes, parameters, operations, noise sources.

use distill_core::{
    Block, Calibrated, Calibration, Contents, Manifest, Pack, ReadAt, Role, Shape, SourceKind, Weight, inner_channels,
};
use distill_device::{hex, parameters};
use serde::Serialize;

use super::table;
use crate::learn::Distance;

/// The object `inspect --json` prints.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The network's name.
    pub architecture: String,
    /// File that it was imported from.
    pub source: String,
    /// Trained scalars.
    pub parameters: usize,
    /// Those of its kernels that are zero.
    pub zeros: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// What is taken from pixels in 0..1, by channel.
    pub mean: Vec<f32>,
    /// What they are then divided by.
    pub deviation: Vec<f32>,
    /// Noise sources that the network can be distilled with; empty for a pack of students.
    pub noise: Vec<&'static str>,
    /// The noise images in its pack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibrated: Option<NoiseLine>,
    /// SHA-256 by which students know the network of a pack as their teacher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// What its pack says of its signer, unchecked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<SignatureLine>,
    /// What its students were made from; `None` for a teacher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_from: Option<SourceKind>,
    /// Its blocks, in order.
    pub blocks: Vec<BlockLine>,
}

/// The noise images in a pack.
#[derive(Debug, Serialize)]
pub struct NoiseLine {
    /// How they were made.
    pub calibration: Calibration,
    /// Number of images.
    pub images: u32,
    /// Shape of one image.
    pub shape: Shape,
    /// What they are pulled towards, and what is left of the way.
    #[serde(flatten)]
    pub distance: Distance,
}

/// What a pack says of its signer.
#[derive(Debug, Serialize)]
pub struct SignatureLine {
    /// Public key, in hexadecimal.
    pub signer: String,
    /// Number of the release.
    pub counter: u64,
}

#[derive(Debug, Serialize)]
pub struct BlockLine {
    /// Number among the network's neighbourhoods, as `--blocks` takes it; `None` for stem, head and students.
    pub index: Option<usize>,
    pub name: String,
    pub role: Role,
    pub input: Shape,
    pub output: Shape,
    /// Parts of it that are distilled one by one; 0 if it is distilled as a whole.
    pub parts: usize,
    /// Channels of each inner convolution, which a smaller width reduces.
    pub inner: Vec<usize>,
    pub parameters: usize,
    /// Weights of its kernels that are zero.
    pub zeros: usize,
    pub macs: u64,
    /// Its kernels and matrices.
    pub kernels: Vec<KernelLine>,
}

#[derive(Debug, Serialize)]
pub struct KernelLine {
    /// Its name, as `--sparsities` takes that of a convolution.
    pub name: String,
    /// Its extents, outputs first.
    pub extents: Vec<u32>,
    /// Weights that are zero.
    pub zeros: usize,
}

/// Describes blocks.
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
        zeros: block.zeros(),
        macs: block.macs(),
        kernels: kernels(block).map(KernelLine::of).collect(),
    };
    let neighbourhoods: Vec<&Block> = blocks.iter().filter(|block| block.role() == Role::Neighbourhood).collect();
    // As a plan requires it: nothing reads what the last neighbourhood gives.
    let spreading = &neighbourhoods[..neighbourhoods.len().saturating_sub(1)];
    let has_statistics = blocks.iter().any(Block::has_statistics) && spreading.iter().all(|b| b.has_statistics());
    let noise = match (whole, has_statistics) {
        (true, true) => vec!["standard", "propagated"],
        (true, false) => vec!["standard"],
        (false, _) => Vec::new(),
    };
    Inspection {
        architecture: manifest.architecture.clone(),
        source: manifest.source.clone(),
        parameters: blocks.iter().map(Block::parameters).sum(),
        zeros: blocks.iter().map(Block::zeros).sum(),
        macs: blocks.iter().map(Block::macs).sum(),
        mean: manifest.mean.clone(),
        deviation: manifest.std.clone(),
        noise,
        calibrated: None,
        fingerprint: None,
        signature: None,
        made_from: manifest.made_from,
        blocks: blocks.iter().map(line).collect(),
    }
}

fn kernels(block: &Block) -> impl Iterator<Item = &Weight> {
    block.weights().iter().filter(|weight| weight.is_kernel())
}

impl KernelLine {
    fn of(kernel: &Weight) -> Self {
        Self { name: kernel.name.clone(), extents: kernel.dims.to_vec(), zeros: kernel.zeros() }
    }
}

impl Inspection {
    /// Adds the noise images and the signature of its pack.
    pub fn of_pack<R: ReadAt>(mut self, pack: &Pack<R>) -> Self {
        self.noise.extend(pack.calibrated().map(|_| "calibrated"));
        let line = |calibrated: &Calibrated| {
            let &Calibrated { calibration, images, shape, .. } = calibrated;
            NoiseLine { calibration, images, shape, distance: Distance::of(calibrated) }
        };
        let signature = pack.signature();
        let signature =
            signature.map(|signature| SignatureLine { signer: hex(&signature.signer), counter: signature.counter });
        Self {
            fingerprint: Some(pack.fingerprint().to_string()),
            calibrated: pack.calibrated().map(line),
            signature,
            ..self
        }
    }

    /// The table that a person reads.
    pub fn table(&self) -> String {
        let titles = ["#", "block", "input", "output", "inner", "parameters", "MACs"];
        let row = |block: &BlockLine| {
            let inner: Vec<String> = block.inner.iter().map(usize::to_string).collect();
            [
                block.index.map_or_else(String::new, |i| i.to_string()),
                if block.parts > 0 { format!("{} in {}", block.name, block.parts) } else { block.name.clone() },
                block.input.to_string(),
                block.output.to_string(),
                inner.join(","),
                parameters(block.parameters, block.zeros),
                block.macs.to_string(),
            ]
        };
        let total = ["", "total", "", "", "", &parameters(self.parameters, self.zeros), &self.macs.to_string()]
            .map(str::to_owned);
        let table = table(titles, &[0, 5, 6], self.blocks.iter().map(row).chain([total]));
        let noise = match self.noise.as_slice() {
            [] => "students for this network: recompose them with their teacher".to_owned(),
            sources => format!("noise sources: {}", sources.join(", ")),
        };
        let images = self
            .calibrated
            .as_ref()
            .map_or_else(String::new, |NoiseLine { images, distance, .. }| format!(" ({images} images {distance})"));
        let made = match self.made_from {
            Some(source) if source.is_without_data() => format!("\nmade without data, from {source} noise"),
            Some(source) => format!("\nmade from images of a data set ({source})"),
            None => String::new(),
        };
        let signed = self.signature.as_ref().map_or_else(String::new, |SignatureLine { signer, counter }| {
            format!("\nsays to be signed by {signer}, release {counter} (--require-signed-by checks it)")
        });
        let pixels = format!("pixels: mean {:?}, deviation {:?}", self.mean, self.deviation);
        format!("{} from {}\n{table}\n{pixels}\n{noise}{images}{made}{signed}", self.architecture, self.source)
    }
}
