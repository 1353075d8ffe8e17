//! Where the inputs of a neighbourhood come from: random numbers, images made of them, and the activations that they become.

mod cache;
mod images;
mod inputs;
mod stream;
mod variant;

pub use self::{
    cache::{Boundary, Cache},
    images::{NoiseImages, Pixels},
    inputs::{Batches, Before, Inputs, MEASURED_INPUTS, Source, VALIDATED_INPUTS},
    stream::{NOISE_BATCH, Purpose, Stream, shuffle},
    variant::Variant,
};
