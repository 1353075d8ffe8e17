//! Whole-network training without data: noise calibrated to a teacher, fine-tuning on it, and the baselines.

mod baseline;
mod calibrate;
mod finetune;

pub use self::{
    baseline::{Baseline, Preset, baseline, untaught},
    calibrate::{CALIBRATED_IMAGES, CALIBRATION_STEPS, Outcome, calibrate, default_batch},
    finetune::{NoiseSource, finetune_on_noise, read_student},
};
