//! One block: fold, shrink, solve, train, measure.

use alloc::vec::Vec;

use crate::{
    block::{Block, Node},
    cpu::Workspace,
    device::Device,
    eliminate::eliminate,
    fold::fold_batch_norms,
    forward::DeviceBlock,
    images::Images,
    inputs::{Before, Inputs},
    noise::Purpose,
    op::Op,
    recipe::{Recipe, Selection},
    shrink::ChannelClasses,
    solve::{NormalEquations, solvable_nodes},
    stage::{DistillError, Portions},
    storage::ScratchError,
    train::train,
};

/// Inputs on which a block's error is measured.
pub const MEASURED_INPUTS: usize = 64;

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

/// Distils one block: as one neighbourhood, or each that lies inside it, one after another.
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
    mut progress: impl FnMut(usize, f32),
) -> Result<Distilled, DistillError> {
    let folded = fold_batch_norms(&teacher)?;
    drop(teacher);
    let (target, student) = if folded.parts().is_empty() {
        neighbourhood(folded, inputs, recipe, on, &mut progress)?
    } else {
        let mut student = folded.clone();
        for number in 0..folded.parts().len() {
            // The student's parts lie elsewhere once one has another number of layers.
            let (part, place) = (folded.parts()[number], student.parts()[number]);
            let teacher = folded.part(part)?;
            let leads = inputs.are_cached() && part[0] > 0;
            let teachers = leads.then(|| DeviceBlock::up_to(&folded, part[0].into(), on.0));
            let own = (leads && inputs.are_paired()).then(|| DeviceBlock::up_to(&student, place[0].into(), on.0));
            let before =
                teachers.as_ref().map(|teachers| Before { inputs: own.as_ref().unwrap_or(teachers), teachers });
            let mut inputs = inputs.of_part(number, teacher.input(), before, on.1.workers);
            if recipe.student(&teacher)? != teacher {
                let (_, learned) = neighbourhood(teacher, &mut inputs, recipe, on, &mut progress)?;
                student = student.with_part(place, &learned)?;
            }
        }
        if student == folded {
            log::warn!(
                "{}: nothing between its neighbourhoods' boundaries can shrink; it stays the teacher's",
                folded.name()
            );
        }
        let target = DeviceBlock::new(&folded, on.0);
        drop(folded);
        (target, student)
    };
    let (relative_error, loss) = measure(&target, &DeviceBlock::new(&student, on.0), inputs, on.1)?;
    Ok(Distilled { block: student, relative_error, loss })
}

/// A folded neighbourhood on the device, and its student.
fn neighbourhood(
    folded: Block,
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    on: (&Device, Portions),
    progress: impl FnMut(usize, f32),
) -> Result<(DeviceBlock, Block), DistillError> {
    let student = start(&folded, inputs, recipe, on)?;
    let target = DeviceBlock::new(&folded, on.0);
    drop(folded);
    let student = train(&target, student, inputs, &recipe.training, on, progress)?;
    Ok((target, student))
}

/// The student before gradient steps: the teacher's channels, and its last convolution solved.
fn start(
    teacher: &Block,
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    on: (&Device, Portions),
) -> Result<Block, DistillError> {
    let student = recipe.student(teacher)?;
    let solvable = solvable_nodes(&student, teacher).filter(|_| recipe.solve_inputs > 0);
    let Some([node, teachers]) = solvable else { return Ok(student) };
    // Only channels of the teacher's own can be told apart by what it makes of them.
    let same = student.nodes().len() == teacher.nodes().len() && recipe.activation.is_none();
    if recipe.selection == Selection::Norm || !same {
        let equations = gather([&student, teacher], [node, teachers], inputs, recipe.solve_inputs, on)?;
        return Ok(equations.solve(student)?);
    }
    drop(student);
    let value = usize::from(teacher.nodes()[teachers].inputs[0]);
    let classes = ChannelClasses::of(teacher);
    let mut keeps = classes.strongest(teacher, recipe.width);
    let system = gather([teacher; 2], [teachers; 2], inputs, recipe.solve_inputs, on)?.system(teacher);
    if let Some(inverted) = system.inverted() {
        eliminate(&classes, value, recipe.width, &mut keeps, inverted);
    }
    let features = system.features();
    let channels = classes.of_value(value);
    let area = (features - 1) / channels.len();
    let kept = |feature: &usize| *feature + 1 == features || keeps[channels[feature / area]];
    let kept: Vec<usize> = (0..features).filter(kept).collect();
    Ok(system.of(&kept).solve(classes.narrowed(teacher, &keeps)?, node)?)
}

/// Normal equations of a convolution over `count` inputs: of a student's reading what its block makes, towards what the teacher's
/// writes. If the two take different inputs and the convolution's output is added to another value, the sum is to be the teacher's: the
/// convolution makes good what the other value lacks, too.
fn gather(
    [student, teacher]: [&Block; 2],
    [node, teachers]: [usize; 2],
    inputs: &mut Inputs<'_>,
    count: usize,
    (device, portions): (&Device, Portions),
) -> Result<NormalEquations, DistillError> {
    let read = usize::from(student.nodes()[node].inputs[0]);
    let mut equations = NormalEquations::new(student, node, portions.workers);
    let to_hidden = DeviceBlock::up_to(student, read, device);
    let sums = [(student, node), (teacher, teachers)].map(|(block, node)| sum_behind(block, node));
    let (goal, other) = match sums {
        [Some((_, other)), Some((sum, _))] if inputs.are_paired() => (sum, Some(other)),
        _ => (teachers + 1, None),
    };
    let to_target = DeviceBlock::up_to(teacher, goal, device);
    let to_other = other.map(|other| DeviceBlock::up_to(student, other, device));
    let [mut input, mut theirs, mut hidden, mut target, mut added] =
        [to_hidden.input(), to_hidden.input(), to_hidden.output(), to_target.output(), to_target.output()]
            .map(|shape| Images::zeros(shape, 0));
    let (mut batches, mut workspace) = (inputs.pass(Purpose::Solve, count), Workspace::new(portions.workers));
    while batches.next_into(portions.solving, &mut input)? {
        to_hidden.forward_into(&input, &mut hidden, &mut workspace);
        to_target.forward_into(batches.teachers(&input, &mut theirs)?, &mut target, &mut workspace);
        if let Some(to_other) = &to_other {
            to_other.forward_into(&input, &mut added, &mut workspace);
            target.subtract(&added);
        }
        equations.add(&hidden, &target);
    }
    Ok(equations)
}

/// The sum that alone reads node `node`, and the value it is added to.
fn sum_behind(block: &Block, node: usize) -> Option<(usize, usize)> {
    let reads = |other: &Node| other.inputs.iter().any(|&value| usize::from(value) == node + 1);
    let mut readers = block.nodes().iter().enumerate().filter(|(_, other)| reads(other));
    let (Some((index, sum)), None) = (readers.next(), readers.next()) else { return None };
    let other = sum.inputs.iter().map(|&value| usize::from(value)).find(|&value| value != node + 1)?;
    // What it is added to must not read it.
    (matches!(sum.op, Op::Add) && other <= node).then_some((index + 1, other))
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
    let [mut input, mut theirs, mut target, mut output] =
        [teacher.input(), teacher.input(), shape, shape].map(|shape| Images::zeros(shape, 0));
    let (mut batches, mut workspace) =
        (inputs.pass(Purpose::Measure, MEASURED_INPUTS), Workspace::new(portions.workers));
    while batches.next_into(portions.solving, &mut input)? {
        teacher.forward_into(batches.teachers(&input, &mut theirs)?, &mut target, &mut workspace);
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
