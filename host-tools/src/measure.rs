//! How good a student is: its accuracy on labelled images, its error block by block, and reports of both.

mod evaluate;
mod interface_error;
mod report;

pub use self::{
    evaluate::{Evaluation, batch, evaluate},
    interface_error::interface_error,
    report::{DataFree, DataFreeOptions, data_free},
};
