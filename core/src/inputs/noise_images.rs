//! Images made from noise, as stored in a pack.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use crate::{
    engine::Batch,
    inputs::{MEASURED_INPUTS, Variant},
    stream::{Purpose, Stream},
    tensor::Shape,
};

/// Images optimised from random numbers: pixels 0 to 255, `[H, W]` for each channel.
///
/// They come from a [`Calibrator`](crate::Calibrator), or from a [`Pack`](crate::Pack) with a calibrator's images.
/// Data-free distillation accepts no other images, and a data set's cannot be converted. Only the first compiles:
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

/// The normalisation of pixels for a network: `(pixel / 255 − mean) / std` per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Pixels {
    /// Creates it from mean and standard deviation of each channel, for pixels in 0..1.
    pub fn new(mean: Vec<f32>, std: Vec<f32>) -> Self {
        Self { mean, std }
    }

    /// Natural images' mean and deviation, roughly: a noise image whose values are `N(0, 1)` has their brightness and contrast.
    pub(crate) fn natural(channels: usize) -> Self {
        Self { mean: vec![0.45; channels], std: vec![0.225; channels] }
    }

    /// `[factor, offset]` that turn a channel's values under another normalisation to this one's.
    pub(crate) fn rescaling(&self, other: &Self, channel: usize) -> [f32; 2] {
        let std = self.std[channel];
        [other.std[channel] / std, (other.mean[channel] - self.mean[channel]) / std]
    }

    /// The network's input value for a pixel.
    pub fn value(&self, channel: usize, pixel: u8) -> f32 {
        (f32::from(pixel) / 255.0 - self.mean[channel]) / self.std[channel]
    }

    /// The pixel nearest to an input value.
    fn pixel(&self, channel: usize, value: f32) -> u8 {
        libm::roundf((value * self.std[channel] + self.mean[channel]) * 255.0).clamp(0.0, 255.0) as u8
    }

    /// Converts an image to the network's input values.
    pub(crate) fn values(&self, pixels: &[u8], shape: Shape, values: &mut [f32]) {
        let plane = shape.height * shape.width;
        for (index, (pixel, value)) in pixels.iter().zip(values).enumerate() {
            *value = self.value(index / plane, *pixel);
        }
    }
}

impl NoiseImages {
    /// Rounds `values`, `[N, C, H, W]`, to the nearest pixels.
    pub(crate) fn new(values: &[f32], shape: Shape, pixels: &Pixels) -> Self {
        let plane = shape.height * shape.width;
        let nearest = |(index, &value): (usize, &f32)| pixels.pixel(index / plane % shape.channels, value);
        Self { shape, pixels: values.iter().enumerate().map(nearest).collect() }
    }

    /// Wraps pixels read from a pack.
    pub(crate) fn from_pixels(shape: Shape, pixels: Vec<u8>) -> Self {
        Self { shape, pixels }
    }

    /// Shape of one image.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.pixels.len() / self.shape.elements()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }

    /// All pixels: image after image, each `[C, H, W]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// An empty set of images of the same shape.
    pub fn emptied(&self) -> Self {
        Self { shape: self.shape, pixels: Vec::new() }
    }

    /// Converts images `range` to a batch of network inputs.
    pub fn images(&self, range: Range<usize>, pixels: &Pixels) -> Batch {
        let elements = self.shape.elements();
        let mut values = vec![0.0; range.len() * elements];
        let images = self.pixels[range.start * elements..range.end * elements].chunks_exact(elements);
        images.zip(values.chunks_exact_mut(elements)).for_each(|(image, values)| {
            pixels.values(image, self.shape, values);
        });
        Batch::from_values(&values, self.shape)
    }

    /// Images to compare networks on, as a batch of network inputs: image `i` is the `i`th of the [`MEASURED_INPUTS`] that
    /// nothing learns from, and beyond them a variant of one. A range gives the same images whatever was asked for before.
    pub fn held_out(&self, range: Range<usize>, pixels: &Pixels) -> Batch {
        let (elements, count) = (self.shape.elements(), MEASURED_INPUTS.min(self.len()));
        let first = self.len() - count;
        let [mut image, mut other] = [(); 2].map(|()| vec![0.0; elements]);
        let read = |index: usize, values: &mut Vec<f32>| {
            pixels.values(&self.pixels[(first + index) * elements..][..elements], self.shape, values);
        };
        let (mut values, mut varied) = (Vec::with_capacity(range.len() * elements), Vec::new());
        for index in range {
            read(index % count, &mut image);
            if index < count {
                values.extend_from_slice(&image);
                continue;
            }
            let mut stream = Stream::new(0, Purpose::Measure, index);
            read(stream.below(count), &mut other);
            Variant::draw(&mut stream, self.shape).of(&image, &other, self.shape, &mut varied);
            values.extend_from_slice(&varied);
        }
        Batch::from_values(&values, self.shape)
    }

    /// Appends images of the same shape.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn append(&mut self, others: Self) {
        assert_eq!(self.shape, others.shape, "noise images of one network have one shape");
        self.pixels.extend(others.pixels);
    }
}
