//! Images as a network takes them.

use anyhow::{Result, ensure};
use distill_core::Shape;

use crate::{cifar10::LabelledImages, network::Network};

/// Pixels of images `start..end`, scaled to 0..1 and normalised as the network wants: `[N, C, H, W]`.
///
/// # Errors
/// The network takes another shape.
pub fn normalised(network: &Network, images: &LabelledImages, start: usize, end: usize) -> Result<Vec<f32>> {
    let Shape { channels, height, width } = images.shape;
    ensure!(
        network.input() == images.shape,
        "the network takes images of {}, these are {}",
        network.input(),
        images.shape
    );
    let plane = height * width;
    let elements = images.shape.elements();
    let pixels = &images.pixels[start * elements..end * elements];
    let normalise = |(index, &pixel): (usize, &u8)| {
        let channel = index / plane % channels;
        (f32::from(pixel) / 255.0 - network.manifest.mean[channel]) / network.manifest.std[channel]
    };
    Ok(pixels.iter().enumerate().map(normalise).collect())
}
