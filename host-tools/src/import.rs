//! A file of weights becomes a network of blocks.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use distill_core::{Contents, Manifest};
use sha2::{Digest, Sha256};

use crate::{checkpoint::Checkpoint, cifar_resnet, cifar10, network::Network};

/// Mean and deviation of pixels in 0..1 that a network was trained with.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalisation {
    /// One per input channel.
    pub mean: Vec<f32>,
    /// One per input channel.
    pub std: Vec<f32>,
}

impl Normalisation {
    /// ImageNet's, which the public CIFAR ResNet checkpoints were trained with as well.
    pub fn imagenet() -> Self {
        Self { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] }
    }

    /// `imagenet`, `cifar10`, or `M,M,M/S,S,S`.
    ///
    /// # Errors
    /// None of the three.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "imagenet" => Ok(Self::imagenet()),
            "cifar10" => Ok(Self { mean: vec![0.4914, 0.4822, 0.4465], std: vec![0.2470, 0.2435, 0.2616] }),
            other => {
                let (mean, std) = other
                    .split_once('/')
                    .with_context(|| format!("normalisation {other} is neither imagenet, cifar10 nor M,M,M/S,S,S"))?;
                Ok(Self { mean: numbers(mean)?, std: numbers(std)? })
            }
        }
    }

    /// What a safetensors file says of itself under `mean` and `std`.
    fn from_metadata(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        match (checkpoint.metadata.get("mean"), checkpoint.metadata.get("std")) {
            (Some(mean), Some(std)) => Ok(Some(Self { mean: numbers(mean)?, std: numbers(std)? })),
            _ => Ok(None),
        }
    }
}

/// Imports a checkpoint.
///
/// `architecture` is `resnet20`, `resnet32`, … or `None` to tell it from the tensors' names.
/// `normalisation` is what the file says, else ImageNet's, unless given.
///
/// # Errors
/// The file, an unknown architecture, or tensors that do not fit it.
pub fn import(path: &Path, architecture: Option<&str>, normalisation: Option<Normalisation>) -> Result<Network> {
    let asked = architecture.map(resnet_blocks_per_stage).transpose()?;
    let checkpoint = Checkpoint::read(path)?;
    let bytes = std::fs::read(path).with_context(|| format!("cannot import {}", path.display()))?;
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    network(checkpoint, asked, normalisation, (&name, &bytes))
        .with_context(|| format!("cannot import {}", path.display()))
}

/// Imports a checkpoint that is already read; `source` is its file name and bytes.
///
/// # Errors
/// As [`import`].
pub fn network(
    mut checkpoint: Checkpoint,
    per_stage: Option<usize>,
    normalisation: Option<Normalisation>,
    source: (&str, &[u8]),
) -> Result<Network> {
    let per_stage = match per_stage {
        Some(count) => count,
        None => cifar_resnet::blocks_per_stage(&checkpoint)?,
    };
    let normalisation = match normalisation {
        Some(given) => given,
        None => Normalisation::from_metadata(&checkpoint)?.unwrap_or_else(|| {
            log::warn!("the file does not say how its inputs were normalised: taking ImageNet's way (see --normalise)");
            Normalisation::imagenet()
        }),
    };
    let blocks = cifar_resnet::blocks(&mut checkpoint, per_stage)?;
    let classes = blocks.last().map_or(0, |head| head.output().channels);
    let manifest = Manifest {
        contents: Contents::Network,
        architecture: format!("resnet{}-cifar", 6 * per_stage + 2),
        mean: normalisation.mean,
        std: normalisation.std,
        classes: if classes == 10 { cifar10::CLASSES.map(str::to_owned).to_vec() } else { Vec::new() },
        source: source.0.to_owned(),
        source_sha256: Sha256::digest(source.1).into(),
    };
    Network::new(manifest, blocks)
}

/// `resnet20` as 3 residual blocks a stage.
fn resnet_blocks_per_stage(architecture: &str) -> Result<usize> {
    let layers = architecture.trim_end_matches("-cifar").strip_prefix("resnet").and_then(|n| n.parse::<usize>().ok());
    match layers {
        Some(layers) if (8..=1202).contains(&layers) && layers % 6 == 2 => Ok((layers - 2) / 6),
        _ => bail!(
            "unknown architecture {architecture} (known: resnet20, resnet32, resnet44, resnet56, resnet110 for CIFAR)"
        ),
    }
}

fn numbers(text: &str) -> Result<Vec<f32>> {
    let values: Result<Vec<f32>, _> = text.split(',').map(|part| part.trim().parse::<f32>()).collect();
    let values = values.with_context(|| format!("{text} is not a list of numbers"))?;
    ensure!(values.iter().all(|v| v.is_finite()), "{text} holds a value that is not finite");
    Ok(values)
}
