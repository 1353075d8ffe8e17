//! Training of whole networks, with data or without: the noise, fine-tuning, the baselines, teachers; what is kept of it at a cut.

mod baseline;
mod calibrate;
mod checkpoint;
mod finetune;
mod metrics;
mod recorded;
mod shown;
mod teach;
mod whole;

use anyhow::Result;
use distill_core::{Block, Calibrator};
use distill_device::check_memory;

pub use self::{
    baseline::{Baseline, BaselineOptions, Preset, baseline, from_scratch, untaught},
    calibrate::{CALIBRATED_IMAGES, CALIBRATION_STEPS, Distance, Outcome, calibrate, usual_calibration},
    checkpoint::Keep,
    finetune::{FineTune, LearnFrom, NoiseSource, TUNING_RATE, finetune_student, read_student},
    metrics::{MetricFiles, read_metrics},
    recorded::{open_recorded, recorded},
    shown::check_classes,
    teach::{Teach, teach},
    whole::Watched,
};

/// Checks that the passes of a step over a batch of images fit in memory.
fn check_step(blocks: &[Block], batch: usize) -> Result<()> {
    check_memory(&format!("a step of {batch} images"), Calibrator::new(blocks).batch_bytes(batch))
}
