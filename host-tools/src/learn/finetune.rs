//! Fine-tuning of a whole student on noise, with its teacher as the target.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use distill_core::{
    Block, Contents, Course, DistillError, Engine, Lessons, MAX_INPUTS, MEASURED_INPUTS, Manifest, NoiseImages,
    SourceKind, Tuning, finetune,
};
use distill_device::{Progress, open_pack};

use super::{
    check_step,
    checkpoint::{Checkpoint, Keep},
};
use crate::{
    export::recompose,
    import::{ImportOptions, import},
    network::{Network, is_pack},
};

/// Steps between two log messages.
const LOG_INTERVAL: usize = 100;

/// Where the images of a fine-tune come from: never from a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NoiseSource {
    /// N(0,1) in every pixel, new for every step (the paper)
    Standard,
    /// The noise images that `distill calibrate` put into the teacher pack
    Calibrated,
}

impl NoiseSource {
    fn kind(self) -> SourceKind {
        match self {
            Self::Standard => SourceKind::Standard,
            Self::Calibrated => SourceKind::Calibrated,
        }
    }
}

/// The student to fine-tune: the network in a recomposed pack or a model's file, or the teacher with the students of other packs.
pub fn read_student(teacher: &Path, students: &[PathBuf]) -> Result<Network> {
    match students {
        [model] if !is_pack(model) => import(model, &ImportOptions::default()),
        [whole] if open_pack(whole)?.manifest().contents == Contents::Network => Network::read_pack(whole),
        _ => recompose(teacher, students),
    }
}

/// A student to fine-tune, and how.
#[derive(Clone, Copy, Debug)]
pub struct FineTune<'a> {
    /// The teacher's pack.
    pub teacher: &'a Path,
    /// The student.
    pub student: &'a Network,
    /// Where the images come from.
    pub source: NoiseSource,
    /// Steps, loss and seed.
    pub tuning: &'a Tuning,
}

/// The student fine-tuned on noise, and the mean cross-entropy of the last step; `None` if there was nothing to train.
///
/// # Errors
/// A number out of range, a teacher that does not classify or has no noise images, a student of other shapes, training that
/// diverges, or something else in the place of its state.
pub fn finetune_on_noise(task: FineTune<'_>, keep: Keep<'_>) -> Result<(Network, Option<f32>)> {
    let FineTune { teacher, student, source, tuning } = task;
    check(tuning)?;
    let network = Network::read_pack(teacher)?;
    network.check_classifies()?;
    check_shapes(&network, student, tuning)?;
    check_step(&student.blocks, tuning.training.batch).context("take a smaller --batch")?;
    let images = match source {
        NoiseSource::Standard => None,
        NoiseSource::Calibrated => Some(noise_images(teacher)?),
    };
    let noise = images.is_some().then(|| open_pack(teacher).map(|pack| pack.noise_checksum())).transpose()?;
    let settings = ("finetune", network.digest()?, student.digest()?, noise, tuning);
    let mut checkpoint = Checkpoint::new(keep, &settings)?;
    let pixels = network.manifest.pixels();
    let lessons = images.as_ref().map_or(Lessons::White, |images| Lessons::Images {
        images,
        pixels: &pixels,
        seen: images.len() - MEASURED_INPUTS,
    });
    let steps = tuning.training.steps;
    let mut progress = Progress::new("fine-tuning", Some(steps as u64), "{pos}/{len} steps")?;
    let mut last = None;
    let course = Course { teacher: &network.blocks, lessons, tuning, engine: &Engine::default() };
    let blocks = finetune(course, &student.blocks, checkpoint.resume()?, |step| {
        if step.number % LOG_INTERVAL == 1 {
            log::info!("step {}: cross-entropy {:.6}", step.number, step.loss);
        }
        last = Some(step.loss);
        progress.set(step.number as u64);
        if step.number < steps {
            checkpoint.keep(step);
        }
    });
    let blocks = blocks.map_err(|error| match error {
        DistillError::Diverged { .. } => anyhow!("{error}: try a lower --rate"),
        _ => error.into(),
    })?;
    // What is not known of the student stays unknown.
    let made_from = student.manifest.made_from.map(|made_from| made_from.max(source.kind()));
    Ok((Network::new(Manifest { made_from, ..student.manifest.clone() }, blocks)?, last))
}

fn check(tuning: &Tuning) -> Result<()> {
    let Tuning { training, temperature, features, .. } = tuning;
    ensure!((1..=MAX_INPUTS).contains(&training.batch), "the batch must be from 1 to {MAX_INPUTS}");
    ensure!(training.rate.is_finite() && training.rate > 0.0, "the learning rate must be a number above 0");
    ensure!(temperature.is_finite() && *temperature > 0.0, "the temperature must be a number above 0");
    ensure!(features.is_finite() && *features >= 0.0, "the weight of the features must be a number of at least 0");
    Ok(())
}

fn check_shapes(teacher: &Network, student: &Network, tuning: &Tuning) -> Result<()> {
    let shapes = |network: &Network| (network.input(), network.logits());
    ensure!(shapes(student) == shapes(teacher), "the student's input or output shape is not the teacher's");
    let outputs = |network: &Network| network.blocks.iter().map(Block::output).collect::<Vec<_>>();
    ensure!(
        tuning.features == 0.0 || outputs(student) == outputs(teacher),
        "the student's blocks are not the teacher's, so their outputs cannot be compared: use --features 0"
    );
    Ok(())
}

/// The calibrated images in a teacher's pack: more than are kept for measuring.
fn noise_images(teacher: &Path) -> Result<NoiseImages> {
    let shown = teacher.display();
    let missing = || format!("{shown} holds no calibrated noise: make it with `distill calibrate`");
    let images = open_pack(teacher)?.noise_images()?.with_context(missing)?;
    let count = images.len();
    ensure!(
        count > MEASURED_INPUTS,
        "{shown} holds only {count} noise images, and {MEASURED_INPUTS} are for measuring: make more with `distill calibrate`"
    );
    Ok(images)
}
