//! Gaussian noise from a seed: the crate's only source of randomness.
//!
//! Every use draws from its own stream, identified by a [`Purpose`] and an index, so a block's noise does not depend on
//! the blocks before it: a run over some blocks, or a resumed run, draws the same noise.

use alloc::{vec, vec::Vec};

use rand_distr::{Distribution, Gamma, StandardNormal};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};

use crate::tensor::Shape;

/// Correlation between the channels of natural images.
const COMMON: f32 = 0.9;

/// The purpose of a stream of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Noise images at the network's input.
    Images = 1,
    /// Standard noise into a neighbourhood, for its solve.
    Solve = 2,
    /// The batches of a neighbourhood's training.
    Train = 3,
    /// The inputs on which a neighbourhood's error is measured.
    Measure = 4,
    /// Initial values and classes of calibrated images.
    Calibrate = 5,
    /// The inputs that decide early stopping of a neighbourhood's training.
    Validate = 6,
    /// Random initial weights of a student.
    Weights = 7,
    /// Noise on the activations of a network in training.
    Disturb = 8,
}

/// A stream of random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
pub struct Stream(Xoshiro256PlusPlus);

impl Stream {
    /// The stream of `(seed, purpose, index)`; the index is usually a block's number.
    pub fn new(seed: u64, purpose: Purpose, index: usize) -> Self {
        // SplitMix64 in `seed_from_u64` mixes the bits; the odd constants keep the three inputs apart.
        let mixed = seed
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add((purpose as u64).wrapping_mul(0xD1B5_4A32_D192_ED03))
            .wrapping_add((index as u64).wrapping_mul(0x8CB9_2BA7_2F3D_8DD7));
        Self(Xoshiro256PlusPlus::seed_from_u64(mixed))
    }

    /// Fills `values` with independent samples of `N(0, 1)`.
    pub fn fill(&mut self, values: &mut [f32]) {
        values.iter_mut().for_each(|value| *value = StandardNormal.sample(&mut self.0));
    }

    /// Adds independent samples of `N(0, deviation²)` to `values`.
    pub fn disturb(&mut self, deviation: f32, values: &mut [f32]) {
        for value in values {
            let sample: f32 = StandardNormal.sample(&mut self.0);
            *value += deviation * sample;
        }
    }

    /// Draws a sample of the gamma distribution with this shape (above 0) and scale 1.
    pub fn gamma(&mut self, shape: f32) -> f32 {
        Gamma::new(shape, 1.0).map_or(0.0, |gamma| gamma.sample(&mut self.0))
    }

    /// Draws `count` independent samples of `N(0, 1)`.
    pub fn gaussian(&mut self, count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count];
        self.fill(&mut values);
        values
    }

    /// Draws `count` images of white noise, `N(0, 1)` in every pixel: `[count, C, H, W]`, row-major.
    pub fn images(&mut self, count: usize, shape: Shape) -> Vec<f32> {
        self.gaussian(count * shape.elements())
    }

    /// Draws `count` images that sum white noise of every octave with equal variance, `N(0, 1)` in every pixel:
    /// `[count, C, H, W]`. The noise of an octave is constant over squares of 1, 2, 4… pixels, up to the whole image.
    pub fn octaves(&mut self, count: usize, shape: Shape) -> Vec<f32> {
        let Shape { height, width, .. } = shape;
        let mut images = vec![0.0; count * shape.elements()];
        let sides =
            || core::iter::successors(Some(1), |side| Some(2 * side)).take_while(|&side| side < 2 * height.max(width));
        let scale = 1.0 / libm::sqrtf(sides().count() as f32);
        for plane in images.chunks_exact_mut(height * width) {
            for side in sides() {
                let columns = width.div_ceil(side);
                let noise = self.gaussian(height.div_ceil(side) * columns);
                for (index, value) in plane.iter_mut().enumerate() {
                    *value += scale * noise[index / width / side * columns + index % width / side];
                }
            }
        }
        images
    }

    /// Draws `count` images as [`octaves`](Self::octaves), whose channels have a correlation of [`COMMON`].
    pub fn natural(&mut self, count: usize, shape: Shape) -> Vec<f32> {
        let grey = self.octaves(count, Shape { channels: 1, ..shape });
        let mut images = self.octaves(count, shape);
        let plane = shape.height * shape.width;
        let (common, own) = (libm::sqrtf(COMMON), libm::sqrtf(1.0 - COMMON));
        for (image, grey) in images.chunks_exact_mut(shape.elements()).zip(grey.chunks_exact(plane)) {
            for channel in image.chunks_exact_mut(plane) {
                channel.iter_mut().zip(grey).for_each(|(value, grey)| *value = own * *value + common * grey);
            }
        }
        images
    }

    /// Draws an integer below `bound` (at least 1), uniform up to a bias of 2⁻³².
    pub fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.0.next_u32()) * bound as u64) >> 32) as usize
    }
}

/// Sets `order` to a random permutation of `0..count` (Fisher–Yates).
pub fn shuffle(stream: &mut Stream, order: &mut Vec<usize>, count: usize) {
    order.clear();
    order.resize(count, 0);
    for position in 0..count {
        let other = stream.below(position + 1);
        order[position] = order[other];
        order[other] = position;
    }
}
