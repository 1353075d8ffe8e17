//! Tables of measurements, filled student by student, so that an interrupted report can be resumed. A report is a [`Kind`]: a
//! list of students, and the paper's table beside them.

mod fill;
mod kind;
mod maker;
mod method;
mod plot;
mod recipes;
mod table;

pub use fill::{ReportOptions, fill};
pub use kind::Kind;
pub use table::Report;
