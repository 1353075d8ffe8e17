//! A student before gradient steps: the teacher's channels, and its last convolution solved, in closed form as far as there is one.

use crate::{
    block::Block,
    engine::{Device, DistillError, Portions},
    noise::Inputs,
    recipe::{Recipe, Ridge, Selection},
    solve::{SolveTarget, eliminate, gather, project, solvable_nodes},
    student::ChannelClasses,
};

/// The student of a folded neighbourhood.
pub fn closed_form(
    teacher: &Block,
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    on: (&Device, Portions),
) -> Result<Block, DistillError> {
    let student = recipe.student(teacher)?;
    let solvable = solvable_nodes(&student, teacher).filter(|_| recipe.solve_inputs > 0);
    let Some([node, teachers]) = solvable else { return Ok(student) };
    let student = if chooses(recipe, [&student, teacher]) {
        drop(student);
        most_useful(teacher, teachers, inputs, recipe, on)?
    } else {
        student
    };
    let goal = SolveTarget::new([&student, teacher], [node, teachers], inputs, on.0);
    // What leads to the solved convolution, if nothing else reads what is on the way.
    let part = [0, node as u8 + 1];
    let layers = if recipe.projections > 0 { student.part(part).ok() } else { None };
    if let Some(layers) = layers {
        let layers = project(layers, &goal, inputs, recipe, on)?;
        return Ok(student.with_part(part, &layers)?);
    }
    let equations = gather(&student, node, &goal, inputs, recipe, on)?;
    drop(goal);
    Ok(equations.solve(student)?)
}

/// Whether residuals choose the student's channels: only channels of the teacher's own can be told apart by what it makes of them.
pub fn chooses(recipe: &Recipe, [student, teacher]: [&Block; 2]) -> bool {
    let same = student.nodes().len() == teacher.nodes().len() && recipe.activation.is_none();
    recipe.selection == Selection::Residual && same
}

/// The teacher's channels that its convolution `node` can least do without.
fn most_useful(
    teacher: &Block,
    node: usize,
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    on: (&Device, Portions),
) -> Result<Block, DistillError> {
    let equations = {
        let goal = SolveTarget::new([teacher; 2], [node; 2], inputs, on.0);
        // Without inputs of another student the teacher's weights do best, whatever the ridge towards them.
        gather(teacher, node, &goal, inputs, &Recipe { ridge: Ridge::USUAL, ..*recipe }, on)?
    };
    let classes = ChannelClasses::of(teacher);
    let strongest = classes.strongest(teacher, recipe.width);
    let read = usize::from(teacher.nodes()[node].inputs[0]);
    let inverted = equations.system(teacher, None).inverted();
    let chosen = inverted.and_then(|inverted| eliminate(&classes, read, &strongest, inverted));
    Ok(classes.narrowed(teacher, &chosen.unwrap_or(strongest))?)
}
