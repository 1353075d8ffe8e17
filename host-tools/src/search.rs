//! The best student for what it may cost: how much each layer or block gives up.

mod allocate;
mod amount;
mod candidates;
mod find;
mod knapsack;
mod output_errors;
mod students;

pub use self::{
    allocate::{Allocation, Layer, allocate},
    amount::Amount,
    candidates::{Candidate, Candidates, Filled},
    find::{Bound, Found, FoundBlock, search},
};
