//! A student before gradient steps: the teacher's channels, and its last convolution solved, in closed form as far as there is one.

use alloc::vec::Vec;

use crate::{
    block::Block,
    device::Device,
    eliminate::eliminate,
    gather::{SolveTarget, gather},
    inputs::Inputs,
    project::project,
    recipe::{Recipe, Selection},
    shrink::ChannelClasses,
    solve::solvable_nodes,
    stage::{DistillError, Portions},
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
    // Only channels of the teacher's own can be told apart by what it makes of them.
    let same = student.nodes().len() == teacher.nodes().len() && recipe.activation.is_none();
    let count = recipe.solve_inputs;
    let student = if recipe.selection == Selection::Norm || !same {
        let equations = {
            let goal = SolveTarget::new([&student, teacher], [node, teachers], inputs, on.0);
            gather(&student, node, &goal, inputs, count, on)?
        };
        equations.solve(student)?
    } else {
        drop(student);
        let system = {
            let goal = SolveTarget::new([teacher; 2], [teachers; 2], inputs, on.0);
            gather(teacher, teachers, &goal, inputs, count, on)?.system(teacher, None)
        };
        let value = usize::from(teacher.nodes()[teachers].inputs[0]);
        let classes = ChannelClasses::of(teacher);
        let mut keeps = classes.strongest(teacher, recipe.width);
        if let Some(inverted) = system.inverted() {
            eliminate(&classes, value, recipe.width, &mut keeps, inverted);
        }
        let student = classes.narrowed(teacher, &keeps)?;
        let channels = classes.of_value(value);
        let elsewhere = (0..keeps.len()).any(|class| !keeps[class] && !channels.contains(&class));
        if elsewhere {
            // With other channels gone before it, what the convolution reads is not the teacher's any more.
            drop(system);
            let goal = SolveTarget::new([&student, teacher], [node, teachers], inputs, on.0);
            let equations = gather(&student, node, &goal, inputs, count, on)?;
            equations.solve(student)?
        } else {
            let features = system.features();
            let area = (features - 1) / channels.len();
            let kept = |feature: &usize| *feature + 1 == features || keeps[channels[feature / area]];
            let kept: Vec<usize> = (0..features).filter(kept).collect();
            system.of(&kept).solve(student, node)?
        }
    };
    if recipe.projections == 0 {
        return Ok(student);
    }
    // What leads to the solved convolution, if nothing else reads what is on the way.
    let part = [0, node as u8 + 1];
    let Ok(layers) = student.part(part) else { return Ok(student) };
    let goal = SolveTarget::new([&student, teacher], [node, teachers], inputs, on.0);
    let layers = project(layers, &goal, inputs, recipe, on)?;
    Ok(student.with_part(part, &layers)?)
}
