//! One neighbourhood: fold, shrink, solve, train, measure.

use serde::Serialize;

use crate::{
    block::Block,
    cpu::Workspace,
    device::Device,
    fold::fold_batch_norms,
    forward::DeviceBlock,
    images::Images,
    inputs::Inputs,
    noise::Purpose,
    shrink::{Width, shrink},
    solve::{NormalEquations, solvable_node},
    stage::{DistillError, Portions},
    storage::ScratchError,
    train::{Training, train},
};

/// Inputs on which a block's error is measured.
pub const MEASURED_INPUTS: usize = 64;

/// What is done to every neighbourhood. Each stage can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
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
/// [`DistillError`].
pub fn distill(
    teacher: Block,
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    on: (&Device, Portions),
    progress: impl FnMut(usize, f32),
) -> Result<Distilled, DistillError> {
    let folded = fold_batch_norms(&teacher)?;
    drop(teacher);
    let mut student = shrink(&folded, recipe.width)?;
    if let Some(node) = solvable_node(&student, &folded).filter(|_| recipe.solve_inputs > 0) {
        student = solve(&folded, student, node, inputs, recipe.solve_inputs, on)?;
    }
    let target = DeviceBlock::new(&folded, on.0);
    drop(folded);
    let student = train(&target, student, inputs, &recipe.training, on, progress)?;
    let (relative_error, loss) = measure(&target, &DeviceBlock::new(&student, on.0), inputs, on.1)?;
    Ok(Distilled { block: student, relative_error, loss })
}

/// The student with convolution `node` solved over `count` inputs.
fn solve(
    teacher: &Block,
    student: Block,
    node: usize,
    inputs: &mut Inputs<'_>,
    count: usize,
    (device, portions): (&Device, Portions),
) -> Result<Block, DistillError> {
    let read = usize::from(student.nodes()[node].inputs[0]);
    let mut equations = NormalEquations::new(&student, node, portions.workers);
    {
        let to_hidden = DeviceBlock::up_to(&student, read, device);
        let to_target = DeviceBlock::up_to(teacher, node + 1, device);
        let [mut input, mut hidden, mut target] =
            [to_hidden.input(), to_hidden.output(), to_target.output()].map(|shape| Images::zeros(shape, 0));
        let (mut batches, mut workspace) = (inputs.pass(Purpose::Solve, count), Workspace::new(portions.workers));
        while batches.next_into(portions.solving, &mut input)? {
            to_hidden.forward_into(&input, &mut hidden, &mut workspace);
            to_target.forward_into(&input, &mut target, &mut workspace);
            equations.add(&hidden, &target);
        }
    }
    Ok(equations.solve(student)?)
}

/// Relative error and mean squared error of a student on held-out inputs.
pub(crate) fn measure(
    teacher: &DeviceBlock,
    student: &DeviceBlock,
    inputs: &mut Inputs<'_>,
    portions: Portions,
) -> Result<(f64, f64), ScratchError> {
    let (mut error, mut energy, mut elements) = (0.0, 0.0, 0);
    let shape = teacher.output();
    let [mut input, mut target, mut output] = [teacher.input(), shape, shape].map(|shape| Images::zeros(shape, 0));
    let (mut batches, mut workspace) =
        (inputs.pass(Purpose::Measure, MEASURED_INPUTS), Workspace::new(portions.workers));
    while batches.next_into(portions.solving, &mut input)? {
        teacher.forward_into(&input, &mut target, &mut workspace);
        student.forward_into(&input, &mut output, &mut workspace);
        for (t, s) in target.groups().flatten().zip(output.groups().flatten()) {
            for (t, s) in t.0.into_iter().zip(s.0) {
                error += f64::from(s - t) * f64::from(s - t);
                energy += f64::from(t) * f64::from(t);
            }
        }
        elements += target.len() * shape.elements();
    }
    Ok((libm::sqrt(error / energy.max(f64::MIN_POSITIVE)), error / elements.max(1) as f64))
}
