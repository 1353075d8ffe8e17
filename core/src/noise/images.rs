//! Images made from noise, as a pack holds them.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use crate::{engine::Batch, tensor::Shape};

/// Images that began as random numbers: of each channel `[H, W]` pixels 0 to 255.
///
/// They come from a [`Calibrator`](crate::Calibrator) or from a [`Pack`](crate::Pack), which a calibrator filled. What distils
/// without data takes these and no other images; there is no way to make them of a data set's. The first of these compiles:
///
/// ```
/// use distill_core::{Batch, NoiseImages, Pixels, Shape};
///
/// let photographs = Batch::from_values(&[0.5; 12], Shape::new(3, 2, 2));
/// let read = |noise: &NoiseImages, pixels: &Pixels| noise.images(0..1, pixels);
/// ```
/// ```compile_fail
/// use distill_core::{Batch, NoiseImages, Pixels, Shape};
///
/// let photographs = Batch::from_values(&[0.5; 12], Shape::new(3, 2, 2));
/// let noise = NoiseImages::from(photographs); // no such conversion
/// ```
/// ```compile_fail
/// use distill_core::{Batch, NoiseImages, Pixels, Shape};
///
/// let make = |pixels: &Pixels| NoiseImages::new(&[0.5; 12], Shape::new(3, 2, 2), pixels); // the crate's own
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoiseImages {
    shape: Shape,
    pixels: Vec<u8>,
}

/// What a pixel is to a network: `(pixel / 255 − mean) / std` of its channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Pixels {
    /// With a mean and a deviation for each channel, of pixels in 0..1.
    pub fn new(mean: Vec<f32>, std: Vec<f32>) -> Self {
        Self { mean, std }
    }

    /// What the network takes for a pixel.
    pub fn value(&self, channel: usize, pixel: u8) -> f32 {
        (f32::from(pixel) / 255.0 - self.mean[channel]) / self.std[channel]
    }

    /// The nearest pixel.
    fn pixel(&self, channel: usize, value: f32) -> u8 {
        libm::roundf((value * self.std[channel] + self.mean[channel]) * 255.0).clamp(0.0, 255.0) as u8
    }

    /// What the network takes for an image.
    pub(crate) fn values(&self, pixels: &[u8], shape: Shape, values: &mut [f32]) {
        let plane = shape.height * shape.width;
        for (index, (pixel, value)) in pixels.iter().zip(values).enumerate() {
            *value = self.value(index / plane, *pixel);
        }
    }
}

impl NoiseImages {
    /// The nearest pixels to `values`, `[N, C, H, W]`.
    pub(crate) fn new(values: &[f32], shape: Shape, pixels: &Pixels) -> Self {
        let plane = shape.height * shape.width;
        let nearest = |(index, &value): (usize, &f32)| pixels.pixel(index / plane % shape.channels, value);
        Self { shape, pixels: values.iter().enumerate().map(nearest).collect() }
    }

    /// As a pack holds them.
    pub(crate) fn from_pixels(shape: Shape, pixels: Vec<u8>) -> Self {
        Self { shape, pixels }
    }

    /// Shape of one.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.pixels.len() / self.shape.elements()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }

    /// One after another, `[C, H, W]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// None of that shape.
    pub fn emptied(&self) -> Self {
        Self { shape: self.shape, pixels: Vec::new() }
    }

    /// Images `range` as a network takes them.
    pub fn images(&self, range: Range<usize>, pixels: &Pixels) -> Batch {
        let elements = self.shape.elements();
        let mut values = vec![0.0; range.len() * elements];
        let images = self.pixels[range.start * elements..range.end * elements].chunks_exact(elements);
        images.zip(values.chunks_exact_mut(elements)).for_each(|(image, values)| {
            pixels.values(image, self.shape, values);
        });
        Batch::from_values(&values, self.shape)
    }

    /// Adds others of the same shape behind.
    ///
    /// # Panics
    /// If their shape is another.
    pub fn append(&mut self, others: Self) {
        assert_eq!(self.shape, others.shape, "noise images of one network have one shape");
        self.pixels.extend(others.pixels);
    }
}
