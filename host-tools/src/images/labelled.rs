//! Images, with or without labels, and how they become a network's input.

use std::{borrow::Cow, ops::Range};

use anyhow::{Result, bail, ensure};
use distill_core::{Batch, Shape};

use crate::network::Network;

/// Images of one shape, read a batch at a time.
pub trait Images {
    /// Shape of one image.
    fn shape(&self) -> Shape;

    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A checksum by which changed images are told.
    fn checksum(&self) -> Result<u32>;

    /// Reads every image once where that may fail, so that none fails in the middle of some work.
    ///
    /// # Errors
    /// An image that cannot be read.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Images `range`, one after another, each `[C, H, W]`, 0 to 255.
    fn pixels(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>>;
}

/// Images and their classes.
pub trait LabelledImages: Images {
    /// Index of each image's class.
    fn labels(&self) -> &[u16];
}

/// Images `range`, scaled to 0..1 and normalised for the network.
///
/// # Errors
/// The network takes another shape, or an image cannot be read.
pub fn normalised(network: &Network, images: &dyn Images, range: Range<usize>) -> Result<Batch> {
    let shape = images.shape();
    check_shape(network, images)?;
    let pixels = images.pixels(range)?;
    let mut values = Vec::with_capacity(pixels.len());
    for (index, plane) in pixels.chunks_exact(shape.height * shape.width).enumerate() {
        let channel = index % shape.channels;
        let (mean, std) = (network.manifest.mean[channel], network.manifest.std[channel]);
        values.extend(plane.iter().map(|&pixel| (f32::from(pixel) / 255.0 - mean) / std));
    }
    Ok(Batch::from_values(&values, shape))
}

/// Checks that the network takes images of this shape.
pub(super) fn check_shape(network: &Network, images: &dyn Images) -> Result<()> {
    let (taken, shape) = (network.input(), images.shape());
    ensure!(taken == shape, "the network takes images of {taken}, these are {shape}");
    Ok(())
}

/// Checks, before any work, that the accuracy of the network on these images can be measured.
///
/// # Errors
/// The images have another shape than the network's input, or classes that it lacks; or it does not classify.
pub fn check_labels(network: &Network, images: &dyn LabelledImages) -> Result<()> {
    check_shape(network, images)?;
    let output = network.blocks[network.blocks.len() - 1].output();
    ensure!(
        output.elements() == output.channels,
        "the network gives {output} for an image, not one number for each class: it has no accuracy"
    );
    let classes = network.logits();
    if let Some(label) = images.labels().iter().find(|&&label| usize::from(label) >= classes) {
        bail!("an image is of class {label}, but the network's are 0 to {}", classes - 1);
    }
    Ok(())
}
