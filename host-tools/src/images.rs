//! Images as a network takes them.

use anyhow::{Result, ensure};
use distill_core::{Images, Shape};

use crate::{cifar10::LabelledImages, network::Network};

/// Images `start..end`, scaled to 0..1 and normalised as the network wants.
///
/// # Errors
/// The network takes another shape.
pub fn normalised(network: &Network, images: &LabelledImages, start: usize, end: usize) -> Result<Images> {
    let shape = images.shape;
    ensure!(network.input() == shape, "the network takes images of {}, these are {shape}", network.input());
    let Shape { height, width, .. } = shape;
    let elements = shape.elements();
    let pixels = &images.pixels[start * elements..end * elements];
    let normalise = |(index, &pixel): (usize, &u8)| {
        let channel = index / (height * width) % shape.channels;
        (f32::from(pixel) / 255.0 - network.manifest.mean[channel]) / network.manifest.std[channel]
    };
    let values: Vec<f32> = pixels.iter().enumerate().map(normalise).collect();
    Ok(Images::from_values(&values, shape))
}
