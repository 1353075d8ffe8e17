//! How good a student is: its accuracy on labelled images, its error block by block, and reports of both.

mod compare;
mod evaluate;
mod report;

pub use self::{
    compare::{BlockComparison, Comparison, Sample, compare},
    evaluate::{Evaluation, batch, evaluate},
    report::{DataFree, DataFreeOptions, data_free},
};
