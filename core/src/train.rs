//! What learns by gradient: a block, a whole student, and the noise images themselves.

mod block;
mod calibrate;
mod finetune;

pub use self::{
    block::{BlockTrainer, train},
    calibrate::Calibrator,
    finetune::{Lessons, Tuning, finetune, learn},
};
