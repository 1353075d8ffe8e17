//! What needs no gradient step: channels, the last convolution and the layers before it, by least squares.

mod closed_form;
mod eliminate;
mod normal_equations;
mod project;
pub mod ridge;
mod target;

pub use self::{
    closed_form::{chooses, closed_form},
    eliminate::eliminate,
    normal_equations::{EquationBytes, NormalEquations, put_solution, solvable_nodes},
    project::{project, vectors},
    target::{SolveTarget, gather},
};
