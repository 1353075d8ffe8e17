//! Sparse layers in closed form: one after another, each a neighbourhood of its own that is fitted to what its teacher gives.

use alloc::vec::Vec;

use crate::{
    block::Block,
    engine::{DistillError, Engine, Portions},
    inputs::{InputBytes, Inputs},
    kernels::parallel::threads,
    recipe::{Recipe, Ridge, Sparsity},
    solve::{
        Site, Solvable, SolveTarget, SumBytes,
        normal_equations::{counterpart, put},
        sum_equations,
        surgeon::{is_exact, surgeon, surgeon_bytes},
        variable_projection::{ProjectBytes, project, projected},
    },
    student::Kernel,
};

/// Removes weights from every dense convolution of `student` in turn. Each sees what the sparse ones before it give, and is fitted to
/// the teacher's, or to what the student gave where it has fewer channels. Projections then fit all of them together, but where a
/// solution for each output is too much work.
///
/// # Errors
/// Those of the inputs.
pub fn sparsify(
    student: Block,
    teacher: &Block,
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    engine: &Engine,
) -> Result<Block, DistillError> {
    let whole = student.clone();
    let mut sparse = student;
    let mut last = None;
    // A strength for each layer would take as many factorisations again.
    let ridge = if recipe.ridge == Ridge::HeldOut { Ridge::USUAL } else { recipe.ridge };
    let recipe = Recipe { ridge, ..recipe.clone() };
    for (node, sparsity) in recipe.pruned(&whole) {
        let equations = {
            let goal = SolveTarget::new(site(&sparse, &whole, teacher, node), inputs, engine);
            sum_equations(&sparse, node, &goal, inputs, &recipe, engine)?
        };
        let kernel = Kernel::of(&sparse, node);
        let inverted = equations.system(&sparse, None).inverted();
        let workers = workers(kernel, engine.portions);
        let before = sparse.weight(node, 0).map_or(&[][..], |kernel| &kernel.data);
        let fitted =
            inverted.and_then(|(inverse, solution)| surgeon(kernel, sparsity, before, inverse, solution, workers));
        match fitted {
            Some(fitted) => (sparse, last) = (put(&fitted, sparse, node)?, Some(node)),
            None => log::warn!(
                "{}: the activations of layer {} are not finite; it stays dense",
                sparse.name(),
                sparse.nodes()[node].name
            ),
        }
    }
    let last = last.filter(|&last| is_exact(Kernel::of(&sparse, last)));
    let Some((part, layers)) = last.and_then(|last| projected(&sparse, last, &recipe)) else { return Ok(sparse) };
    let goal = SolveTarget::new(site(&sparse, &whole, teacher, usize::from(part.to) - 1), inputs, engine);
    let layers = project(layers, &goal, inputs, &recipe, engine)?;
    Ok(sparse.with_part(part, &layers)?)
}

/// A node, and what it is fitted to.
fn site<'a>(sparse: &'a Block, whole: &'a Block, teacher: &'a Block, node: usize) -> Site<'a> {
    let same = counterpart(whole, node, teacher).filter(|&same| teacher.shape(same + 1) == whole.shape(node + 1));
    let (teacher, same) = same.map_or((whole, node), |same| (teacher, same));
    Site { student: sparse, teacher, nodes: Solvable { student: node, teacher: same } }
}

/// Threads that remove weights, each with a matrix of its own.
fn workers(kernel: Kernel, portions: Portions) -> usize {
    threads().min(portions.workers).min(kernel.outputs).max(1)
}

/// The heap use of [`sparsify`], excluding the teacher.
pub struct SparseBytes {
    student: u64,
    nodes: Vec<(SumBytes, Kernel, Sparsity)>,
    projecting: Option<(ProjectBytes, SumBytes)>,
}

impl SparseBytes {
    /// `None` if no weights are removed.
    pub fn new(student: &Block, teacher: &Block, recipe: &Recipe, inputs: InputBytes) -> Option<Self> {
        let pruned = if recipe.solve { recipe.pruned(student) } else { Vec::new() };
        let &(last, _) = pruned.last()?;
        let sums = |node: usize| SumBytes::new(site(student, student, teacher, node), inputs);
        let is_small = is_exact(Kernel::of(student, last));
        let projecting = projected(student, last, recipe).filter(|_| is_small).map(|(_, layers)| {
            let mut sums = sums(last);
            sums.equations = sums.equations.with_zeros();
            (ProjectBytes::new(&layers, recipe), sums)
        });
        let nodes = pruned.iter().map(|&(node, sparsity)| (sums(node), Kernel::of(student, node), sparsity)).collect();
        Some(Self { student: student.heap_bytes() as u64, nodes, projecting })
    }

    /// Heap bytes with these portions.
    pub fn bytes(&self, portions: Portions) -> u64 {
        let node = |(sums, kernel, sparsity): &(SumBytes, Kernel, Sparsity)| {
            let equations = sums.equations;
            let summing = sums.bytes(portions) + equations.summing(Ridge::USUAL, portions.workers);
            let cutting = surgeon_bytes(*kernel, *sparsity, workers(*kernel, portions));
            summing.max(equations.solving(Ridge::USUAL)).max(cutting)
        };
        let project = self.projecting.as_ref().map_or(0, |(project, sums)| {
            let equations = sums.equations;
            let summing = sums.bytes(portions) + equations.summing(Ridge::USUAL, portions.workers);
            let solve = summing.max(sums.goal.held + equations.solving(Ridge::USUAL));
            project.bytes(solve, solve, sums, portions)
        });
        // The student before and after, and a copy of a kernel.
        3 * self.student + self.nodes.iter().map(node).max().unwrap_or(0).max(project)
    }
}
