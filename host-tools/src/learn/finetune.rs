//! Fine-tuning of a whole student, with its teacher as the target: on noise, or on images and their classes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use distill_core::{
    Block, Contents, Course, Engine, Lessons, MAX_INPUTS, MEASURED_INPUTS, Manifest, NoiseImages, NoiseLessons,
    SourceKind, Tuning, WhiteLessons,
};
use distill_device::open_pack;

use super::{
    check_step,
    shown::Shown,
    whole::{Start, Watched, train_whole},
};
use crate::{
    export::recompose,
    images::{Images, Part},
    import::{ImportOptions, import},
    network::{Network, is_pack},
};

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

/// Peak rate of a fine-tune by momentum. The paper's 1e-2 is for students with batch norms; without, it diverges.
pub const TUNING_RATE: f32 = 1e-3;

/// The images of a fine-tune.
#[derive(Clone, Copy, Debug)]
pub enum LearnFrom<'a> {
    /// Noise.
    Noise(NoiseSource),
    /// Images of a data set, and their classes if they have any.
    Images(&'a Part),
}

impl LearnFrom<'_> {
    fn kind(self) -> SourceKind {
        match self {
            Self::Noise(noise) => noise.kind(),
            Self::Images(_) => SourceKind::Recorded,
        }
    }
}

/// A student to fine-tune, and how.
#[derive(Clone, Copy, Debug)]
pub struct FineTune<'a> {
    /// The teacher's pack.
    pub teacher: &'a Path,
    /// The student.
    pub student: &'a Network,
    /// The images to learn from.
    pub from: LearnFrom<'a>,
    /// Steps, loss and seed.
    pub tuning: &'a Tuning,
}

/// The student fine-tuned, and the loss of the last step; `None` if there was nothing to train.
///
/// # Errors
/// A number out of range, a teacher that does not classify or has no noise images, a student of other shapes, and those of
/// [`train_whole`].
pub fn finetune_student(task: FineTune<'_>, watched: Watched<'_>) -> Result<(Network, Option<f32>)> {
    let FineTune { teacher, student, from, tuning } = task;
    check_tuning(tuning)?;
    let network = Network::read_pack(teacher)?;
    network.check_classifies()?;
    check_shapes(&network, student, tuning)?;
    check_step(&student.blocks, tuning.training.batch).context("take a smaller --batch")?;
    let pixels = network.manifest.pixels();
    let (noise, images);
    let (lessons, content): (&dyn Lessons, u32) = match from {
        LearnFrom::Noise(NoiseSource::Standard) => (&WhiteLessons(network.input()), 0),
        LearnFrom::Noise(NoiseSource::Calibrated) => {
            images = noise_images(teacher)?;
            noise = NoiseLessons { images: &images, pixels: &pixels, seen: images.len() - MEASURED_INPUTS };
            (&noise, open_pack(teacher)?.noise_checksum())
        }
        LearnFrom::Images(part) => (&Shown::new(part, &network), part.checksum()?),
    };
    let settings = ("finetune", network.digest()?, student.digest()?, from.kind(), content, lessons.labels(), tuning);
    let course = Course { teacher: &network.blocks, lessons, tuning, engine: &Engine::default() };
    let start = Start::Folded(student.blocks.clone());
    let (blocks, loss) = train_whole(course, start, &student.manifest, watched, &settings)?;
    // What is not known of the student stays unknown, unless data took part.
    let made_from = match from.kind() {
        SourceKind::Recorded => Some(SourceKind::Recorded),
        kind => student.manifest.made_from.map(|made_from| made_from.max(kind)),
    };
    Ok((Network::new(Manifest { made_from, ..student.manifest.clone() }, blocks)?, loss))
}

/// Checks the numbers of a training.
pub(super) fn check_tuning(tuning: &Tuning) -> Result<()> {
    let Tuning { training, temperature, labels, features, disturbance, .. } = tuning;
    ensure!((1..=MAX_INPUTS).contains(&training.batch), "the batch must be from 1 to {MAX_INPUTS}");
    ensure!(training.rate.is_finite() && training.rate > 0.0, "the learning rate must be a number above 0");
    ensure!(temperature.is_finite() && *temperature > 0.0, "the temperature must be a number above 0");
    let weights = [
        (training.weight_decay, "weight decay"),
        (*labels, "weight of the labels"),
        (*features, "weight of the features"),
        (*disturbance, "noise on activations"),
    ];
    for (weight, name) in weights {
        ensure!(weight.is_finite() && weight >= 0.0, "the {name} must be a number of at least 0");
    }
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
