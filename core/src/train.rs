//! Training by gradient descent: of a block, of a whole student, and of the noise images themselves.

mod block;
mod calibrate;
mod early_stop;
mod finetune;
mod lessons;
mod ramp;

pub use self::{
    block::{BlockTraining, LookAhead, TrainBytes, train},
    calibrate::Calibrator,
    finetune::{Course, Snapshot, Step, Tuning, finetune, learn},
    lessons::{Lessons, NoiseLessons, WhiteLessons},
    ramp::Ramp,
};
