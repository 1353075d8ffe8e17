//! What learns by gradient: a block, a whole student, and the noise images themselves.

mod block;
mod calibrate;
mod early_stop;
mod finetune;

pub use self::{
    block::{BlockTraining, TrainBytes, train},
    calibrate::Calibrator,
    finetune::{Lessons, Tuning, finetune, learn},
};
