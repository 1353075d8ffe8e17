//! What a solve sees: what a student's convolution reads, and what it should write.

use crate::{
    block::{Block, Node, op::Op},
    engine::{Device, DeviceBlock, DistillError, Images, Portions, cpu::Workspace},
    noise::{Batches, Inputs, Purpose},
    recipe::Recipe,
    solve::NormalEquations,
    storage::ScratchError,
};

/// What a student's convolution should write: what the teacher's does. If the two take different inputs and the convolution's
/// output is added to another value, the sum should be the teacher's: the convolution makes good what the other value lacks, too.
pub struct SolveTarget {
    to_target: DeviceBlock,
    to_other: Option<DeviceBlock>,
}

impl SolveTarget {
    /// Of convolution `node` of the student, which is `teachers` of the teacher.
    pub fn new(
        [student, teacher]: [&Block; 2],
        [node, teachers]: [usize; 2],
        inputs: &Inputs<'_>,
        device: &Device,
    ) -> Self {
        let (goal, other) = Self::values([student, teacher], [node, teachers], inputs.are_paired());
        let to_other = other.map(|other| DeviceBlock::up_to(student, other, device));
        Self { to_target: DeviceBlock::up_to(teacher, goal, device), to_other }
    }

    /// The teacher's value that it is, less a value of the student: where `paired` inputs say that the two differ, and there is one.
    pub fn values(
        [student, teacher]: [&Block; 2],
        [node, teachers]: [usize; 2],
        paired: bool,
    ) -> (usize, Option<usize>) {
        match [(student, node), (teacher, teachers)].map(|(block, node)| sum_behind(block, node)) {
            [Some((_, other)), Some((sum, _))] if paired => (sum, Some(other)),
            _ => (teachers + 1, None),
        }
    }

    /// For the inputs drawn last. `spare` is memory for what it takes.
    pub fn value_into(
        &self,
        batches: &mut Batches<'_>,
        input: &Images,
        spare: &mut Images,
        target: &mut Images,
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
pub fn gather(
    block: &Block,
    node: usize,
    goal: &SolveTarget,
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    (device, portions): (&Device, Portions),
) -> Result<NormalEquations, DistillError> {
    let mut equations = NormalEquations::new(block, node, recipe.ridge, portions.workers);
    let to_hidden = DeviceBlock::up_to(block, block.nodes()[node].inputs[0].into(), device);
    let [mut input, mut hidden, mut target, mut spare] = [(); 4].map(|()| Images::zeros(to_hidden.input(), 0));
    let mut workspace = Workspace::new(portions.workers);
    let mut batches = inputs.pass(Purpose::Solve, recipe.solve_inputs);
    while batches.next_into(portions.solving, &mut input)? {
        to_hidden.forward_into(&input, &mut hidden, &mut workspace);
        goal.value_into(&mut batches, &input, &mut spare, &mut target, &mut workspace)?;
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
    // What it is added to must not need it.
    let needs = block.needed([0, other]).get(node + 1).is_some_and(|&needed| needed);
    (matches!(sum.op, Op::Add) && !needs).then_some((index + 1, other))
}
