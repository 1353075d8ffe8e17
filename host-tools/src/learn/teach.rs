//! Training of teachers on images and their classes.

use anyhow::{Context, Result};
use distill_core::{Course, Engine, Manifest, Tuning, Width};

use super::{
    check_step,
    finetune::check_tuning,
    shown::Shown,
    untaught,
    whole::{Start, Watched, train_whole},
};
use crate::{
    images::{Images, LabelledImages, Part},
    network::Network,
};

/// A network to train from random weights.
#[derive(Clone, Copy, Debug)]
pub struct Teach<'a> {
    /// Its architecture; its weights are not used.
    pub network: &'a Network,
    /// Labelled images.
    pub images: &'a Part,
    /// Steps, noise on activations, and seed.
    pub tuning: Tuning,
}

/// The network trained on labels, and the loss of the last step.
///
/// # Errors
/// A network that does not classify, a number out of range, and those of [`train_whole`].
pub fn teach(task: Teach<'_>, watched: Watched<'_>) -> Result<(Network, Option<f32>)> {
    let Teach { network, images, tuning } = task;
    network.check_classifies()?;
    check_tuning(&tuning)?;
    check_step(&network.blocks, tuning.training.batch).context("take a smaller --batch")?;
    let settings = ("train", network.digest()?, images.checksum()?, images.labels(), tuning);
    let start = Start::AsIs(untaught(&network.blocks, Width::FULL, tuning.seed)?);
    let course =
        Course { teacher: &[], lessons: &Shown::new(images, network), tuning: &tuning, engine: &Engine::default() };
    // It is a teacher: not made from another.
    let manifest = Manifest { made_from: None, ..network.manifest.clone() };
    let (blocks, loss) = train_whole(course, start, &manifest, watched, &settings)?;
    Ok((Network::new(manifest, blocks)?, loss))
}
