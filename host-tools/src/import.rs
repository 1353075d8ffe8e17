//! A file of a trained network becomes a network of blocks.

mod checkpoint;
mod graph;
mod normalisation;
pub(crate) mod onnx;
mod pytorch;
pub mod safetensors;
mod simplify;
mod split;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use distill_core::{Contents, Manifest, Shape};
use sha2::{Digest, Sha256};

use self::simplify::simplify;
pub use self::{
    checkpoint::{Checkpoint, TensorValues},
    normalisation::Normalisation,
    split::Split,
};
use crate::{images::cifar10, network::Network};

/// What the file does not tell, or what is wanted otherwise.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Architecture that a checkpoint must be of; `None`: told from its tensors' names.
    pub architecture: Option<String>,
    /// `None`: what the file or its architecture says, else ImageNet's.
    pub normalisation: Option<Normalisation>,
    /// Shape of an image; `None`: what the file says, or its architecture's usual one.
    pub input: Option<Shape>,
    /// How large a neighbourhood is.
    pub split: Split,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { architecture: None, normalisation: None, input: None, split: Split::Unit }
    }
}

/// Imports a file by its ending: `.onnx`, or a checkpoint of PyTorch's or of `.safetensors`.
///
/// # Errors
/// The file, an unknown architecture, tensors that do not fit it, or an operator we do not know.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Network> {
    let context = || format!("cannot import {}", path.display());
    let bytes = std::fs::read(path).with_context(context)?;
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    if path.extension().is_some_and(|ending| ending == "onnx") {
        ensure!(options.architecture.is_none(), "an ONNX file tells its architecture itself: leave --arch out");
        let folder = path.parent().unwrap_or(Path::new("."));
        return onnx_network(&bytes, folder, options, &name).with_context(context);
    }
    if path.extension().is_some_and(|ending| ending == "safetensors")
        && let Some(network) = safetensors::decode(&bytes, &name).with_context(context)?
    {
        return described(network, options).with_context(context);
    }
    network(Checkpoint::read(path)?, options, (&name, &bytes)).with_context(context)
}

/// A network whose file describes its blocks: an exported student as a teacher.
fn described(mut network: Network, options: &ImportOptions) -> Result<Network> {
    let asked = options.architecture.is_some() || options.input.is_some() || options.split != Split::Unit;
    ensure!(!asked, "it describes its own blocks: leave --arch, --input and --split out");
    if let Some(normalisation) = &options.normalisation {
        network.manifest.mean.clone_from(&normalisation.mean);
        network.manifest.std.clone_from(&normalisation.std);
    }
    Network::new(network.manifest, network.blocks)
}

/// Imports a checkpoint that is already read; `source` is its file name and bytes.
///
/// # Errors
/// As [`import`].
pub fn network(mut checkpoint: Checkpoint, options: &ImportOptions, source: (&str, &[u8])) -> Result<Network> {
    let of_file = Normalisation::from_metadata(&checkpoint)?;
    let built = pytorch::build(&mut checkpoint, options.architecture.as_deref(), options.input)?;
    let normalisation = of_file.or(built.normalisation);
    let blocks = split::split(&built.graph, options.split)?;
    let classes = blocks.last().map_or(0, |head| head.output().channels);
    let small = built.graph.shape(0) == Shape::new(3, 32, 32);
    let names = if classes == 10 && small { cifar10::CLASSES.map(str::to_owned).to_vec() } else { Vec::new() };
    let manifest = manifest(built.architecture, options, normalisation, (names, source));
    Network::new(manifest, blocks)
}

pub(crate) fn onnx_network(bytes: &[u8], folder: &Path, options: &ImportOptions, name: &str) -> Result<Network> {
    let model = onnx::read(bytes, folder, options.input)?;
    let normalisation =
        model.normalisation.map(|[mean, std]| Normalisation::parse(&format!("{mean}/{std}"))).transpose()?;
    let blocks = split::split(&simplify(model.graph)?, options.split)?;
    let architecture = Path::new(name).file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let manifest = manifest(architecture, options, normalisation, (model.classes, (name, bytes)));
    Network::new(manifest, blocks)
}

fn manifest(
    architecture: String,
    options: &ImportOptions,
    of_file: Option<Normalisation>,
    (classes, (source, bytes)): (Vec<String>, (&str, &[u8])),
) -> Manifest {
    let normalisation = options.normalisation.clone().or(of_file).unwrap_or_else(|| {
        log::warn!("the file does not say how its inputs were normalised: taking ImageNet's way (see --normalise)");
        Normalisation::imagenet()
    });
    Manifest {
        contents: Contents::Network,
        architecture,
        mean: normalisation.mean,
        std: normalisation.std,
        classes,
        source: source.to_owned(),
        source_sha256: Sha256::digest(bytes).into(),
    }
}
