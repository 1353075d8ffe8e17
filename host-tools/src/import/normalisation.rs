//! How pixels are normalised before a network takes them.

use anyhow::{Context, Result, ensure};

/// Mean and standard deviation of pixels in 0..1 that a network was trained with.
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

    /// The statistics of CIFAR-10's training images.
    pub fn cifar10() -> Self {
        Self { mean: vec![0.4914, 0.4822, 0.4465], std: vec![0.2470, 0.2435, 0.2616] }
    }

    /// What most networks for images of so many channels take, and its title.
    pub fn usual(channels: usize) -> (&'static str, Self) {
        match channels {
            3 => ("ImageNet's values", Self::imagenet()),
            _ => ("mean 0 and deviation 1", Self { mean: vec![0.0; channels], std: vec![1.0; channels] }),
        }
    }

    /// That of EfficientNet-Lite: `(x − 127) / 128` of pixels from 0 to 255.
    pub fn efficientnet_lite() -> Self {
        Self { mean: vec![127.0 / 255.0; 3], std: vec![128.0 / 255.0; 3] }
    }

    /// `imagenet`, `cifar10`, `efficientnet-lite`, or `M,M,M/S,S,S`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "imagenet" => Ok(Self::imagenet()),
            "efficientnet-lite" => Ok(Self::efficientnet_lite()),
            "cifar10" => Ok(Self::cifar10()),
            other => {
                let (mean, std) = other.split_once('/').with_context(|| {
                    format!("normalisation {other} is neither imagenet, cifar10, efficientnet-lite nor M,M,M/S,S,S")
                })?;
                Ok(Self { mean: numbers(mean)?, std: numbers(std)? })
            }
        }
    }

    /// From a file's entries `mean` and `std`, if it has both.
    pub fn from_entries(mean: Option<&str>, std: Option<&str>) -> Result<Option<Self>> {
        let (Some(mean), Some(std)) = (mean, std) else { return Ok(None) };
        Ok(Some(Self { mean: numbers(mean)?, std: numbers(std)? }))
    }
}

fn numbers(text: &str) -> Result<Vec<f32>> {
    let values: Result<Vec<f32>, _> = text.split(',').map(|part| part.trim().parse::<f32>()).collect();
    let values = values.with_context(|| format!("{text} is not a list of numbers"))?;
    ensure!(values.iter().all(|v| v.is_finite()), "{text} has a value that is not finite");
    Ok(values)
}
