//! A student before gradient steps: the teacher's channels selected, and the last convolution solved in closed form.

use crate::{
    block::Block,
    engine::{DistillError, Engine, Portions},
    inputs::{InputBytes, Inputs},
    recipe::{Recipe, Ridge, Selection},
    solve::{
        Site, SolveTarget, SumBytes, eliminate, solvable,
        sparse::{SparseBytes, sparsify},
        sum_equations,
        variable_projection::{ProjectBytes, project, projected},
    },
    student::ChannelClasses,
};

/// Builds the student of a folded neighbourhood.
pub fn closed_form(
    teacher: &Block,
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    engine: &Engine,
) -> Result<Block, DistillError> {
    let student = dense_form(teacher, inputs, recipe, engine)?;
    if recipe.solve { sparsify(student, teacher, inputs, recipe, engine) } else { Ok(student) }
}

/// The student before weights are removed.
fn dense_form(
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
    if let Some((part, layers)) = projected(&student, nodes.student, recipe) {
        let layers = project(layers, &goal, inputs, recipe, engine)?;
        return Ok(student.with_part(part, &layers)?);
    }
    let equations = sum_equations(&student, nodes.student, &goal, inputs, recipe, engine)?;
    drop(goal);
    Ok(equations.solve(student)?)
}

/// Whether to choose channels by residual, which requires a student with the teacher's layers and activations.
fn chooses(recipe: &Recipe, student: &Block, teacher: &Block) -> bool {
    let same = student.nodes().len() == teacher.nodes().len() && recipe.activation.is_none();
    recipe.selection == Selection::Residual && same
}

/// Narrows the teacher to the channels that its convolution `node` needs most.
fn most_useful(
    teacher: &Block,
    node: usize,
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    engine: &Engine,
) -> Result<Block, DistillError> {
    let equations = {
        let goal = SolveTarget::new(Site::own(teacher, node), inputs, engine);
        // Unless the inputs are paired, the teacher's weights are the solution for any ridge.
        sum_equations(teacher, node, &goal, inputs, &Recipe { ridge: Ridge::USUAL, ..recipe.clone() }, engine)?
    };
    let classes = ChannelClasses::of(teacher);
    let strongest = classes.strongest(teacher, recipe.width, recipe.round_to);
    let read = usize::from(teacher.nodes()[node].inputs[0]);
    let inverted = equations.system(teacher, None).inverted();
    let chosen = inverted.and_then(|inverted| eliminate(&classes, read, &strongest, inverted));
    Ok(classes.narrowed(teacher, &chosen.unwrap_or(strongest))?)
}

/// The heap use of [`closed_form`], excluding the teacher.
pub struct ClosedFormBytes {
    dense: Option<DenseBytes>,
    sparse: Option<SparseBytes>,
}

impl ClosedFormBytes {
    /// `None` if nothing is solved.
    pub fn new(student: &Block, teacher: &Block, recipe: &Recipe, inputs: InputBytes) -> Option<Self> {
        let dense = DenseBytes::new(student, teacher, recipe, inputs);
        let sparse = SparseBytes::new(student, teacher, recipe, inputs);
        (dense.is_some() || sparse.is_some()).then_some(Self { dense, sparse })
    }

    /// Heap bytes with these portions.
    pub fn bytes(&self, portions: Portions) -> u64 {
        let dense = self.dense.as_ref().map_or(0, |dense| dense.bytes(portions));
        dense.max(self.sparse.as_ref().map_or(0, |sparse| sparse.bytes(portions)))
    }
}

/// The heap use of [`dense_form`].
struct DenseBytes {
    ridge: Ridge,
    student: u64,
    /// Sums over the teacher, and channels that are removed together, if channels are chosen by residual.
    choosing: Option<(SumBytes, usize)>,
    /// Sums over the student.
    solving: SumBytes,
    projecting: Option<ProjectBytes>,
}

impl DenseBytes {
    fn new(student: &Block, teacher: &Block, recipe: &Recipe, inputs: InputBytes) -> Option<Self> {
        let nodes = solvable(student, teacher).filter(|_| recipe.solve)?;
        let choosing = chooses(recipe, student, teacher).then(|| {
            let read = usize::from(teacher.nodes()[nodes.teacher].inputs[0]);
            let together = ChannelClasses::of(teacher).together(read);
            (SumBytes::new(Site::own(teacher, nodes.teacher), inputs), together)
        });
        let mut solving = SumBytes::new(Site { student, teacher, nodes }, inputs);
        // Which channels are kept, and so which zeros, is known only when they are chosen.
        if choosing.is_some() && teacher.weight(nodes.teacher, 0).is_some_and(|kernel| kernel.zeros() > 0) {
            solving.equations = solving.equations.with_zeros();
        }
        Some(Self {
            ridge: recipe.ridge,
            student: student.heap_bytes() as u64,
            choosing,
            solving,
            projecting: projected(student, nodes.student, recipe).map(|(_, layers)| ProjectBytes::new(&layers, recipe)),
        })
    }

    fn bytes(&self, portions: Portions) -> u64 {
        let Self { ridge, student, choosing, solving, projecting } = self;
        let choose = choosing.as_ref().map_or(0, |(sums, together)| {
            let equations = sums.equations;
            let sum = sums.bytes(portions) + equations.summing(Ridge::USUAL, portions.workers);
            sum.max(equations.solving(Ridge::USUAL)).max(equations.choosing(*together))
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
