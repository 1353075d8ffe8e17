//! What a solve sees: what a student's convolution reads, and what it should write.

use crate::{
    block::{Block, op::Op},
    engine::{Batch, DeviceBlock, DistillError, Engine, Portions, Workspace, cpu::ProgramBytes},
    noise::{Batches, InputBytes, Inputs, Purpose},
    recipe::Recipe,
    solve::{EquationBytes, NormalEquations, Solvable},
    storage::ScratchError,
};

/// A student's convolution, and its teacher's.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    pub student: &'a Block,
    pub teacher: &'a Block,
    pub nodes: Solvable,
}

/// What a student's convolution should write: what the teacher's does. If the two take different inputs and the convolution's
/// output is added to another value, the sum should be the teacher's: the convolution then compensates for the other value's errors, too.
pub struct SolveTarget {
    to_target: DeviceBlock,
    to_other: Option<DeviceBlock>,
}

/// Values whose difference is a target.
struct Difference {
    /// Of the teacher.
    target: usize,
    /// Of the student.
    other: Option<usize>,
}

impl<'a> Site<'a> {
    /// A convolution of a block that is its own teacher.
    pub fn own(block: &'a Block, node: usize) -> Self {
        Self { student: block, teacher: block, nodes: Solvable { student: node, teacher: node } }
    }

    fn difference(&self, paired: bool) -> Difference {
        let Solvable { student, teacher } = self.nodes;
        match (sum_after(self.student, student), sum_after(self.teacher, teacher)) {
            (Some(own), Some(teachers)) if paired => Difference { target: teachers.value, other: Some(own.other) },
            _ => Difference { target: teacher + 1, other: None },
        }
    }
}

impl SolveTarget {
    /// Of a student's convolution.
    pub fn new(site: Site<'_>, inputs: &Inputs<'_>, engine: &Engine) -> Self {
        let Difference { target, other } = site.difference(inputs.are_paired());
        let to_other = other.map(|other| DeviceBlock::up_to(site.student, other, &engine.device));
        Self { to_target: DeviceBlock::up_to(site.teacher, target, &engine.device), to_other }
    }

    /// For the inputs drawn last. `spare` is memory for what it takes.
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

/// Normal equations of convolution `node` of `block` over the recipe's inputs of a solve.
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

/// What [`sum_equations`] takes.
pub struct SumBytes {
    /// The program that leads to the convolution, and those that make its target.
    own: ProgramBytes,
    pub goal: ProgramBytes,
    /// Elements of an input, its target, and what the teacher takes in its place.
    pub elements: usize,
    /// Elements of what the convolution reads.
    hidden: usize,
    pub equations: EquationBytes,
    pub inputs: InputBytes,
}

impl SumBytes {
    /// Over the block `site.student`, whose equations they are.
    pub fn new(site: Site<'_>, inputs: InputBytes) -> Self {
        let (block, node) = (site.student, site.nodes.student);
        let read = usize::from(block.nodes()[node].inputs[0]);
        let Difference { target, other } = site.difference(inputs.paired);
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

/// The sum that alone reads node `node`.
fn sum_after(block: &Block, node: usize) -> Option<Sum> {
    let mut readers = block.readers(node + 1);
    let (Some(index), None) = (readers.next(), readers.next()) else { return None };
    let sum = &block.nodes()[index];
    let other = sum.inputs.iter().map(|&value| usize::from(value)).find(|&value| value != node + 1)?;
    // What it is added to must not need it.
    let needs = block.needed(0, other).get(node + 1).is_some_and(|&needed| needed);
    (matches!(sum.op, Op::Add) && !needs).then_some(Sum { value: index + 1, other })
}
