//! Where the inputs of a neighbourhood come from: random numbers, images made of them, and the activations that they become.

mod cache;
mod images;
mod inputs;
mod source;
mod stream;
mod variant;

pub use self::{
    cache::{Cache, CacheSize, Passed, Side, Sides, Store},
    images::{NoiseImages, Pixels},
    inputs::{Batches, Before, InputBytes, Inputs, InputsFrom, MEASURED_INPUTS, VALIDATED_INPUTS},
    source::{Draw, Source, WhiteNoise},
    stream::{NOISE_BATCH, Purpose, Stream, shuffle},
    variant::Variant,
};
