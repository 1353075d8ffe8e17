//! Images of a data set, and their classes, to train whole networks on.

use anyhow::{Result, ensure};
use distill_core::{Lessons, Pixels, ScratchError, Stream};

use crate::{
    images::{Images, LabelledImages, Part, Variation},
    network::Network,
};

/// Images, shifted and mirrored at random whenever they are shown.
#[derive(Debug)]
pub struct Shown<'a> {
    images: &'a Part,
    pixels: Pixels,
}

impl<'a> Shown<'a> {
    /// Images for a network.
    pub fn new(images: &'a Part, network: &Network) -> Self {
        Self { images, pixels: network.manifest.pixels() }
    }
}

impl Lessons for Shown<'_> {
    fn images(&self) -> usize {
        self.images.len()
    }

    fn draw(&self, images: &[usize], stream: &mut Stream, values: &mut Vec<f32>) -> Result<(), ScratchError> {
        let shape = self.images.shape();
        for &index in images {
            let image = self.images.pixels(index..index + 1).map_err(|error| format!("{error:#}"))?;
            let start = values.len();
            values.resize(start + shape.elements(), 0.0);
            Variation::draw(stream, shape).of(&image, &self.pixels, shape, &mut values[start..]);
        }
        Ok(())
    }

    fn labels(&self) -> &[u16] {
        self.images.labels()
    }
}

/// Checks that every class of a network has an image.
///
/// # Errors
/// The first class without any.
pub fn check_classes(network: &Network, labels: &[u16]) -> Result<()> {
    let mut counts = vec![0_usize; network.logits()];
    labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
    let missing = counts.iter().position(|&count| count == 0);
    let name = |class: usize| network.manifest.classes.get(class).map_or_else(String::new, |name| format!(" ({name})"));
    ensure!(
        missing.is_none(),
        "no image to learn from is of class {}{}, which the network has: a network that never sees a class does not know \
         it. Add its images",
        missing.unwrap_or(0),
        name(missing.unwrap_or(0))
    );
    Ok(())
}
