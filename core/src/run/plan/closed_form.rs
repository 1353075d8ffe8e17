//! What a closed form takes: passes over the inputs, normal equations, and what follows from them.

use super::bytes::{Feed, arena_bytes, arenas_bytes, images_bytes, program_bytes, values_bytes};
use crate::{
    block::Block,
    engine::{
        Optimizer, Portions,
        cpu::{CpuGradients, Program},
    },
    recipe::{Recipe, Ridge, Update},
    solve::{EquationBytes, SolveTarget, chooses, solvable_nodes, vectors},
};

/// What the closed form of a neighbourhood takes beside the neighbourhood.
pub struct ClosedForm {
    ridge: Ridge,
    feed: Feed,
    student: u64,
    /// Over the teacher, where it says what its channels are worth.
    choosing: Option<Pass>,
    /// Over the student.
    solving: Pass,
    projecting: Option<Projection>,
}

impl ClosedForm {
    /// `None` where nothing is solved.
    pub fn new([student, teacher]: [&Block; 2], recipe: &Recipe, feed: Feed) -> Option<Self> {
        let nodes = solvable_nodes(student, teacher).filter(|_| recipe.solve_inputs > 0)?;
        let layers = (recipe.projections > 0).then(|| student.part([0, nodes[0] as u8 + 1]).ok()).flatten();
        let choosing = chooses(recipe, [student, teacher]).then(|| Pass::new([teacher; 2], [nodes[1]; 2], &feed));
        Some(Self {
            ridge: recipe.ridge,
            feed,
            student: student.heap_bytes() as u64,
            choosing,
            solving: Pass::new([student, teacher], nodes, &feed),
            projecting: layers.map(|layers| Projection::new(&layers, recipe)),
        })
    }

    /// Heap bytes with the work cut like this.
    pub fn bytes(&self, portions: Portions) -> u64 {
        let Self { ridge, feed, student, choosing, solving, projecting } = self;
        let choose = choosing.as_ref().map_or(0, |pass| {
            let equations = pass.equations;
            let gather = pass.bytes(portions, feed) + equations.gathering(Ridge::USUAL, portions.workers);
            gather.max(equations.solving(Ridge::USUAL)).max(equations.choosing())
        });
        let equations = solving.equations;
        let gather = |ridge| solving.bytes(portions, feed) + equations.gathering(ridge, portions.workers);
        let solve = match projecting {
            None => gather(*ridge).max(equations.solving(*ridge)),
            Some(projection) => {
                let layers = projection.layers;
                let solve = |ridge| gather(ridge).max(solving.goal + equations.solving(ridge));
                // At the first solve there is one block more, later also that where the search is.
                let first = layers + solve(*ridge);
                let later = 2 * layers + solve(Ridge::USUAL);
                let slope = layers + solving.goal + projection.gradient(solving, portions, feed);
                layers + values_bytes::<f64>(projection.vectors) + first.max(later).max(slope)
            }
        };
        choose.max(student + solve)
    }
}

/// A pass that gathers normal equations.
struct Pass {
    /// The program that leads to the convolution, and those that make its target.
    own: u64,
    goal: u64,
    /// The arenas they work in.
    own_arena: u64,
    goal_arena: u64,
    /// Elements of an input, its target, and what the teacher takes in its place.
    elements: usize,
    /// Elements of what the convolution reads.
    hidden: usize,
    equations: EquationBytes,
}

impl Pass {
    fn new([block, teacher]: [&Block; 2], [node, teachers]: [usize; 2], feed: &Feed) -> Self {
        let read = usize::from(block.nodes()[node].inputs[0]);
        let (target, other) = SolveTarget::values([block, teacher], [node, teachers], feed.paired);
        let [own, own_arena] = program_bytes(&Program::new(block, read, false));
        let [mut goal, mut goal_arena] = program_bytes(&Program::new(teacher, target, false));
        let mut spare = feed.beside();
        if let Some(other) = other {
            let [program, arena] = program_bytes(&Program::new(block, other, false));
            (goal, goal_arena) = (goal + program, goal_arena.max(arena));
            spare = spare.max(block.shape(other).elements());
        }
        Self {
            own,
            goal,
            own_arena,
            goal_arena,
            elements: feed.input + teacher.shape(target).elements() + spare,
            hidden: block.shape(read).elements(),
            equations: EquationBytes::new(block, node),
        }
    }

    /// Without the equations.
    fn bytes(&self, portions: Portions, feed: &Feed) -> u64 {
        self.own
            + self.goal
            + images_bytes(self.elements + self.hidden, portions.solving)
            + arenas_bytes(portions, portions.solving, self.own_arena.max(self.goal_arena))
            + feed.bytes(portions.solving, 0)
    }
}

/// Variable projection.
struct Projection {
    /// The layers up to the convolution.
    layers: u64,
    /// Scalars in the search's vectors.
    vectors: usize,
    gradients: CpuGradients,
    optimizer: u64,
    /// Inputs of a gradient.
    count: usize,
}

impl Projection {
    fn new(layers: &Block, recipe: &Recipe) -> Self {
        let solved: usize = layers.weights_of(layers.nodes().len() - 1).iter().map(|weight| weight.data.len()).sum();
        let (tensors, scalars) = (layers.weights().len(), layers.parameters());
        Self {
            layers: layers.heap_bytes() as u64,
            vectors: vectors(recipe.projections) * (scalars - solved),
            gradients: CpuGradients::new(layers),
            optimizer: Optimizer::heap_bytes(Update::MOMENTUM, tensors, scalars) as u64,
            count: recipe.solve_inputs,
        }
    }

    /// One gradient, of a trainer whose weights and gradients are each as large as the layers.
    fn gradient(&self, solving: &Pass, portions: Portions, feed: &Feed) -> u64 {
        let held = self.gradients.heap_bytes(self.count, portions.solving) + size_of::<CpuGradients>();
        let arena = solving.goal_arena.max(arena_bytes(self.gradients.arena()));
        2 * self.layers
            + self.optimizer
            + held as u64
            + images_bytes(solving.elements, portions.solving)
            + arenas_bytes(portions, portions.solving, arena)
            + feed.bytes(portions.solving, 0)
    }
}
