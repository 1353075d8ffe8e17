//! Sparse layers in closed form: one after another, each a neighbourhood of its own that is fitted to what its teacher gives.

use alloc::vec::Vec;

use crate::{
    block::{Block, op::Op},
    engine::{DistillError, Engine, Portions},
    inputs::{InputBytes, Inputs},
    kernels::parallel::threads,
    recipe::{Recipe, Ridge, Sparsity},
    solve::{
        Site, Solvable, SolveTarget, SumBytes,
        normal_equations::{counterpart, dense, kernel_dims, put},
        sum_equations,
        surgeon::{Kernel, surgeon, surgeon_bytes},
    },
};

/// Removes weights from every dense convolution of `student` in turn. Each sees what the sparse ones before it give, and is fitted to
/// the teacher's, or to what the student gave where it has fewer channels.
///
/// # Errors
/// Those of the inputs.
pub fn sparsify(
    student: Block,
    teacher: &Block,
    sparsity: Sparsity,
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    engine: &Engine,
) -> Result<Block, DistillError> {
    let whole = student.clone();
    let mut sparse = student;
    // A strength for each layer would take as many factorisations again.
    let ridge = if recipe.ridge == Ridge::HeldOut { Ridge::USUAL } else { recipe.ridge };
    let recipe = Recipe { ridge, ..*recipe };
    for node in (0..whole.nodes().len()).filter(|&node| is_prunable(&whole, node)) {
        let equations = {
            let goal = SolveTarget::new(site(&sparse, &whole, teacher, node), inputs, engine);
            sum_equations(&sparse, node, &goal, inputs, &recipe, engine)?
        };
        let kernel = kernel(&sparse, node);
        let inverted = equations.system(&sparse, None).inverted();
        let workers = workers(kernel, engine.portions);
        let fitted = inverted.and_then(|(inverse, solution)| surgeon(kernel, sparsity, inverse, solution, workers));
        match fitted {
            Some(fitted) => sparse = put(&fitted, sparse, node)?,
            None => log::warn!(
                "{}: the activations of layer {} are not finite; it stays dense",
                sparse.name(),
                sparse.nodes()[node].name
            ),
        }
    }
    Ok(sparse)
}

/// A node, and what it is fitted to.
fn site<'a>(sparse: &'a Block, whole: &'a Block, teacher: &'a Block, node: usize) -> Site<'a> {
    let same = counterpart(whole, node, teacher).filter(|&same| teacher.shape(same + 1) == whole.shape(node + 1));
    let (teacher, same) = same.map_or((whole, node), |same| (teacher, same));
    Site { student: sparse, teacher, nodes: Solvable { student: node, teacher: same } }
}

fn kernel(block: &Block, node: usize) -> Kernel {
    let [outputs, inputs, rows, columns] = kernel_dims(block, node);
    Kernel { outputs, inputs, taps: rows * columns }
}

/// Threads that remove weights, each with a matrix of its own.
fn workers(kernel: Kernel, portions: Portions) -> usize {
    threads().min(portions.workers).min(kernel.outputs).max(1)
}

/// The heap use of [`sparsify`], excluding the teacher.
pub struct SparseBytes {
    sparsity: Sparsity,
    student: u64,
    nodes: Vec<(SumBytes, Kernel)>,
}

impl SparseBytes {
    /// `None` if no weights are removed.
    pub fn new(student: &Block, teacher: &Block, recipe: &Recipe, inputs: InputBytes) -> Option<Self> {
        let sparsity = recipe.sparsity.filter(|_| recipe.solve)?;
        let nodes = (0..student.nodes().len()).filter(|&node| is_prunable(student, node));
        let of = |node| (SumBytes::new(site(student, student, teacher, node), inputs), kernel(student, node));
        let nodes: Vec<(SumBytes, Kernel)> = nodes.map(of).collect();
        (!nodes.is_empty()).then(|| Self { sparsity, student: student.heap_bytes() as u64, nodes })
    }

    /// Heap bytes with these portions.
    pub fn bytes(&self, portions: Portions) -> u64 {
        let node = |(sums, kernel): &(SumBytes, Kernel)| {
            let equations = sums.equations;
            let summing = sums.bytes(portions) + equations.summing(Ridge::USUAL, portions.workers);
            let cutting = surgeon_bytes(*kernel, self.sparsity, workers(*kernel, portions));
            summing.max(equations.solving(Ridge::USUAL)).max(cutting)
        };
        // The student before and after, and a copy of a kernel.
        3 * self.student + self.nodes.iter().map(node).max().unwrap_or(0)
    }
}

/// Whether weights are removed from a node: a convolution with a bias whose outputs depend on all inputs.
fn is_prunable(block: &Block, node: usize) -> bool {
    let op = &block.nodes()[node].op;
    matches!(op, Op::Conv(_)) && dense(op).is_some() && block.weight(node, 1).is_some()
}
