//! Tables of what was measured, filled cell by cell: a report that was cut off goes on where it was.

mod data_free;
mod plot;
mod table;

pub use data_free::{Asked, data_free};
pub use table::DataFree;
