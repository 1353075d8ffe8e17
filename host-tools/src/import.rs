//! A trained network's file becomes a network of blocks: read as a graph, simplified, and split.

mod checkpoint;
mod format;
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

pub use self::{
    checkpoint::{Checkpoint, TensorValues},
    normalisation::Normalisation,
    split::Split,
};
use self::{format::Format, simplify::simplify};
use crate::{
    images::cifar10,
    network::{Network, file_name},
};

/// What the file does not say, and what to take instead of what it says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportOptions {
    /// Architecture that a checkpoint must have; `None`: recognised by its tensors' names.
    pub architecture: Option<String>,
    /// `None`: the file's or its architecture's, else ImageNet's.
    pub normalisation: Option<Normalisation>,
    /// Shape of an image; `None`: the file's, or the usual one of its architecture.
    pub input: Option<Shape>,
    /// How large a neighbourhood is.
    pub split: Split,
}

/// Imports an ONNX file, a PyTorch checkpoint or a `.safetensors` file; the content says which it is.
///
/// # Errors
/// The file, an unknown architecture, tensors that do not fit it, or an operator that is not supported.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Network> {
    let read = || {
        let (format, bytes) = Format::read(path)?;
        let name = file_name(path);
        if format == Format::Onnx {
            ensure!(options.architecture.is_none(), "an ONNX file defines its architecture itself: leave --arch out");
            let folder = path.parent().unwrap_or(Path::new("."));
            let network = onnx_network(&bytes, folder, options, &name)?;
            if network.manifest.made_from.is_none() && onnx::seems_folded(&network.blocks) {
                log::warn!(
                    "{name} has no batch norms, whose statistics give the better noise. If the trained model has some, its \
                     exporter folded them away: export it again with one of\n{}",
                    onnx::KEEP_BATCH_NORMS
                );
            }
            return Ok(network);
        }
        if format == Format::Safetensors
            && let Some(network) = safetensors::decode(&bytes, &name)?
        {
            return exported(network, options);
        }
        network(Checkpoint::of(format, &bytes)?, options, (&name, &bytes))
    };
    read().with_context(|| format!("cannot import {}", path.display()))
}

/// A network of this name, such as `resnet20`, for these classes, whose weights are all zero: for training.
///
/// # Errors
/// An unknown name, or an option that says what the name does.
pub fn architecture(name: &str, classes: &[String], options: &ImportOptions) -> Result<Network> {
    ensure!(options.architecture.is_none(), "{name} is an architecture itself: leave --arch out");
    let checkpoint = pytorch::zeros(name, classes.len())?;
    let normalisation = options.normalisation.clone().or_else(|| Some(Normalisation::cifar10()));
    let network = network(checkpoint, &ImportOptions { normalisation, ..options.clone() }, (name, &[]))?;
    Ok(Network { manifest: Manifest { classes: classes.to_vec(), ..network.manifest }, ..network })
}

/// An exported student as a teacher: its file describes its blocks.
fn exported(mut network: Network, options: &ImportOptions) -> Result<Network> {
    let asked = options.architecture.is_some() || options.input.is_some() || options.split != Split::Unit;
    ensure!(!asked, "it describes its own blocks: leave --arch, --input and --split out");
    if let Some(Normalisation { mean, std }) = options.normalisation.clone() {
        network.manifest = Manifest { mean, std, ..network.manifest };
    }
    Network::new(network.manifest, network.blocks)
}

/// Imports a checkpoint that is already read; `source` is its file name and bytes.
pub fn network(mut checkpoint: Checkpoint, options: &ImportOptions, source: (&str, &[u8])) -> Result<Network> {
    let entry = |key: &str| checkpoint.metadata.get(key).map(String::as_str);
    let of_file = Normalisation::from_entries(entry("mean"), entry("std"))?;
    let built = pytorch::build(&mut checkpoint, options.architecture.as_deref(), options.input)?;
    let blocks = split::split(&built.graph, options.split)?;
    let is_cifar10 = built.graph.shape(0) == Shape::new(3, 32, 32)
        && blocks.last().is_some_and(|head| head.output().channels == cifar10::CLASSES.len());
    let classes = if is_cifar10 { cifar10::CLASSES.map(str::to_owned).to_vec() } else { Vec::new() };
    let manifest = manifest(options, of_file.or(built.normalisation), built.graph.shape(0), source);
    Network::new(Manifest { architecture: built.architecture, classes, ..manifest }, blocks)
}

pub(crate) fn onnx_network(bytes: &[u8], folder: &Path, options: &ImportOptions, name: &str) -> Result<Network> {
    let model = onnx::read(bytes, folder, options.input)?;
    let blocks = split::split(&simplify(model.graph)?, options.split)?;
    let architecture = Path::new(name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let manifest = manifest(options, model.normalisation, blocks[0].input(), (name, bytes));
    let (classes, made_from, interface) = (model.classes, model.made_from, Some(model.interface));
    Network::new(Manifest { architecture, classes, made_from, interface, ..manifest }, blocks)
}

/// The manifest of a network for images of this shape from the file `source`, without its architecture and classes.
fn manifest(
    options: &ImportOptions,
    of_file: Option<Normalisation>,
    image: Shape,
    (source, bytes): (&str, &[u8]),
) -> Manifest {
    let Normalisation { mean, std } = options.normalisation.clone().or(of_file).unwrap_or_else(|| {
        let (taken, normalisation) = Normalisation::usual(image.channels);
        log::warn!("the file does not say how its inputs are normalised: taking {taken} (see --normalise)");
        normalisation
    });
    Manifest {
        contents: Contents::Network,
        architecture: String::new(),
        mean,
        std,
        classes: Vec::new(),
        source: source.to_owned(),
        source_sha256: Sha256::digest(bytes).into(),
        made_from: None,
        interface: None,
    }
}
