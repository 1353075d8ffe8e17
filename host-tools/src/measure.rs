//! How good a student is: its accuracy on labelled images, its error block by block, its speed, and reports of them.

mod evaluate;
mod interface_error;
mod latency;
mod report;

pub use self::{
    evaluate::{Evaluation, batch, evaluate},
    interface_error::interface_error,
    latency::{block_milliseconds, milliseconds},
    report::{DataFree, DataFreeOptions, data_free},
};
