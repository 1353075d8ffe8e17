//! Images of a data set as a run's inputs: the activations that the teacher has on them, as the paper records them.

use std::fmt;

use anyhow::Result;
use distill_core::{
    Block, Cache, Draw, Pack, Pixels, Purpose, ScratchError, Shape, Source, SourceKind, Stream, shuffle,
};
use distill_device::DiskFile;

use crate::{
    images::{Images, Preparation, open_training},
    network::Network,
};

/// Divides the side to give the largest shift in each direction: 4 of CIFAR-10's 32 pixels, as the paper's.
const SHIFT: usize = 8;

/// Warn if there are more inputs per image than this.
const FEW: usize = 4;

/// Images, shifted and mirrored at random, as a run's inputs. Their labels are not read.
struct Recorded {
    images: Box<dyn Images>,
    pixels: Pixels,
    checksum: u32,
}

/// Opens images for the network in a pack, as [`open_training`] names them.
///
/// # Errors
/// They cannot be found, or the network takes other ones.
pub fn open_recorded(data: &str, teacher: &mut Pack<DiskFile>) -> Result<Box<dyn Source>> {
    let blocks: Result<Vec<Block>, _> = (0..teacher.blocks()).map(|index| teacher.block(index)).collect();
    let network = Network::whole(teacher.manifest().clone(), blocks?)?;
    let images = open_training(data, &network, Preparation::default())?;
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

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} recorded images", self.images.len())
    }
}

/// A random crop of an image with a black border, mirrored or not: what a teacher's training sees.
#[derive(Clone, Copy)]
struct Variation {
    mirrored: bool,
    /// Rows and columns by which the image moves up and left.
    shift: [isize; 2],
}

impl Variation {
    const NONE: Self = Self { mirrored: false, shift: [0; 2] };

    fn draw(stream: &mut Stream, Shape { height, width, .. }: Shape) -> Self {
        let mirrored = stream.below(2) == 1;
        let shift = [height, width].map(|side| {
            let most = side / SHIFT;
            stream.below(2 * most + 1) as isize - most as isize
        });
        Self { mirrored, shift }
    }

    /// Writes the values of the varied image.
    fn of(self, image: &[u8], pixels: &Pixels, Shape { height, width, .. }: Shape, values: &mut [f32]) {
        let [down, right] = self.shift;
        for (place, value) in values.iter_mut().enumerate() {
            let (channel, row, column) = (place / (height * width), place / width % height, place % width);
            let column = if self.mirrored { width - 1 - column } else { column };
            let (row, column) = (row.wrapping_add_signed(down), column.wrapping_add_signed(right));
            let inside = row < height && column < width;
            let pixel = if inside { image[(channel * height + row) * width + column] } else { 0 };
            *value = pixels.value(channel, pixel);
        }
    }
}
