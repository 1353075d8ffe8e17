//! The data of a solve: the inputs of a student's convolution, and the targets for its outputs.

use crate::{
    block::{Block, op::Op},
    engine::{Batch, DeviceBlock, DistillError, Engine, Portions, Workspace, cpu::ProgramBytes},
    inputs::{Batches, InputBytes, Inputs},
    recipe::Recipe,
    solve::{EquationBytes, NormalEquations, Solvable},
    storage::ScratchError,
    stream::Purpose,
};

/// A student's convolution and its teacher's.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    pub student: &'a Block,
    pub teacher: &'a Block,
    pub nodes: Solvable,
}

/// The target of a student's convolution: the teacher's output. If the inputs are paired and a sum follows, the sum is
/// matched instead, so that the convolution also compensates for the error of the other term.
pub struct SolveTarget {
    to_target: DeviceBlock,
    to_other: Option<DeviceBlock>,
}

/// The values whose difference is the target.
struct TargetValues {
    /// The teacher's value.
    target: usize,
    /// The student's value to subtract.
    other: Option<usize>,
}

impl<'a> Site<'a> {
    /// A convolution of a block that serves as its own teacher.
    pub fn own(block: &'a Block, node: usize) -> Self {
        Self { student: block, teacher: block, nodes: Solvable { student: node, teacher: node } }
    }

    fn values(&self, paired: bool) -> TargetValues {
        let Solvable { student, teacher } = self.nodes;
        match (sum_after(self.student, student), sum_after(self.teacher, teacher)) {
            (Some(own), Some(teachers)) if paired => TargetValues { target: teachers.value, other: Some(own.other) },
            _ => TargetValues { target: teacher + 1, other: None },
        }
    }
}

impl SolveTarget {
    /// Prepares the target of a student's convolution.
    pub fn new(site: Site<'_>, inputs: &Inputs<'_>, engine: &Engine) -> Self {
        let TargetValues { target, other } = site.values(inputs.are_paired());
        let to_other = other.map(|other| DeviceBlock::up_to(site.student, other, &engine.device));
        Self { to_target: DeviceBlock::up_to(site.teacher, target, &engine.device), to_other }
    }

    /// Computes the target for the inputs drawn last; `spare` is scratch memory.
    pub fn value_into(
        &self,
        batches: &mut Batches<'_>,
        input: &Batch,
        spare: &mut Batch,
        target: &mut Batch,
        workspace: &mut Workspace,
    ) -> Result<(), ScratchError> {
        self.to_target.forward_into(batches.teachers(input, spare)?, target, workspace);
        if let Some(to_other) = &self.to_other {
            to_other.forward_into(input, spare, workspace);
            target.subtract(spare);
        }
        Ok(())
    }
}

/// Sums the normal equations of convolution `node` of `block` over the recipe's inputs of a solve.
pub fn sum_equations(
    block: &Block,
    node: usize,
    goal: &SolveTarget,
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    engine: &Engine,
) -> Result<NormalEquations, DistillError> {
    let Portions { workers, solving, .. } = engine.portions;
    let mut equations = NormalEquations::new(block, node, recipe.ridge, workers);
    let to_hidden = DeviceBlock::up_to(block, block.nodes()[node].inputs[0].into(), &engine.device);
    let [mut input, mut hidden, mut target, mut spare] = engine.batches();
    let mut workspace = engine.workspace();
    let mut batches = inputs.pass(Purpose::Solve, recipe.images);
    while batches.next_into(solving, &mut input)? {
        to_hidden.forward_into(&input, &mut hidden, &mut workspace);
        goal.value_into(&mut batches, &input, &mut spare, &mut target, &mut workspace)?;
        equations.add(&hidden, &target);
    }
    Ok(equations)
}

/// The heap use of [`sum_equations`].
pub struct SumBytes {
    /// The program up to the convolution, and those that compute its target.
    own: ProgramBytes,
    pub goal: ProgramBytes,
    /// Elements of an input, its target, and the scratch memory.
    pub elements: usize,
    /// Elements of the convolution's input.
    hidden: usize,
    pub equations: EquationBytes,
    pub inputs: InputBytes,
}

impl SumBytes {
    /// For the equations of `site.student`.
    pub fn new(site: Site<'_>, inputs: InputBytes) -> Self {
        let (block, node) = (site.student, site.nodes.student);
        let read = usize::from(block.nodes()[node].inputs[0]);
        let TargetValues { target, other } = site.values(inputs.paired);
        let mut goal = ProgramBytes::of(site.teacher, target);
        let mut spare = inputs.beside();
        if let Some(other) = other {
            goal = goal.and(ProgramBytes::of(block, other));
            spare = spare.max(block.shape(other).elements());
        }
        Self {
            own: ProgramBytes::of(block, read),
            goal,
            elements: inputs.elements + site.teacher.shape(target).elements() + spare,
            hidden: block.shape(read).elements(),
            equations: EquationBytes::new(block, node),
            inputs,
        }
    }

    /// Heap bytes without the equations.
    pub fn bytes(&self, portions: Portions) -> u64 {
        let arena = self.own.arena.max(self.goal.arena);
        self.own.held
            + self.goal.held
            + Batch::bytes(self.elements + self.hidden, portions.solving)
            + Workspace::bytes(portions.workers, portions.solving, arena)
            + self.inputs.bytes(portions.solving, 0)
    }
}

/// A sum of a value with another.
struct Sum {
    value: usize,
    other: usize,
}

/// The addition that is the only reader of node `node`.
fn sum_after(block: &Block, node: usize) -> Option<Sum> {
    let mut readers = block.readers(node + 1);
    let (Some(index), None) = (readers.next(), readers.next()) else { return None };
    let sum = &block.nodes()[index];
    let other = sum.inputs.iter().map(|&value| usize::from(value)).find(|&value| value != node + 1)?;
    // The other value of the sum must not depend on the convolution.
    let needs = block.needed(0, other).get(node + 1).is_some_and(|&needed| needed);
    (matches!(sum.op, Op::Add) && !needs).then_some(Sum { value: index + 1, other })
}
