//! The source that reads a pack's calibrated noise images.

use alloc::{vec, vec::Vec};
use core::fmt;

use crate::{
    inputs::{Cache, Draw, Source, Variant},
    pack::Pack,
    recipe::SourceKind,
    storage::{ReadAt, ScratchError},
    stream::{Purpose, Stream},
};

/// Warn if there are more inputs per calibrated image than this.
const FEW: usize = 4;

/// A pack's calibrated noise images, and variants of them if a run needs more inputs.
#[derive(Debug)]
pub struct CalibratedNoise<R>(pub Pack<R>);

impl<R: ReadAt + fmt::Debug> Source for CalibratedNoise<R> {
    fn kind(&self) -> SourceKind {
        SourceKind::Calibrated
    }

    fn images(&self) -> Option<usize> {
        Some(self.0.calibrated().map_or(0, |calibrated| calibrated.images as usize))
    }

    fn checksum(&self) -> u32 {
        self.0.noise_checksum()
    }

    /// Two images, a variant of them, and its random numbers.
    fn bytes(&self, elements: usize) -> u64 {
        4 * (elements * size_of::<f32>()) as u64
    }

    fn fill(&mut self, cache: &mut Cache, Draw { seed, held_out }: Draw) -> Result<(), ScratchError> {
        let (shape, pixels) = (cache.shape(), self.0.manifest().pixels());
        let (trained, originals) = (cache.len() - held_out, self.images().unwrap_or(0).saturating_sub(held_out).max(1));
        if originals < trained / FEW {
            log::warn!("only {originals} calibrated images for {trained} inputs: the rest are variants of them");
        }
        let [mut values, mut other] = [(); 2].map(|()| vec![0.0; shape.elements()]);
        let mut put = Ok(());
        let show = |index: usize, image: &[u8]| {
            // The last images are placed last, to measure on.
            let place = index.checked_sub(originals).map_or(index, |held_out| trained + held_out);
            if put.is_ok() && (index >= originals || place < trained) {
                pixels.values(image, shape, &mut values);
                put = cache.put(place, &values);
            }
        };
        self.0.each_noise_image(show)?;
        put?;
        let (mut stream, mut varied) = (Stream::new(seed, Purpose::Images, 0), Vec::with_capacity(shape.elements()));
        for image in originals..trained {
            cache.get(image % originals, &mut values)?;
            cache.get(stream.below(originals), &mut other)?;
            Variant::draw(&mut stream, shape).of(&values, &other, shape, &mut varied);
            cache.put(image, &varied)?;
        }
        Ok(())
    }
}
