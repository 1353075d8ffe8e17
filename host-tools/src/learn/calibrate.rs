//! Noise images calibrated to a teacher, stored in its pack. Until all are made, they are in `OUTPUT.part`.

use std::{fmt, fs, path::Path, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use distill_core::{
    Aim, Calibrated, Calibration, Calibrator, MAX_INPUTS, MEASURED_INPUTS, NoiseImages, Pack, PackError, PackWriter,
    Pull, ReadAt, Start,
};
use distill_device::{NewFile, Progress, Resumable, UnfinishedFile, open_pack};
use serde::Serialize;

use super::check_step;
use crate::network::{Network, ending};

/// Bounds the cost of a mistyped number.
const MAX_STEPS: usize = 1 << 20;

/// Most bytes for the activations of a batch of the default size.
const BATCH_BYTES: usize = 4 << 30;

/// See [`Distance::is_high`].
const HIGH: f32 = 0.25;

const FAR: &str = "the images are still far from what they are pulled towards: `distill calibrate` with more --steps brings them \
                   nearer; if the network scales pixels from 0 to 255 itself, it needs \
                   `--normalise 0,0,0/0.0039216,0.0039216,0.0039216`";

/// Default number of images.
pub const CALIBRATED_IMAGES: usize = 4096;
/// Default number of steps on each batch.
pub const CALIBRATION_STEPS: usize = 75;

/// The usual calibration of a teacher: batches of 128, or fewer if they are large, pulled towards what it has. Says what it
/// lacks.
pub fn usual_calibration(teacher: &Network, steps: usize, seed: u64) -> Calibration {
    let calibrator = Calibrator::new(&teacher.blocks);
    let (batch, pull) = (calibrator.default_batch(BATCH_BYTES), calibrator.usual_pull(steps));
    if pull.statistics == 0.0 {
        log::warn!("the teacher has no batch norms (exporters fold them away), whose statistics images would match");
    }
    if pull.classes == 0.0 {
        let output = teacher.output();
        log::warn!("the network gives {output} for an image, not one number for each class: no image is of a class");
    }
    let start = if pull.aim() == Aim::Statistics { Start::Octaves } else { Start::Natural };
    Calibration { batch, start, seed, pull }
}

/// How far images are from what they are pulled towards, averaged over the batches: before the first step, over the
/// batches of this run (`None` if it made none), and after the last, over all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "pulled_towards", rename_all = "kebab-case")]
pub enum Distance {
    /// `Σ_l mean_c[(μ − μ̂)² + (σ − σ̂)²] / mean_c[σ̂²]` over the batch norms.
    Statistics {
        /// Before the first step.
        #[serde(skip_serializing_if = "Option::is_none")]
        mismatch_before: Option<f32>,
        /// After the last step.
        mismatch: f32,
    },
    /// The cross-entropy of the teacher's output with each image's class.
    Classes {
        /// Before the first step.
        #[serde(skip_serializing_if = "Option::is_none")]
        cross_entropy_before: Option<f32>,
        /// After the last step.
        cross_entropy: f32,
    },
    /// The images are as drawn, smoothed if asked.
    Nothing,
}

impl Distance {
    /// Images with this much left, and with this much before if known.
    pub fn new(pull: &Pull, before: Option<f32>, left: f32) -> Self {
        match pull.aim() {
            Aim::Statistics => Self::Statistics { mismatch_before: before, mismatch: left },
            Aim::Classes => Self::Classes { cross_entropy_before: before, cross_entropy: left },
            Aim::Nothing => Self::Nothing,
        }
    }

    /// What is left of the statistics' mismatch, if they are what was matched.
    pub fn mismatch(&self) -> Option<f32> {
        if let Self::Statistics { mismatch, .. } = *self { Some(mismatch) } else { None }
    }

    /// Whether the images are still far from what they are pulled towards: at more than a quarter of the distance at which
    /// they began. Usual calibrations leave 1 to 4 % (ResNet-20) or 9 % (EfficientNet-Lite0) of it; a network that scales
    /// pixels itself is given numbers so small that nearly all is left.
    pub fn is_high(&self) -> bool {
        match *self {
            Self::Statistics { mismatch_before: Some(before), mismatch: left }
            | Self::Classes { cross_entropy_before: Some(before), cross_entropy: left } => left > HIGH * before,
            _ => false,
        }
    }

    /// Of images that a pack holds.
    pub fn of(calibrated: &Calibrated) -> Self {
        Self::new(&calibrated.calibration.pull, None, calibrated.mismatch)
    }
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, before, left) = match *self {
            Self::Statistics { mismatch_before, mismatch } => ("statistics, mismatch", mismatch_before, mismatch),
            Self::Classes { cross_entropy_before, cross_entropy } => {
                ("classes, cross-entropy", cross_entropy_before, cross_entropy)
            }
            Self::Nothing => return f.write_str("pulled towards neither statistics nor classes"),
        };
        let before = before.map_or_else(String::new, |before| format!("{before:.1} -> "));
        write!(f, "pulled towards {name} {before}{left:.3}")
    }
}

/// The object `calibrate --json` prints.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Images in the pack.
    pub images: usize,
    /// Images that an earlier run had made.
    pub found: usize,
    /// What they are pulled towards, and what is left of the way.
    #[serde(flatten)]
    pub distance: Distance,
    /// Wall time.
    pub seconds: f64,
}

/// Makes `count` noise images, in whole batches, and writes the teacher with them to `output`. Batches are kept in
/// `output.part` until all are there; images of the same teacher and calibration in either file are not made again.
///
/// # Errors
/// A teacher that has not what the images are to be pulled towards; numbers out of range; the files.
pub fn calibrate(teacher: &Path, output: &Path, calibration: &Calibration, count: usize) -> Result<Outcome> {
    let start = Instant::now();
    check(calibration, count)?;
    check_output(output)?;
    let (batch, steps) = (calibration.batch, calibration.pull.steps);
    let network = Network::read_pack(teacher)?;
    check_aim(&network, &calibration.pull)?;
    let mut source = open_pack(teacher)?;
    let part = UnfinishedFile::path(output)?;
    let (complete, begun) = (earlier(&mut source, output, calibration)?, earlier(&mut source, &part, calibration)?);
    let images = |made: &Option<Made>| made.as_ref().map_or(0, |made| made.images.len());
    let (in_part, was_begun) = (images(&begun) > images(&complete), begun.is_some());
    let mut made = if in_part { begun } else { complete };
    let line = format!("finished batches are in {}; the same command resumes after them", part.display());
    let _resumable = Resumable::new(part.clone(), line);
    let (pixels, mut calibrator) = (network.manifest.pixels(), Calibrator::new(&network.blocks));
    let (batches, first) = (count.div_ceil(batch), images(&made) / batch);
    check_step(&network.blocks, batch)?;
    let mut progress = Progress::new("calibrating", Some((batches * steps) as u64), "{pos}/{len} steps")?;
    let mut before_all = None;
    for index in first..batches {
        let (mut step, mut before, mut after) = (0, 0.0, 0.0);
        let images = calibrator.batch(index, calibration, &pixels, |left| {
            before = if step == 0 { left } else { before };
            after = left;
            progress.set((index * steps + step) as u64);
            step += 1;
        });
        ensure!(after.is_finite(), "the network's values on batch {} are not finite: check the model", index + 1);
        progress.say(&format!("batch {}: {}", index + 1, Distance::new(&calibration.pull, Some(before), after)));
        before_all = Some(before_all.unwrap_or(0.0) + before / (batches - first) as f32);
        let mut all = made.take().unwrap_or_else(|| Made { images: images.emptied(), left: 0.0 });
        all.images.append(images);
        all.left += (after - all.left) / (index + 1) as f32;
        write(&mut source, if index + 1 < batches { &part } else { output }, calibration, &all)?;
        made = Some(all);
    }
    let Some(made) = made else { bail!("no images were made") };
    if in_part && first >= batches {
        write(&mut source, output, calibration, &made)?;
    }
    if was_begun || batches > first + 1 {
        fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    let distance = Distance::new(&calibration.pull, before_all, made.left);
    if distance.is_high() {
        log::warn!("{FAR}");
    }
    Ok(Outcome { images: made.images.len(), found: first * batch, distance, seconds: start.elapsed().as_secs_f64() })
}

fn check(calibration: &Calibration, count: usize) -> Result<()> {
    let Calibration { batch, pull: Pull { steps, smoothness, classes, .. }, .. } = *calibration;
    ensure!((1..=MAX_INPUTS).contains(&count), "the number of images must be from 1 to {MAX_INPUTS}");
    ensure!((2..=MAX_INPUTS).contains(&batch), "the batch must be from 2 to {MAX_INPUTS}");
    ensure!((1..=MAX_STEPS).contains(&steps), "the number of steps must be from 1 to {MAX_STEPS}");
    ensure!(
        [smoothness, classes].iter().all(|weight| weight.is_finite() && *weight >= 0.0),
        "the weights of smoothness and classes must be numbers of at least 0"
    );
    ensure!(
        count.next_multiple_of(batch) > MEASURED_INPUTS,
        "{count} images are too few: {MEASURED_INPUTS} are kept to measure students on, so take --images {} or more",
        MEASURED_INPUTS + 1
    );
    Ok(())
}

/// Checks before any work that a pack can be written to `output`, which may be the teacher itself.
fn check_output(output: &Path) -> Result<()> {
    ensure!(ending(output) == "ndp", "cannot write {}: noise images are kept in packs (.ndp)", output.display());
    NewFile::create(output).map(drop)
}

fn check_aim(network: &Network, pull: &Pull) -> Result<()> {
    ensure!(
        pull.classes == 0.0 || network.classifies(),
        "the network gives {} for an image, not one number for each class: take --classes 0",
        network.output()
    );
    Ok(())
}

/// Images, and what is left of their aim, averaged over the batches.
struct Made {
    images: NoiseImages,
    left: f32,
}

/// The images that a pack already holds for this teacher and calibration.
fn earlier<R: ReadAt>(teacher: &mut Pack<R>, path: &Path, calibration: &Calibration) -> Result<Option<Made>> {
    // Whatever else is there will be replaced, so it need not be readable.
    let Ok(mut pack) = open_pack(path) else { return Ok(None) };
    let Some(&Calibrated { calibration: theirs, images, mismatch: left, .. }) = pack.calibrated() else {
        return Ok(None);
    };
    if theirs != *calibration || pack.fingerprint() != teacher.fingerprint() {
        log::warn!("{} holds {images} images of another calibration: they will be replaced", path.display());
        return Ok(None);
    }
    let images = pack.noise_images().with_context(|| format!("cannot read the images in {}", path.display()))?;
    Ok(images.map(|images| Made { images, left }))
}

/// Writes the teacher with its images. If that fails, an existing file is unchanged.
fn write<R: ReadAt>(teacher: &mut Pack<R>, output: &Path, calibration: &Calibration, made: &Made) -> Result<()> {
    let context = || format!("cannot write {}", output.display());
    let manifest = teacher.manifest().clone();
    let mut file = NewFile::create(output)?;
    let mut writer = PackWriter::with_noise(&mut file, &manifest, teacher.blocks()).with_context(context)?;
    for position in 0..teacher.blocks() {
        let encoding = teacher.outline(position)?.encoding;
        writer.add(position, &teacher.block(position)?, encoding).with_context(context)?;
    }
    let finish = writer.add_noise(*calibration, &made.images, made.left).and_then(|()| writer.finish().map(|_| ()));
    finish.map_err(|error: PackError<std::io::Error>| error).with_context(context)?;
    file.commit()
}
