//! One block: fold, shrink, solve, train, measure.

use crate::{
    block::Block,
    engine::{Device, DeviceBlock, DistillError, Images, Portions, cpu::Workspace},
    noise::{Before, Inputs, MEASURED_INPUTS, Purpose},
    recipe::Recipe,
    solve::closed_form,
    storage::ScratchError,
    student::fold_batch_norms,
    train::train,
};

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
/// `ahead` are the teacher's folded blocks behind it that its training looks at; parts do without. `progress` is called after every gradient
/// step with its number (from 1) and its loss.
///
/// # Errors
/// [`DistillError`].
pub fn distill(
    teacher: Block,
    ahead: &[Block],
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    on: (&Device, Portions),
    mut progress: impl FnMut(usize, f32),
) -> Result<Distilled, DistillError> {
    let folded = fold_batch_norms(&teacher)?;
    drop(teacher);
    let (target, student) = if folded.parts().is_empty() {
        neighbourhood(folded, ahead, inputs, recipe, on, &mut progress)?
    } else {
        if !ahead.is_empty() {
            log::warn!("{}: its neighbourhoods lie inside it and do not look ahead", folded.name());
        }
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
                let (_, learned) = neighbourhood(teacher, &[], &mut inputs, recipe, on, &mut progress)?;
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
    ahead: &[Block],
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    on: (&Device, Portions),
    progress: impl FnMut(usize, f32),
) -> Result<(DeviceBlock, Block), DistillError> {
    let student = closed_form(&folded, inputs, recipe, on)?;
    let target = DeviceBlock::new(&folded, on.0);
    drop(folded);
    let student = train(&target, student, ahead, inputs, &recipe.training, on, progress)?;
    Ok((target, student))
}

/// Relative error and mean squared error of a student on held-out inputs.
pub fn measure(
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
        // Value by value, so that the size of a batch does not change the sums.
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
