//! Calibrated noise for a teacher pack: made batch by batch, and kept after each.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use distill_core::{
    Calibrated, Calibration, Calibrator, Encoding, MAX_INPUTS, NoiseImages, Pack, PackError, PackWriter, Pull, ReadAt,
};
use distill_device::{NewFile, Progress, open_pack};
use serde::Serialize;

use crate::network::Network;

/// Bounds what a number from outside can cost.
const MOST_STEPS: usize = 1 << 20;

/// Activations of a batch take at most this, where its size is not asked for.
const BATCH_BYTES: usize = 2 << 30;

/// Images for a teacher where no number is asked for.
pub const CALIBRATED_IMAGES: usize = 4096;
/// Steps on each batch of them.
pub const CALIBRATION_STEPS: usize = 75;

/// Images a batch for the teacher in `path` where no number is asked for: 128, or fewer where they are large.
///
/// # Errors
/// The file.
pub fn default_batch(path: &Path) -> Result<usize> {
    Ok(Calibrator::new(&Network::read_pack(path)?.blocks).default_batch(BATCH_BYTES))
}

/// The object `calibrate --json` prints.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Images in the pack.
    pub images: usize,
    /// Those an earlier run had made.
    pub found: usize,
    /// `Σ_l mean_c[(μ − μ̂)² + (σ − σ̂)²] / mean_c[σ̂²]` over the batch norms, on average over the batches made now: before their first
    /// step. None if all were there.
    pub mismatch_before: Option<f32>,
    /// The same after the last step, over all batches.
    pub mismatch: f32,
    /// Wall time.
    pub seconds: f64,
}

/// Makes `count` noise images that match the running statistics of the teacher in `teacher`, in whole batches, and writes the teacher with them
/// to `output`, after each batch. Images of the same teacher and calibration that are there already are kept.
///
/// # Errors
/// A teacher that does not classify, or has no batch norms, numbers out of range, the files.
pub fn calibrate(teacher: &Path, output: &Path, calibration: &Calibration, count: usize) -> Result<Outcome> {
    let start = Instant::now();
    let (batch, steps) = (calibration.batch, calibration.pull.steps);
    ensure!((1..=MAX_INPUTS).contains(&count), "the number of images must be from 1 to {MAX_INPUTS}");
    ensure!((2..=MAX_INPUTS).contains(&batch), "the batch must be from 2 to {MAX_INPUTS}");
    ensure!((1..=MOST_STEPS).contains(&steps), "the number of steps must be from 1 to {MOST_STEPS}");
    let Pull { smoothness, classes, .. } = calibration.pull;
    ensure!(
        [smoothness, classes].iter().all(|weight| weight.is_finite() && *weight >= 0.0),
        "the weights of smoothness and classes must be numbers of at least 0"
    );
    let network = Network::read_pack(teacher)?;
    network.check_classifies()?;
    ensure!(
        network.blocks.iter().any(|block| block.has_statistics()),
        "{}: the teacher has no batch norms whose statistics noise could be matched to (exporters fold them away): import its \
         weights instead, or distil it with `--noise standard`",
        teacher.display()
    );
    let mut source = open_pack(teacher)?;
    let mut made = found(&mut source, output, calibration)?;
    let (pixels, mut calibrator) = (network.manifest.pixels(), Calibrator::new(&network.blocks));
    let (batches, first) = (count.div_ceil(batch), made.as_ref().map_or(0, |(images, _)| images.len() / batch));
    let mut progress = Progress::new("calibrating", Some((batches * steps) as u64), "{pos}/{len} steps")?;
    let mut before = None;
    for index in first..batches {
        let (mut step, mut mismatch) = (0, [0.0; 2]);
        let images = calibrator.batch(index, calibration, &pixels, |here| {
            mismatch = [if step == 0 { here } else { mismatch[0] }, here];
            progress.set((index * steps + step) as u64);
            step += 1;
        });
        progress.say(&format!("batch {}: mismatch {:.1} -> {:.3}", index + 1, mismatch[0], mismatch[1]));
        before = Some(before.unwrap_or(0.0) + mismatch[0] / (batches - first) as f32);
        let (mut all, mean) = made.take().unwrap_or((images.emptied(), 0.0));
        all.append(images);
        let mean = mean + (mismatch[1] - mean) / (index + 1) as f32;
        write(&mut source, output, calibration, (&all, mean))?;
        // The teacher may have been replaced by itself with its images.
        source = open_pack(output)?;
        made = Some((all, mean));
    }
    let (images, mismatch) = made.map_or((0, 0.0), |(images, mismatch)| (images.len(), mismatch));
    let seconds = start.elapsed().as_secs_f64();
    Ok(Outcome { images, found: first * batch, mismatch_before: before, mismatch, seconds })
}

/// Images of the same teacher and calibration in `output`, and their mismatch.
fn found<R: ReadAt>(
    teacher: &mut Pack<R>,
    output: &Path,
    calibration: &Calibration,
) -> Result<Option<(NoiseImages, f32)>> {
    // What is there may be anything: it is replaced unless it is this.
    let Ok(mut pack) = open_pack(output) else { return Ok(None) };
    let Some(&Calibrated { calibration: theirs, images, mismatch, .. }) = pack.calibrated() else { return Ok(None) };
    if theirs != *calibration || pack.fingerprint() != teacher.fingerprint() {
        log::warn!("{images} images of another calibration in {} are replaced", output.display());
        return Ok(None);
    }
    let images = pack.noise_images().with_context(|| format!("cannot read the images in {}", output.display()))?;
    Ok(images.map(|images| (images, mismatch)))
}

/// Writes the teacher with `images`, all or not at all.
fn write<R: ReadAt>(
    teacher: &mut Pack<R>,
    output: &Path,
    calibration: &Calibration,
    (images, mismatch): (&NoiseImages, f32),
) -> Result<()> {
    let context = || format!("cannot write {}", output.display());
    let manifest = teacher.manifest().clone();
    let mut file = NewFile::create(output)?;
    let mut writer = PackWriter::with_noise(&mut file, &manifest, teacher.blocks()).with_context(context)?;
    for position in 0..teacher.blocks() {
        let encoding: Encoding = teacher.outline(position)?.encoding;
        writer.add(position, &teacher.block(position)?, encoding).with_context(context)?;
    }
    let finish = writer.add_noise(*calibration, images, mismatch).and_then(|()| writer.finish().map(|_| ()));
    finish.map_err(|error: PackError<std::io::Error>| error).with_context(context)?;
    file.commit()
}
