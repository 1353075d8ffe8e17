//! The inputs of a neighbourhood: random numbers, images made from them, and their activations inside the network.

mod batches;
mod cache;
mod noise_images;
mod source;
mod variant;

pub use self::{
    batches::{Batches, Before, InputBytes, Inputs, InputsFrom, MEASURED_INPUTS, VALIDATED_INPUTS},
    cache::{Cache, CacheSize, Side, SideBlocks, Sides, Store},
    noise_images::{NoiseImages, Pixels},
    source::{Draw, NOISE_BATCH, Source, WhiteNoise},
    variant::Variant,
};
