//! Tables of what was measured, filled cell by cell: a report that was cut off goes on where it was.

mod data_free;
mod plot;

pub use data_free::{Asked, DataFree, data_free};
