//! A student before gradient steps: the teacher's channels, and its last convolution solved, in closed form as far as there is one.

use crate::{
    block::{Block, Part},
    engine::{DistillError, Engine, Portions},
    noise::{InputBytes, Inputs},
    recipe::{Recipe, Ridge, Selection},
    solve::{
        Site, Solvable, SolveTarget, SumBytes, eliminate,
        project::{ProjectBytes, project},
        solvable, sum_equations,
    },
    student::ChannelClasses,
};

/// The student of a folded neighbourhood.
pub fn closed_form(
    teacher: &Block,
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    engine: &Engine,
) -> Result<Block, DistillError> {
    let student = recipe.student(teacher)?;
    let Some(nodes) = solvable(&student, teacher).filter(|_| recipe.solve) else { return Ok(student) };
    let student = if chooses(recipe, &student, teacher) {
        drop(student);
        most_useful(teacher, nodes.teacher, inputs, recipe, engine)?
    } else {
        student
    };
    let goal = SolveTarget::new(Site { student: &student, teacher, nodes }, inputs, engine);
    if let Some((part, layers)) = projected(&student, nodes, recipe) {
        let layers = project(layers, &goal, inputs, recipe, engine)?;
        return Ok(student.with_part(part, &layers)?);
    }
    let equations = sum_equations(&student, nodes.student, &goal, inputs, recipe, engine)?;
    drop(goal);
    Ok(equations.solve(student)?)
}

/// Whether residuals choose the student's channels: only channels of the teacher's own can be told apart by what it makes of them.
fn chooses(recipe: &Recipe, student: &Block, teacher: &Block) -> bool {
    let same = student.nodes().len() == teacher.nodes().len() && recipe.activation.is_none();
    recipe.selection == Selection::Residual && same
}

/// What leads to the solved convolution, if projections are asked for and nothing else reads what is on the way.
fn projected(student: &Block, nodes: Solvable, recipe: &Recipe) -> Option<(Part, Block)> {
    let part = Part { from: 0, to: nodes.student as u8 + 1 };
    (recipe.projections > 0).then(|| student.part(part).ok()).flatten().map(|layers| (part, layers))
}

/// The teacher's channels that its convolution `node` can least do without.
fn most_useful(
    teacher: &Block,
    node: usize,
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    engine: &Engine,
) -> Result<Block, DistillError> {
    let equations = {
        let goal = SolveTarget::new(Site::own(teacher, node), inputs, engine);
        // Without inputs of another student the teacher's weights do best, whatever the ridge towards them.
        sum_equations(teacher, node, &goal, inputs, &Recipe { ridge: Ridge::USUAL, ..*recipe }, engine)?
    };
    let classes = ChannelClasses::of(teacher);
    let strongest = classes.strongest(teacher, recipe.width);
    let read = usize::from(teacher.nodes()[node].inputs[0]);
    let inverted = equations.system(teacher, None).inverted();
    let chosen = inverted.and_then(|inverted| eliminate(&classes, read, &strongest, inverted));
    Ok(classes.narrowed(teacher, &chosen.unwrap_or(strongest))?)
}

/// What [`closed_form`] takes beside the teacher.
pub struct ClosedFormBytes {
    ridge: Ridge,
    student: u64,
    /// Over the teacher, where it says what its channels are worth.
    choosing: Option<SumBytes>,
    /// Over the student.
    solving: SumBytes,
    projecting: Option<ProjectBytes>,
}

impl ClosedFormBytes {
    /// `None` where nothing is solved.
    pub fn new(student: &Block, teacher: &Block, recipe: &Recipe, inputs: InputBytes) -> Option<Self> {
        let nodes = solvable(student, teacher).filter(|_| recipe.solve)?;
        let choosing =
            chooses(recipe, student, teacher).then(|| SumBytes::new(Site::own(teacher, nodes.teacher), inputs));
        Some(Self {
            ridge: recipe.ridge,
            student: student.heap_bytes() as u64,
            choosing,
            solving: SumBytes::new(Site { student, teacher, nodes }, inputs),
            projecting: projected(student, nodes, recipe).map(|(_, layers)| ProjectBytes::new(&layers, recipe)),
        })
    }

    /// Heap bytes with the work cut like this.
    pub fn bytes(&self, portions: Portions) -> u64 {
        let Self { ridge, student, choosing, solving, projecting } = self;
        let choose = choosing.as_ref().map_or(0, |sums| {
            let equations = sums.equations;
            let sum = sums.bytes(portions) + equations.summing(Ridge::USUAL, portions.workers);
            sum.max(equations.solving(Ridge::USUAL)).max(equations.choosing())
        });
        let sum = |ridge| solving.bytes(portions) + solving.equations.summing(ridge, portions.workers);
        let solve = match projecting {
            None => sum(*ridge).max(solving.equations.solving(*ridge)),
            Some(projecting) => {
                let solve = |ridge| sum(ridge).max(solving.goal.held + solving.equations.solving(ridge));
                projecting.bytes(solve(*ridge), solve(Ridge::USUAL), solving, portions)
            }
        };
        choose.max(student + solve)
    }
}
