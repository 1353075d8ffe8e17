//! How good a student is: its accuracy on labelled images, its error block by block, its speed, and reports of them.

mod compare;
mod evaluate;
mod latency;
mod report;

pub use self::{
    compare::{BlockComparison, Comparison, Sample, compare},
    evaluate::{Evaluation, batch, evaluate},
    latency::{block_milliseconds, milliseconds},
    report::{Kind, Report, ReportOptions, fill},
};
