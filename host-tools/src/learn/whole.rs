//! The training of a whole network: its progress, its state at a cut, its metrics. What is learned is the caller's.

use anyhow::{Result, anyhow};
use distill_core::{Block, Course, DistillError, Manifest, Step, finetune, learn};
use distill_device::Progress;
use serde::Serialize;

use super::{
    checkpoint::{Checkpoint, Keep},
    metrics::{MetricFiles, Metrics},
};
use crate::network::Network;

/// Steps between two log messages.
const LOG_INTERVAL: usize = 100;

/// Measures a network.
pub type Measure<'a> = dyn Fn(&Network) -> Result<f64> + 'a;

/// What a training keeps and shows of itself.
#[derive(Clone, Copy)]
pub struct Watched<'a> {
    /// What the bar says.
    pub title: &'static str,
    /// Where its state is kept.
    pub keep: Keep<'a>,
    /// Where its metrics go.
    pub metrics: MetricFiles<'a>,
    /// Measures the accuracy of what is trained, in percent, on images that nothing learns from.
    pub accuracy: Option<&'a Measure<'a>>,
}

impl<'a> Watched<'a> {
    /// Without metrics.
    pub fn new(title: &'static str, keep: Keep<'a>) -> Self {
        Self { title, keep, metrics: MetricFiles::default(), accuracy: None }
    }
}

/// How a network begins to learn.
pub enum Start {
    /// Batch norms folded: a student of blocks that were distilled.
    Folded(Vec<Block>),
    /// As it is: batch norms use the statistics of each batch.
    AsIs(Vec<Block>),
}

/// Trains a network; also returns the loss of the last step, `None` if there was nothing to train. `settings` are all that
/// determines the result.
///
/// # Errors
/// Training that diverges, images that cannot be read, or something else in the place of its state.
pub fn train_whole(
    course: Course<'_>,
    start: Start,
    manifest: &Manifest,
    watched: Watched<'_>,
    settings: &impl Serialize,
) -> Result<(Vec<Block>, Option<f32>)> {
    let Watched { title, keep, metrics, accuracy } = watched;
    let steps = course.tuning.training.steps;
    let mut checkpoint = Checkpoint::new(keep, settings)?;
    let from = checkpoint.resume()?;
    let mut metrics = Metrics::new(metrics, steps, from.as_ref().map_or(0, |from| from.steps()))?;
    let mut progress = Progress::new(title, Some(steps as u64), "{pos}/{len} steps")?;
    let measured = |step: &Step<'_>| {
        accuracy.map(|accuracy| accuracy(&Network::new(manifest.clone(), step.network()?)?)).transpose()
    };
    let (mut last, mut unwritten) = (None, None);
    let observe = |step: Step<'_>| {
        if step.number % LOG_INTERVAL == 1 {
            log::info!("step {}: loss {:.6}", step.number, step.loss);
        }
        last = Some(step.loss);
        progress.set(step.number as u64);
        if step.number < steps {
            checkpoint.keep(step);
        }
        // Metrics are no reason to stop a training.
        if unwritten.is_none() && step.loss.is_finite() {
            unwritten = metrics.record(&step, measured).err();
        }
    };
    let blocks = match start {
        Start::Folded(student) => finetune(course, &student, from, observe),
        Start::AsIs(student) => learn(course, student, from, observe),
    };
    if let Some(error) = unwritten {
        log::warn!("metrics end early: {error:#}");
    }
    let blocks = blocks.map_err(|error| match error {
        DistillError::Diverged { .. } => anyhow!("{error}: try a lower --rate"),
        _ => error.into(),
    })?;
    Ok((blocks, last))
}
