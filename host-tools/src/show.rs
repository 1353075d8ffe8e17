//! What is in a file of blocks, and what a run over it would take: tables and pictures.

mod drawing;
mod inspect;
mod plan_table;

pub use self::{
    drawing::{Format, draw},
    inspect::{Inspection, inspect, read_blocks},
    plan_table::PlanTable,
};
