//! Gaussian noise from a seed: the only randomness there is.
//!
//! Every use draws from its own stream, named by a [`Purpose`] and an index, so what one block
//! draws does not depend on which blocks ran before it: a run over some blocks, or a resumed run,
//! sees the same noise.

use alloc::{vec, vec::Vec};

use rand_distr::{Distribution, StandardNormal};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use serde::Serialize;

use crate::tensor::Shape;

/// Images that share their current batch statistics: large enough for stable ones.
pub const NOISE_BATCH: usize = 64;

/// What the inputs of a neighbourhood are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Noise {
    /// `N(0, 1)` straight into every neighbourhood, drawn anew for each batch (the paper's G-ND).
    Standard,
    /// Noise images pushed through the teacher's blocks with current batch statistics
    /// (Raikwar & Mishra 2022), kept in a cache.
    Propagated,
}

/// What a stream of random numbers is for.
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
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream(Xoshiro256PlusPlus);

impl Stream {
    /// The stream of `(seed, purpose, index)`; the index is usually a block's.
    pub fn new(seed: u64, purpose: Purpose, index: usize) -> Self {
        // SplitMix64 inside `seed_from_u64` scrambles; the odd constants keep the three apart.
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

    /// `count` independent samples of `N(0, 1)`.
    pub fn gaussian(&mut self, count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count];
        self.fill(&mut values);
        values
    }

    /// `count` images of white noise, `N(0, 1)` in every pixel: `[count, C, H, W]`, row-major.
    pub fn images(&mut self, count: usize, shape: Shape) -> Vec<f32> {
        self.gaussian(count * shape.elements())
    }

    /// An integer below `bound` (at least 1), without bias beyond 2⁻³².
    pub fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.0.next_u32()) * bound as u64) >> 32) as usize
    }
}

/// Makes `order` a random order of `0..count` (Fisher–Yates).
pub fn shuffle(stream: &mut Stream, order: &mut Vec<usize>, count: usize) {
    order.clear();
    order.resize(count, 0);
    for position in 0..count {
        let other = stream.below(position + 1);
        order[position] = order[other];
        order[other] = position;
    }
}
