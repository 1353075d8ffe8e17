//! Tables of measurements, filled cell by cell, so that an interrupted report can be resumed.

mod data_free;
mod plot;
mod table;

pub use data_free::{DataFreeOptions, data_free};
pub use table::DataFree;
