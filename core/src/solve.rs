//! Least-squares solutions without gradient steps: channel selection, the last convolution and the layers before it.

mod closed_form;
mod eliminate;
mod normal_equations;
mod project;
mod ridge;
mod target;

pub use self::{
    closed_form::{ClosedFormBytes, closed_form},
    eliminate::eliminate,
    normal_equations::{EquationBytes, NormalEquations, Solvable, put_solution, solvable},
    target::{Site, SolveTarget, SumBytes, sum_equations},
};
