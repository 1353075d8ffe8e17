//! Labelled images: where they come from, and how a network takes them.

use std::{borrow::Cow, fs, ops::Range, path::Path};

use anyhow::{Context, Result, ensure};
use distill_core::{Images, Shape};

use crate::{cifar10, crop::Preparation, fetch, image_folder::ImageFolder, network::Network};

/// Images with the class of each, read a batch at a time.
pub trait LabelledImages {
    /// Shape of one image.
    fn shape(&self) -> Shape;

    /// Index of each image's class.
    fn labels(&self) -> &[u16];

    /// Images `range`, one after another, each `[C, H, W]`, 0 to 255.
    ///
    /// # Errors
    /// Names the first image that cannot be read.
    fn pixels(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>>;
}

/// The images `data` names, for `network`: `cifar10` (fetched before), `builtin` (its first 1,000 test images), or a
/// folder of CIFAR-10's binary files or of pictures (see [`ImageFolder`]).
///
/// # Errors
/// What the folder lacks, and what to do.
pub fn open(data: &str, network: &Network, preparation: Preparation) -> Result<Box<dyn LabelledImages>> {
    match data {
        "cifar10" => return Ok(Box::new(cifar10::read_test(&fetch::default_dir()?)?)),
        "builtin" => return Ok(Box::new(cifar10::builtin_test_images()?)),
        _ => {}
    }
    let folder = Path::new(data);
    let hint = "name a folder of pictures, or get CIFAR-10 with `distill data fetch cifar10`";
    fs::read_dir(folder).with_context(|| format!("cannot open the folder {data}: {hint}"))?;
    if cifar10::test_file(folder).is_some() {
        return Ok(Box::new(cifar10::read_test(folder)?));
    }
    Ok(Box::new(ImageFolder::open(folder, network, preparation)?))
}

/// Images `range`, scaled to 0..1 and normalised as the network wants.
///
/// # Errors
/// The network takes another shape, or an image cannot be read.
pub fn normalised(network: &Network, images: &dyn LabelledImages, range: Range<usize>) -> Result<Images> {
    let shape = images.shape();
    ensure!(network.input() == shape, "the network takes images of {}, these are {shape}", network.input());
    let pixels = images.pixels(range)?;
    let mut values = Vec::with_capacity(pixels.len());
    for (index, plane) in pixels.chunks_exact(shape.height * shape.width).enumerate() {
        let channel = index % shape.channels;
        let (mean, std) = (network.manifest.mean[channel], network.manifest.std[channel]);
        values.extend(plane.iter().map(|&pixel| (f32::from(pixel) / 255.0 - mean) / std));
    }
    Ok(Images::from_values(&values, shape))
}
