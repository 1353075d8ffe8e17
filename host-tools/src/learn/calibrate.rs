//! Noise images calibrated to a teacher, stored in its pack batch by batch.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use distill_core::{
    Block, Calibrated, Calibration, Calibrator, MAX_INPUTS, NoiseImages, Pack, PackError, PackWriter, Pull, ReadAt,
};
use distill_device::{NewFile, Progress, open_pack};
use serde::Serialize;

use crate::network::Network;

/// Bounds the cost of a mistyped number.
const MAX_STEPS: usize = 1 << 20;

/// Most bytes for the activations of a batch of the default size.
const BATCH_BYTES: usize = 2 << 30;

/// Default number of images.
pub const CALIBRATED_IMAGES: usize = 4096;
/// Default number of steps on each batch.
pub const CALIBRATION_STEPS: usize = 75;

/// The default number of images in a batch for the teacher in `path`: 128, or fewer if they are large.
pub fn default_batch(path: &Path) -> Result<usize> {
    Ok(Calibrator::new(&Network::read_pack(path)?.blocks).default_batch(BATCH_BYTES))
}

/// The object `calibrate --json` prints.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Images in the pack.
    pub images: usize,
    /// Images that an earlier run had made.
    pub found: usize,
    /// `Σ_l mean_c[(μ − μ̂)² + (σ − σ̂)²] / mean_c[σ̂²]` over the batch norms before the first step, averaged over the batches
    /// of this run; `None` if it made none.
    pub mismatch_before: Option<f32>,
    /// The same after the last step, averaged over all batches.
    pub mismatch: f32,
    /// Wall time.
    pub seconds: f64,
}

/// Makes `count` noise images, in whole batches, whose statistics match the teacher's batch norms. Writes the teacher with
/// them to `output` after each batch, and keeps images there that have the same teacher and calibration.
///
/// # Errors
/// A teacher that does not classify, or has no batch norms; numbers out of range; the files.
pub fn calibrate(teacher: &Path, output: &Path, calibration: &Calibration, count: usize) -> Result<Outcome> {
    let start = Instant::now();
    check(calibration, count)?;
    let (batch, steps) = (calibration.batch, calibration.pull.steps);
    let network = Network::read_pack(teacher)?;
    network.check_classifies()?;
    ensure!(
        network.blocks.iter().any(Block::has_statistics),
        "{}: the teacher has no batch norms whose statistics noise could match (exporters fold them away): import its \
         weights instead, or distil it with `--noise standard`",
        teacher.display()
    );
    let mut source = open_pack(teacher)?;
    let mut made = earlier(&mut source, output, calibration)?;
    let (pixels, mut calibrator) = (network.manifest.pixels(), Calibrator::new(&network.blocks));
    let (batches, first) = (count.div_ceil(batch), made.as_ref().map_or(0, |made| made.images.len() / batch));
    let mut progress = Progress::new("calibrating", Some((batches * steps) as u64), "{pos}/{len} steps")?;
    let mut mismatch_before = None;
    for index in first..batches {
        let (mut step, mut before, mut after) = (0, 0.0, 0.0);
        let images = calibrator.batch(index, calibration, &pixels, |mismatch| {
            before = if step == 0 { mismatch } else { before };
            after = mismatch;
            progress.set((index * steps + step) as u64);
            step += 1;
        });
        progress.say(&format!("batch {}: mismatch {before:.1} -> {after:.3}", index + 1));
        mismatch_before = Some(mismatch_before.unwrap_or(0.0) + before / (batches - first) as f32);
        let mut all = made.take().unwrap_or_else(|| Made { images: images.emptied(), mismatch: 0.0 });
        all.images.append(images);
        all.mismatch += (after - all.mismatch) / (index + 1) as f32;
        write(&mut source, output, calibration, &all)?;
        // `output` may be `teacher`, which has just been replaced.
        source = open_pack(output)?;
        made = Some(all);
    }
    let (images, mismatch) = made.map_or((0, 0.0), |made| (made.images.len(), made.mismatch));
    let seconds = start.elapsed().as_secs_f64();
    Ok(Outcome { images, found: first * batch, mismatch_before, mismatch, seconds })
}

fn check(calibration: &Calibration, count: usize) -> Result<()> {
    let Pull { steps, smoothness, classes, .. } = calibration.pull;
    ensure!((1..=MAX_INPUTS).contains(&count), "the number of images must be from 1 to {MAX_INPUTS}");
    ensure!((2..=MAX_INPUTS).contains(&calibration.batch), "the batch must be from 2 to {MAX_INPUTS}");
    ensure!((1..=MAX_STEPS).contains(&steps), "the number of steps must be from 1 to {MAX_STEPS}");
    ensure!(
        [smoothness, classes].iter().all(|weight| weight.is_finite() && *weight >= 0.0),
        "the weights of smoothness and classes must be numbers of at least 0"
    );
    Ok(())
}

/// Images, and their mismatch averaged over the batches.
struct Made {
    images: NoiseImages,
    mismatch: f32,
}

/// The images that `output` already holds for this teacher and calibration.
fn earlier<R: ReadAt>(teacher: &mut Pack<R>, output: &Path, calibration: &Calibration) -> Result<Option<Made>> {
    // Whatever else is there will be replaced, so it need not be readable.
    let Ok(mut pack) = open_pack(output) else { return Ok(None) };
    let Some(&Calibrated { calibration: theirs, images, mismatch, .. }) = pack.calibrated() else { return Ok(None) };
    if theirs != *calibration || pack.fingerprint() != teacher.fingerprint() {
        log::warn!("{} holds {images} images of another calibration: they are replaced", output.display());
        return Ok(None);
    }
    let images = pack.noise_images().with_context(|| format!("cannot read the images in {}", output.display()))?;
    Ok(images.map(|images| Made { images, mismatch }))
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
    let finish = writer.add_noise(*calibration, &made.images, made.mismatch).and_then(|()| writer.finish().map(|_| ()));
    finish.map_err(|error: PackError<std::io::Error>| error).with_context(context)?;
    file.commit()
}
