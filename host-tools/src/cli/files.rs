//! The networks' files that commands read and write.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::Args;
use distill_core::{Manifest, Shape};
use distill_device::{check_replaces_pack, check_writable};
use distill_host::{
    export,
    import::{ImportOptions, Normalisation, Split, import},
    network::{Network, ending, is_pack},
};

/// How a model's file is read.
#[derive(Args, Default)]
pub struct ReadOptions {
    /// Architecture that the tensors must have, such as resnet20 [default: recognised by their names and shapes]
    #[arg(long, value_name = "A")]
    arch: Option<String>,
    /// How pixels in 0..1 are normalised: imagenet, cifar10, efficientnet-lite or M,M,M/S,S,S [default: as the file or its
    /// architecture says, else imagenet; without three channels 0/1]
    #[arg(long, value_name = "N")]
    normalise: Option<String>,
    /// Shape of an image, such as 3x224x224 [default: as the file says, or usual for its architecture]
    #[arg(long, value_name = "CxHxW")]
    input: Option<String>,
    /// Size of a neighbourhood: unit, layer or a number of layers
    #[arg(long, value_name = "S", default_value_t = Split::Unit)]
    split: Split,
}

impl ReadOptions {
    pub fn options(&self) -> Result<ImportOptions> {
        Ok(ImportOptions {
            normalisation: self.normalise.as_deref().map(Normalisation::parse).transpose()?,
            architecture: self.arch.clone(),
            input: self.input.as_deref().map(image_shape).transpose()?,
            split: self.split,
        })
    }
}

/// Checks before any work that a network can be written to `output` without replacing what it is made from.
pub fn check_output<'a>(output: &Path, inputs: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
    export::check_ending(output)?;
    if ending(output) == "ndp" {
        check_replaces_pack(output)?;
    }
    check_writable(output, inputs.map(PathBuf::as_path))
}

/// Reads a network: a pack, or what `import` reads. A pack's normalisation can be replaced, everything else in it is known.
pub fn read_network(path: &Path, options: &ReadOptions) -> Result<Network> {
    let mut options = options.options()?;
    if !is_pack(path) {
        return import(path, &options);
    }
    let network = Network::read_pack(path)?;
    let normalisation = options.normalisation.take();
    let is_rest_usual = options == ImportOptions::default();
    ensure!(is_rest_usual, "{} is a pack, which is imported already: only --normalise applies", path.display());
    match normalisation {
        Some(Normalisation { mean, std }) => Network::new(Manifest { mean, std, ..network.manifest }, network.blocks),
        None => Ok(network),
    }
}

/// `3x224x224`.
fn image_shape(text: &str) -> Result<Shape> {
    let extents: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
    match extents.as_deref() {
        Ok(&[channels, height, width]) => Ok(Shape::new(channels, height, width)),
        _ => bail!("{text} is not the shape of an image, such as 3x224x224"),
    }
}
