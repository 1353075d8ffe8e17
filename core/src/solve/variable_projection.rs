//! Optimises the layers before the solved convolution, by variable projection (Golub & Pereyra 1973).
//!
//! For every value of those layers' weights `θ` the last convolution has an optimum `W(θ)`, which leaves `f(θ) = min_W
//! E‖W u(θ) − y‖² + λ‖W − W₀‖²` to minimise. Its gradient is that of the squared error with `W` fixed at `W(θ)`. L-BFGS
//! minimises it over a fixed set of inputs: it needs no learning rate, and the error never rises.

use alloc::{borrow::Cow, collections::VecDeque, vec, vec::Vec};

use crate::{
    block::{Block, Part},
    engine::{
        Batch, DistillError, Engine, Goal, Goals, Learners, Portions, Trainer, Workspace,
        cpu::{CpuTrainer, TrainerBytes},
    },
    inputs::Inputs,
    recipe::{Recipe, Ridge, Training, Update},
    solve::{SolveTarget, SumBytes, put_solution, sum_equations},
    stream::Purpose,
};

/// Steps in the history of L-BFGS.
const MEMORY: usize = 6;
/// Maximum step lengths tried in the line search, each half of the one before.
const HALVINGS: usize = 6;
/// Minimum relative decrease of the error per iteration; a smaller one ends the search.
const GAIN: f64 = 1e-3;
/// Share of the predicted decrease that a step must achieve (Armijo condition).
const SUFFICIENT: f64 = 1e-4;
/// Norm of the first step relative to that of the weights.
const FIRST_STEP: f64 = 1e-2;

/// Settings of a trainer that computes gradients and takes no steps.
const GRADIENTS_ONLY: Training = Training { update: Update::MOMENTUM, ..Training::adam(1, 1) };

/// The layers up to the solved convolution, if projections are asked for and no other node reads their
/// values.
pub fn projected(student: &Block, node: usize, recipe: &Recipe) -> Option<(Part, Block)> {
    let part = Part { from: 0, to: node as u8 + 1 };
    (recipe.projections > 0).then(|| student.part(part).ok()).flatten().map(|layers| (part, layers))
}

/// Optimises `layers`, whose last node is the solved convolution, in at most `recipe.projections` iterations.
pub fn project(
    layers: Block,
    goal: &SolveTarget,
    inputs: &mut Inputs<'_>,
    recipe: &Recipe,
    engine: &Engine,
) -> Result<Block, DistillError> {
    let node = layers.nodes().len() - 1;
    let solved = layers.nodes()[node].weights.clone();
    let free = |weight: &usize| layers.is_trained(*weight) && !solved.iter().any(|&w| usize::from(w) == *weight);
    let free: Vec<usize> = (0..layers.weights().len()).filter(free).collect();
    let count = recipe.images;
    // Fix λ after the first solve, so that all iterations minimise the same function.
    let (mut ridge, later) = (None, Recipe { ridge: Ridge::USUAL, ..recipe.clone() });
    let mut solve = |at: Block, inputs: &mut Inputs<'_>| -> Result<(Block, f64), DistillError> {
        let recipe = if ridge.is_none() { recipe } else { &later };
        let system = sum_equations(&at, node, goal, inputs, recipe, engine)?.system(&layers, ridge);
        ridge = Some(system.ridge());
        Ok(put_solution(system, at, node)?)
    };
    let (mut here, mut error) = solve(layers.clone(), inputs)?;
    if free.is_empty() {
        return Ok(here);
    }
    let mut slope = gradient(&here, &free, goal, inputs, count, engine)?;
    let mut memory = Memory::default();
    for iteration in 0..recipe.projections {
        if !slope.iter().all(|slope| slope.is_finite()) {
            log::warn!("{}: the gradient of a projection is not finite; kept the solve before it", here.name());
            break;
        }
        let values: Vec<f64> = flat(&here, &free);
        let mut direction = memory.direction(&slope);
        if memory.0.is_empty() {
            let scale = FIRST_STEP * libm::sqrt(dot(&values, &values) / dot(&slope, &slope).max(f64::MIN_POSITIVE));
            direction.iter_mut().for_each(|d| *d *= scale);
        }
        let promised = dot(&direction, &slope);
        let mut found = None;
        for halving in 0..HALVINGS {
            let step = libm::ldexp(1.0, -(halving as i32));
            let moved = values.iter().zip(&direction).map(|(value, d)| value + step * d);
            let (block, there) = solve(with(&here, &free, moved)?, inputs)?;
            if there <= error + SUFFICIENT * step * promised {
                found = Some((block, there));
                break;
            }
        }
        let Some((block, there)) = found else { break };
        let gain = 1.0 - there / error.max(f64::MIN_POSITIVE);
        log::debug!("{}: projection {}: error {error:.6} -> {there:.6}", here.name(), iteration + 1);
        (here, error) = (block, there);
        if gain < GAIN || iteration + 1 == recipe.projections {
            break;
        }
        let next = gradient(&here, &free, goal, inputs, count, engine)?;
        let moved = flat(&here, &free).into_iter().zip(&values).map(|(new, old)| new - old).collect();
        memory.add(moved, next.iter().zip(&slope).map(|(new, old)| new - old).collect());
        slope = next;
    }
    Ok(here)
}

/// The gradient of the squared error with respect to the free weights, without the zeros of a sparse kernel.
fn gradient(
    layers: &Block,
    free: &[usize],
    goal: &SolveTarget,
    inputs: &mut Inputs<'_>,
    count: usize,
    engine: &Engine,
) -> Result<Vec<f64>, DistillError> {
    let mut batches = inputs.pass(Purpose::Solve, count);
    let count = batches.left();
    let mut trainer = Trainer::new(vec![layers.clone()], Learners::FIRST, &GRADIENTS_ONLY, engine);
    let [mut input, mut spare] = engine.batches();
    let mut goals = [Goal::mean_squared(layers.output(), count, engine)];
    trainer.begin(count);
    while batches.next_into(engine.portions.solving, &mut input)? {
        goal.value_into(&mut batches, &input, &mut spare, &mut goals[0].output, &mut trainer.workspace)?;
        trainer.add(&input, Goals { outputs: &goals, classes: &[] });
    }
    // The solve's error sums over output channels, the trainer's averages.
    let channels = layers.output().channels as f64;
    let gradients: Vec<Cow<'_, [f32]>> = free.iter().map(|&weight| trainer.gradient(weight)).collect();
    let mut gradient = joined(gradients.iter().map(|gradient| &**gradient));
    let weights = free.iter().map(|&weight| &layers.weights()[weight]);
    let stays = weights.flat_map(|weight| weight.data.iter().map(|value| weight.is_kernel() && *value == 0.0));
    gradient.iter_mut().zip(stays).for_each(|(g, stays)| *g = if stays { 0.0 } else { *g * channels });
    Ok(gradient)
}

/// The free weights of a block.
fn flat(block: &Block, free: &[usize]) -> Vec<f64> {
    joined(free.iter().map(|&weight| block.weights()[weight].data.as_slice()))
}

/// Concatenates tensors without excess capacity.
fn joined<'a>(tensors: impl Iterator<Item = &'a [f32]> + Clone) -> Vec<f64> {
    let mut values = Vec::with_capacity(tensors.clone().map(<[f32]>::len).sum());
    tensors.for_each(|tensor| values.extend(tensor.iter().map(|&value| f64::from(value))));
    values
}

/// Replaces the free weights of a block.
fn with(block: &Block, free: &[usize], mut values: impl Iterator<Item = f64>) -> Result<Block, DistillError> {
    let mut weights = block.weights().to_vec();
    for &weight in free {
        weights[weight].data.iter_mut().zip(&mut values).for_each(|(held, value)| *held = value as f32);
    }
    Ok(block.with_weights(weights)?)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The history of L-BFGS: changes of weights and gradient, and the inverse of their dot product.
#[derive(Default)]
struct Memory(VecDeque<(Vec<f64>, Vec<f64>, f64)>);

impl Memory {
    /// Stores a step if it has positive curvature.
    fn add(&mut self, moved: Vec<f64>, turned: Vec<f64>) {
        let product = dot(&moved, &turned);
        if product > 0.0 {
            if self.0.len() == MEMORY {
                self.0.pop_front();
            }
            self.0.push_back((moved, turned, 1.0 / product));
        }
    }

    /// The search direction (Nocedal & Wright 2006, algorithm 7.4).
    fn direction(&self, slope: &[f64]) -> Vec<f64> {
        let mut direction: Vec<f64> = slope.iter().map(|g| -g).collect();
        let shift = |direction: &mut [f64], along: &[f64], by: f64| {
            direction.iter_mut().zip(along).for_each(|(d, a)| *d += by * a);
        };
        let mut shares = Vec::with_capacity(self.0.len());
        for (moved, turned, inverse) in self.0.iter().rev() {
            let share = inverse * dot(moved, &direction);
            shift(&mut direction, turned, -share);
            shares.push(share);
        }
        if let Some((_, turned, inverse)) = self.0.back() {
            let scale = 1.0 / (inverse * dot(turned, turned));
            direction.iter_mut().for_each(|d| *d *= scale);
        }
        for ((moved, turned, inverse), share) in self.0.iter().zip(shares.into_iter().rev()) {
            let other = inverse * dot(turned, &direction);
            shift(&mut direction, moved, share - other);
        }
        direction
    }
}

/// The heap use of [`project`].
pub struct ProjectBytes {
    /// Bytes of the layers up to the convolution.
    layers: u64,
    /// Scalars in the search's vectors.
    vectors: usize,
    trainer: TrainerBytes,
    /// Inputs per gradient.
    count: usize,
}

impl ProjectBytes {
    /// For these layers, the last of which is solved.
    pub fn new(layers: &Block, recipe: &Recipe) -> Self {
        let solved: usize = layers.weights_of(layers.nodes().len() - 1).iter().map(|weight| weight.data.len()).sum();
        // The history, the current weights, the direction, and two gradients.
        let vectors = 2 * MEMORY.min(recipe.projections.saturating_sub(1)) + 4;
        Self {
            layers: layers.heap_bytes() as u64,
            vectors: vectors * (layers.parameters() - solved),
            trainer: CpuTrainer::bytes(core::slice::from_ref(layers), Learners::FIRST, &GRADIENTS_ONLY),
            count: recipe.images,
        }
    }

    /// Heap bytes, given those of the first solve and of a later one, over the inputs of `solving`.
    pub fn bytes(&self, first_solve: u64, later_solve: u64, solving: &SumBytes, portions: Portions) -> u64 {
        let Self { layers, vectors, trainer, count } = self;
        // The first solve holds one more copy of the block; later solves also hold the current iterate.
        let (first, later) = (layers + first_solve, 2 * layers + later_solve);
        let arena = solving.goal.arena.max(trainer.arena());
        let slope = layers
            + solving.goal.held
            + trainer.held(*count, portions.solving)
            + Batch::bytes(solving.elements, portions.solving)
            + Workspace::bytes(portions.workers, portions.solving, arena)
            + solving.inputs.bytes(portions.solving, 0);
        layers + (vectors * size_of::<f64>()) as u64 + first.max(later).max(slope)
    }
}
