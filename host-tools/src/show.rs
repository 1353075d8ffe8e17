//! What a file of blocks holds, and the memory that a run over it needs, as tables and pictures.

mod drawing;
mod inspect;
mod plan_table;
mod size_table;
mod table;

pub use self::{
    drawing::{Format, draw},
    inspect::{Inspection, inspect},
    plan_table::PlanTable,
    size_table::{Size, SizeLine, SizeTable},
    table::table,
};
