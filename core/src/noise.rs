//! The inputs of a neighbourhood: random numbers, images made from them, and their activations inside the network.

mod cache;
mod images;
mod inputs;
mod source;
mod stream;
mod variant;

pub use self::{
    cache::{Cache, CacheSize, Side, SideBlocks, Sides, Store},
    images::{NoiseImages, Pixels},
    inputs::{Batches, Before, InputBytes, Inputs, InputsFrom, MEASURED_INPUTS, VALIDATED_INPUTS},
    source::{Draw, Source, WhiteNoise},
    stream::{NOISE_BATCH, Purpose, Stream, shuffle},
    variant::Variant,
};
