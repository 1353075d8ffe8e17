//! Least-squares solutions without gradient steps: channel selection, the last convolution and the layers before it.

mod channels;
mod closed_form;
mod normal_equations;
mod ridge;
mod sparse;
mod surgeon;
mod target;
mod variable_projection;

pub use self::{
    channels::eliminate,
    closed_form::{ClosedFormBytes, closed_form},
    normal_equations::{EquationBytes, NormalEquations, Solvable, put_solution, solvable},
    target::{Site, SolveTarget, SumBytes, sum_equations},
};
