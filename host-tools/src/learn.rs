//! Training of whole students without data: the noise, fine-tuning on it, and the baselines.

mod baseline;
mod calibrate;
mod finetune;

pub use self::{
    baseline::{Baseline, BaselineOptions, Preset, baseline, untaught},
    calibrate::{CALIBRATED_IMAGES, CALIBRATION_STEPS, Distance, Outcome, calibrate, usual_calibration},
    finetune::{NoiseSource, finetune_on_noise, read_student},
};
