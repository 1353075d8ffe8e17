//! Training of whole students without data: the noise, fine-tuning on it, and the baselines; what is kept of it at a cut.

mod baseline;
mod calibrate;
mod checkpoint;
mod finetune;

pub use self::{
    baseline::{Baseline, BaselineOptions, Preset, baseline, untaught},
    calibrate::{CALIBRATED_IMAGES, CALIBRATION_STEPS, Distance, Outcome, calibrate, usual_calibration},
    checkpoint::Keep,
    finetune::{FineTune, NoiseSource, finetune_on_noise, read_student},
};
