//! A student network learns from its teacher once more, as a whole, on noise.

use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, ensure};
use distill_core::{Block, BlockError, Contents, Lessons, MAX_INPUTS, MEASURED_INPUTS, Tuning, finetune};
use distill_device::{Progress, open_pack};

use crate::{export::recompose, network::Network};

/// Steps between two that `-v` tells of.
const STEPS_TOLD: u64 = 100;

/// Where a student's lessons come from. There is no variant for a data set's images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoiseSource {
    /// White noise, new for every step.
    Standard,
    /// The calibrated images of the teacher's pack.
    Calibrated,
}

/// The network that a recomposed pack holds, or the teacher with the students of other packs.
///
/// # Errors
/// The files, or students of another teacher.
pub fn read_student(teacher: &Path, students: &[PathBuf]) -> Result<Network> {
    match students {
        [whole] if open_pack(whole)?.manifest().contents == Contents::Network => Network::read_pack(whole),
        _ => recompose(teacher, students),
    }
}

/// `student` after `tuning` on noise; beside it the last mean cross-entropy, if there was anything to learn.
///
/// # Errors
/// A number out of its range; the teacher's pack, or what it lacks; networks that do not classify; a student of other shapes; training that
/// diverges.
pub fn finetune_on_noise(
    teacher: &Path,
    student: &Network,
    source: NoiseSource,
    tuning: &Tuning,
) -> Result<(Network, Option<f32>)> {
    let Tuning { training, temperature, features, .. } = tuning;
    ensure!((1..=MAX_INPUTS).contains(&training.batch), "the batch must be from 1 to {MAX_INPUTS}");
    ensure!(training.rate.is_finite() && training.rate > 0.0, "the learning rate must be a number above 0");
    ensure!(temperature.is_finite() && *temperature > 0.0, "the temperature must be a number above 0");
    ensure!(features.is_finite() && *features >= 0.0, "the weight of the features must be a number of at least 0");
    let mut pack = open_pack(teacher)?;
    let network = Network::read_pack(teacher)?;
    network.check_classifies()?;
    let shapes = |network: &Network| (network.input(), network.logits());
    ensure!(shapes(student) == shapes(&network), "the student takes or gives another shape than the teacher");
    let outputs = |network: &Network| network.blocks.iter().map(Block::output).collect::<Vec<_>>();
    ensure!(
        *features == 0.0 || outputs(student) == outputs(&network),
        "the student's blocks are not the teacher's, so that their outputs cannot be compared: take --features 0"
    );
    let images = match source {
        NoiseSource::Standard => None,
        NoiseSource::Calibrated => {
            let missing =
                || format!("{} holds no calibrated noise: make it with `distill calibrate`", teacher.display());
            Some(pack.noise_images()?.with_context(missing)?)
        }
    };
    let pixels = network.manifest.pixels();
    let lessons = match &images {
        Some(images) => {
            let seen = images.len().saturating_sub(MEASURED_INPUTS);
            ensure!(
                seen > 0,
                "{} holds no more noise images than the {MEASURED_INPUTS} on which students are measured: make more with `distill calibrate`",
                teacher.display()
            );
            Lessons::Images { images, pixels: &pixels, seen }
        }
        None => Lessons::White,
    };
    let mut progress = Progress::new("fine-tuning", Some(tuning.training.steps as u64), "{pos}/{len} steps")?;
    let (mut step, mut last) = (0, None);
    let blocks = finetune(&network.blocks, &student.blocks, lessons, tuning, |loss| {
        if step % STEPS_TOLD == 0 {
            log::info!("step {step}: cross-entropy {loss:.6}");
        }
        (step, last) = (step + 1, Some(loss));
        progress.set(step);
    });
    let blocks = blocks.map_err(|error| match error {
        BlockError::WeightValue { .. } => {
            Error::new(error).context("the student's weights are not finite any more: take a lower --rate")
        }
        _ => error.into(),
    })?;
    Ok((Network::new(student.manifest.clone(), blocks)?, last))
}
