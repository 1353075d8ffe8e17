//! One neighbourhood: fold, shrink, solve, train, measure.

use crate::{
    block::{Block, BlockError},
    fold::fold_batch_norms,
    forward::{DeviceBlock, Statistics, host_values},
    inputs::Inputs,
    noise::Purpose,
    shrink::{Width, shrink},
    solve::{NormalEquations, solvable_node},
    train::{Training, train},
};

/// Inputs that the solve and the measurement push through a block at a time: bounds their memory.
pub const MICRO_BATCH: usize = 16;

/// Inputs on which a block's error is measured.
pub const MEASURED_INPUTS: usize = 64;

/// What is done to every neighbourhood. Each stage can be switched off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// Bottleneck multiplier `k`.
    pub width: Width,
    /// Inputs of the ridge solve; 0 switches it off.
    pub solve_inputs: usize,
    /// Gradient steps after it.
    pub training: Training,
}

/// A distilled block and how well it reproduces the teacher's.
#[derive(Clone, Debug, PartialEq)]
pub struct Distilled {
    /// The student `S_i`.
    pub block: Block,
    /// `‖S_i(a) − T_i(a)‖ / ‖T_i(a)‖` over inputs that neither solve nor training saw.
    pub relative_error: f64,
    /// Mean squared error per element over the same inputs (eq. 4).
    pub loss: f64,
}

/// Distils one neighbourhood.
///
/// `progress` is called after every gradient step with its number (from 1) and its loss.
///
/// # Errors
/// As [`Block::new`]; only a defect of this crate would cause one.
pub fn distill(
    teacher: &Block,
    inputs: &Inputs<'_>,
    recipe: &Recipe,
    progress: impl FnMut(usize, f32),
) -> Result<Distilled, BlockError> {
    let folded = fold_batch_norms(teacher)?;
    let target = DeviceBlock::new(&folded, inputs.device);
    let mut student = shrink(&folded, recipe.width)?;
    if let Some(node) = solvable_node(&student, &folded).filter(|_| recipe.solve_inputs > 0) {
        let start = DeviceBlock::new(&student, inputs.device);
        let mut equations = NormalEquations::new(&student, node);
        for input in inputs.pass(Purpose::Solve, recipe.solve_inputs, MICRO_BATCH) {
            equations.add(&target, &start, input);
        }
        student = equations.solve(&student)?;
    }
    let student = train(&target, &student, inputs, &recipe.training, progress)?;
    let (relative_error, loss) = measure(&target, &DeviceBlock::new(&student, inputs.device), inputs);
    Ok(Distilled { block: student, relative_error, loss })
}

/// Relative error and mean squared error of a student on held-out inputs.
fn measure(teacher: &DeviceBlock<'_>, student: &DeviceBlock<'_>, inputs: &Inputs<'_>) -> (f64, f64) {
    let (mut error, mut energy, mut elements) = (0.0, 0.0, 0);
    for input in inputs.pass(Purpose::Measure, MEASURED_INPUTS, MICRO_BATCH) {
        let target = host_values(teacher.forward(input.clone(), Statistics::Running));
        let output = host_values(student.forward(input, Statistics::Running));
        for (t, s) in target.iter().zip(&output) {
            error += f64::from(s - t) * f64::from(s - t);
            energy += f64::from(*t) * f64::from(*t);
        }
        elements += target.len();
    }
    (libm::sqrt(error / energy.max(f64::MIN_POSITIVE)), error / elements.max(1) as f64)
}
