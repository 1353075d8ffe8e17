//! Training of whole students without data: the noise, fine-tuning on it, and the baselines; what is kept of it at a cut.

mod baseline;
mod calibrate;
mod checkpoint;
mod finetune;
mod recorded;

use anyhow::Result;
use distill_core::{Block, Calibrator};
use distill_device::check_memory;

pub use self::{
    baseline::{Baseline, BaselineOptions, Preset, baseline, untaught},
    calibrate::{CALIBRATED_IMAGES, CALIBRATION_STEPS, Distance, Outcome, calibrate, usual_calibration},
    checkpoint::Keep,
    finetune::{FineTune, NoiseSource, finetune_on_noise, read_student},
    recorded::open_recorded,
};

/// Checks that the passes of a step over a batch of images fit in memory.
fn check_step(blocks: &[Block], batch: usize) -> Result<()> {
    check_memory(&format!("a step of {batch} images"), Calibrator::new(blocks).batch_bytes(batch))
}
