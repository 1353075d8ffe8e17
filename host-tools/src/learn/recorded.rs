//! Images of a data set as a run's inputs: the activations that the teacher has on them, as the paper records them.

use anyhow::{Result, ensure};
use distill_core::{
    Block, Cache, Draw, MEASURED_INPUTS, Pack, Pixels, Purpose, ScratchError, Source, SourceKind, Stream, shuffle,
};
use distill_device::DiskFile;

use crate::{
    images::{Images, Part, Preparation, Variation, open_training},
    network::Network,
};

/// Warn if there are more inputs per image than this.
const FEW: usize = 4;

/// Images, shifted and mirrored at random, as a run's inputs.
#[derive(Debug)]
struct Recorded {
    images: Part,
    pixels: Pixels,
    checksum: u32,
}

/// Opens images for the network in a pack, as [`open_training`] names them; `share` of them are to learn from.
///
/// # Errors
/// They cannot be found, or the network takes other ones.
pub fn open_recorded(data: &str, share: f32, teacher: &mut Pack<DiskFile>) -> Result<Box<dyn Source>> {
    let blocks: Result<Vec<Block>, _> = (0..teacher.blocks()).map(|index| teacher.block(index)).collect();
    let network = Network::whole(teacher.manifest().clone(), blocks?)?;
    recorded(open_training(data, &network, Preparation::default(), share)?.learned, &network)
}

/// Images as a run's inputs; their labels, if they have any, are not looked at.
///
/// # Errors
/// They cannot be read.
pub fn recorded(images: Part, network: &Network) -> Result<Box<dyn Source>> {
    let count = images.len();
    ensure!(
        count > MEASURED_INPUTS,
        "there are {count} images to learn from, but {MEASURED_INPUTS} of them are kept to measure on: name more images"
    );
    let checksum = images.checksum()?;
    Ok(Box::new(Recorded { images, pixels: network.manifest.pixels(), checksum }))
}

impl Source for Recorded {
    fn kind(&self) -> SourceKind {
        SourceKind::Recorded
    }

    fn images(&self) -> Option<usize> {
        Some(self.images.len())
    }

    fn checksum(&self) -> u32 {
        self.checksum
    }

    /// An image and its values. Decoding a picture takes more, for a moment.
    fn bytes(&self, elements: usize) -> u64 {
        (elements * (size_of::<f32>() + 1)) as u64
    }

    /// The first in a random order are held out, as they are. The others are varied, each time otherwise, and taken as often as inputs
    /// are needed.
    fn fill(&mut self, cache: &mut Cache, Draw { seed, held_out }: Draw) -> Result<(), ScratchError> {
        let (shape, trained) = (cache.shape(), cache.len() - held_out);
        let (mut stream, mut order) = (Stream::new(seed, Purpose::Images, 0), Vec::new());
        shuffle(&mut stream, &mut order, self.images.len());
        let learned = order.split_off(held_out);
        if learned.len() < trained / FEW {
            log::warn!("only {} images for {trained} inputs: the rest are variants of them", learned.len());
        }
        let mut values = vec![0.0; shape.elements()];
        let mut put = |place: usize, index: usize, variation: Variation| {
            let image = self.images.pixels(index..index + 1).map_err(|error| format!("{error:#}"))?;
            variation.of(&image, &self.pixels, shape, &mut values);
            cache.put(place, &values)
        };
        for (place, index) in order.into_iter().enumerate() {
            put(trained + place, index, Variation::NONE)?;
        }
        for place in 0..trained {
            put(place, learned[place % learned.len()], Variation::draw(&mut stream, shape))?;
        }
        Ok(())
    }
}
