//! Training by gradient descent: of a block, of a whole student, and of the noise images themselves.

mod block;
mod calibrate;
mod early_stop;
mod finetune;

pub use self::{
    block::{BlockTraining, TrainBytes, train},
    calibrate::Calibrator,
    finetune::{Course, Lessons, Snapshot, Step, Tuning, finetune, learn},
};
