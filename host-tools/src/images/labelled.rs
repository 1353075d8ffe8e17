//! Labelled images, and how they become a network's input.

use std::{borrow::Cow, ops::Range};

use anyhow::{Result, ensure};
use distill_core::{Batch, Shape};

use crate::network::Network;

/// Images and their classes, read a batch at a time.
pub trait LabelledImages {
    /// Shape of one image.
    fn shape(&self) -> Shape;

    /// Index of each image's class.
    fn labels(&self) -> &[u16];

    /// Images `range`, one after another, each `[C, H, W]`, 0 to 255.
    fn pixels(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>>;
}

/// Images `range`, scaled to 0..1 and normalised for the network.
///
/// # Errors
/// The network takes another shape, or an image cannot be read.
pub fn normalised(network: &Network, images: &dyn LabelledImages, range: Range<usize>) -> Result<Batch> {
    let shape = images.shape();
    ensure!(network.input() == shape, "the network takes images of {}, these are {shape}", network.input());
    let pixels = images.pixels(range)?;
    let mut values = Vec::with_capacity(pixels.len());
    for (index, plane) in pixels.chunks_exact(shape.height * shape.width).enumerate() {
        let channel = index % shape.channels;
        let (mean, std) = (network.manifest.mean[channel], network.manifest.std[channel]);
        values.extend(plane.iter().map(|&pixel| (f32::from(pixel) / 255.0 - mean) / std));
    }
    Ok(Batch::from_values(&values, shape))
}
