//! What a block takes in the phases of a run, for each way to cut its work.

use alloc::vec::Vec;

use half::f16;

use super::{
    bytes::{Feed, arena_bytes, arenas_bytes, images_bytes, program_bytes, values_bytes},
    closed_form::ClosedForm,
};
use crate::{
    block::{Block, BlockError, Statistics},
    engine::{
        MICRO_BATCH, Optimizer, Portions,
        cpu::{CpuGradients, Program},
    },
    kernels::{norm::Moments, parallel::threads, plane::LANES},
    noise::{MEASURED_INPUTS, NOISE_BATCH, VALIDATED_INPUTS},
    recipe::{Noise, Recipe, Training},
    run::Settings,
    student::fold_batch_norms,
};

/// A way to cut a block's work, and what it takes. Lists of them go from the fastest to the leanest.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub portions: Portions,
    /// Heap, without the cache.
    pub bytes: u64,
    /// The same with images on their way from and to a storage.
    pub with_staging: u64,
}

impl Way {
    /// It takes this much at least.
    fn raise_to(&mut self, bytes: u64) {
        let staging = self.with_staging - self.bytes;
        self.bytes = self.bytes.max(bytes);
        self.with_staging = self.bytes + staging;
    }
}

/// Numbers of groups in work at a time, from all to one.
fn halves(most: usize) -> impl Iterator<Item = usize> {
    core::iter::successors(Some(most.max(1)), |&groups| (groups > 1).then_some(groups / 2))
}

/// No gradient step.
fn untrained(recipe: &Recipe) -> Training {
    Training { steps: 0, ..recipe.training }
}

fn most<const N: usize>(phases: [u64; N]) -> u64 {
    phases.into_iter().max().unwrap_or(0)
}

/// Programs that pass activations through blocks.
#[derive(Clone, Copy, Debug)]
struct Passing {
    /// All of them.
    programs: u64,
    /// The most that is there while they are made.
    making: u64,
    /// One arena, which serves each of them.
    arena: u64,
}

impl Passing {
    /// Through `block`, made from what takes `source` bytes where that is another.
    fn through(block: &Block, source: u64) -> Self {
        let [programs, arena] = program_bytes(&Program::new(block, block.nodes().len(), false));
        Self { programs, making: block.heap_bytes() as u64 + programs.max(source), arena }
    }

    /// This, and `next` made after it.
    fn and(self, next: Self) -> Self {
        Self {
            programs: self.programs + next.programs,
            making: self.making.max(self.programs + next.making),
            arena: self.arena.max(next.arena),
        }
    }
}

/// Channels of its widest batch norm.
fn norm_channels(block: &Block) -> usize {
    let program = Program::new(block, block.nodes().len(), false);
    program.segments().iter().map(|nodes| program.norm_channels(nodes.end)).max().unwrap_or(0)
}

/// Passing the cached activations through a block, and in a sequential run the student's behind them through its student;
/// `workers` are the arenas.
pub fn advance(block: &Block, distilled: bool, settings: &Settings) -> Result<Vec<Way>, BlockError> {
    let (loaded, groups) = (block.heap_bytes() as u64, NOISE_BATCH.div_ceil(LANES));
    let (mut passing, most_arenas, channels) = match settings.noise.statistics() {
        // They are of the whole batch, all of whose groups are in work at once.
        Statistics::Current => (Passing::through(block, 0), groups, norm_channels(block)),
        Statistics::Running => (Passing::through(&fold_batch_norms(block)?, loaded), groups.min(threads()), 0),
    };
    if settings.sequential {
        let folded = fold_batch_norms(block)?;
        // With neighbourhoods inside it shrinks less than as a whole.
        let shrinks = distilled && folded.parts().is_empty();
        let student = if shrinks { settings.recipe_of(block.name()).student(&folded)? } else { folded };
        // A student that was distilled is read from its pack, another is the teacher's block.
        passing = passing.and(Passing::through(&student, if distilled { 0 } else { loaded }));
    }
    let Passing { programs, making, arena } = passing;
    let input = block.input().elements();
    // Of each group, and of the batch.
    let moments = values_bytes::<Moments>(channels.max(1) * (groups + 1));
    // Noise at the network's input is made image by image, a variant of calibrated noise of two others.
    let drawn = values_bytes::<f32>(if settings.noise == Noise::Calibrated { 4 * input } else { input });
    let option = |arenas: usize| {
        let bytes = most([making, programs + arenas as u64 * arena + moments, drawn]);
        let staging = (arenas * LANES) as u64 * values_bytes::<f16>(input.max(block.output().elements()));
        Way { portions: Portions { workers: arenas, ..Portions::default() }, bytes, with_staging: bytes + staging }
    };
    Ok(halves(most_arenas).map(option).collect())
}

/// Distilling a block, or measuring it where that was done.
pub fn distil(block: Block, settings: &Settings) -> Result<Vec<Way>, BlockError> {
    let recipe = settings.recipe_of(block.name());
    let teacher = block.heap_bytes() as u64;
    let folded = fold_batch_norms(&block)?;
    drop(block);
    let first = teacher + folded.heap_bytes() as u64;
    if folded.parts().is_empty() {
        let mut ways = neighbourhood(folded, &recipe, settings)?;
        ways.iter_mut().for_each(|way| way.raise_to(first));
        return Ok(ways);
    }
    let batch = settings.recipe.training.batch;
    // The block and its student are there while its parts are distilled, and another copy when one is put in.
    let held = folded.heap_bytes() as u64;
    let mut ways =
        neighbourhood(folded.clone(), &Recipe { solve_inputs: 0, training: untrained(&recipe), ..recipe }, settings)?;
    for &part in folded.parts() {
        // Cached inputs of the block are on their way to the part.
        let leads = settings.noise.is_cached() && part[0] > 0;
        let before = leads.then(|| Program::new(&folded, part[0].into(), false));
        let [program, arena] = before.as_ref().map_or([0; 2], program_bytes);
        // The student's side of it is no larger than the teacher's.
        let program = if settings.sequential { 2 * program } else { program };
        let teacher = folded.part(part)?;
        // What nothing changes is not distilled.
        if recipe.student(&teacher)? == teacher {
            continue;
        }
        let alone = teacher.heap_bytes() as u64;
        let inner = neighbourhood(teacher, &recipe, settings)?;
        for (way, inner) in ways.iter_mut().zip(inner) {
            let judged = if recipe.training.stop { VALIDATED_INPUTS } else { 0 };
            let images = inner.portions.training.min(batch).max(inner.portions.solving).max(judged);
            let images = if leads { images } else { 0 };
            let passing =
                program + images_bytes(folded.input().elements(), images) + inner.portions.workers as u64 * arena;
            way.portions = inner.portions;
            way.raise_to((inner.bytes + passing).max(held + alone) + 2 * held);
        }
    }
    ways.iter_mut().for_each(|way| way.raise_to(first));
    Ok(ways)
}

/// Distilling one folded neighbourhood.
fn neighbourhood(folded_block: Block, recipe: &Recipe, settings: &Settings) -> Result<Vec<Way>, BlockError> {
    let (input, output) = (folded_block.input().elements(), folded_block.output().elements());
    let feed = Feed::new(settings, input);
    let student_block = recipe.student(&folded_block)?;
    let [folded, student] = [&folded_block, &student_block].map(|block| block.heap_bytes() as u64);
    // Copies on the way to a student that differs in more than its width.
    let transforming = folded * (u64::from(recipe.fewer_layers > 0) + u64::from(recipe.activation.is_some()));
    let closed_form = ClosedForm::new([&student_block, &folded_block], recipe, feed);
    let [target, target_arena] = program_bytes(&Program::new(&folded_block, folded_block.nodes().len(), false));
    drop(folded_block);
    let [whole, whole_arena] = program_bytes(&Program::new(&student_block, student_block.nodes().len(), false));
    let trained = recipe.training.steps > 0;
    let gradients = trained.then(|| CpuGradients::new(&student_block));
    let optimizer =
        Optimizer::heap_bytes(recipe.training.update, student_block.weights().len(), student_block.parameters()) as u64;
    // The same ways for every neighbourhood of a block, trained or not.
    let batch = if settings.recipe.training.steps > 0 { recipe.training.batch } else { 1 };
    let option = |groups: usize| {
        let portions = Portions {
            workers: threads().min(groups),
            solving: MICRO_BATCH.next_multiple_of(LANES).min(groups * LANES),
            training: batch.next_multiple_of(LANES).min(groups * LANES),
        };
        let both_arenas = target_arena.max(whole_arena);
        let train = gradients.as_ref().map_or(0, |gradients| {
            let part = portions.training.min(batch);
            let held = (gradients.heap_bytes(batch, part) + size_of::<CpuGradients>()) as u64;
            let arena = target_arena.max(arena_bytes(gradients.arena()));
            // Weights and gradients, both as large as the student.
            let trainer = 2 * student + optimizer + held;
            let order = settings.images.next_multiple_of(NOISE_BATCH);
            let images = images_bytes(input + feed.beside() + output, part);
            let step = trainer + images + arenas_bytes(portions, part, arena) + feed.bytes(part, order);
            if !recipe.training.stop {
                return target + step;
            }
            // What tells students apart, the best so far, and a rival in the making; before the first step the teacher's inputs, too.
            let judge = images_bytes(input + 2 * output, VALIDATED_INPUTS)
                + arenas_bytes(portions, VALIDATED_INPUTS, both_arenas)
                + 3 * student
                + whole;
            let before = images_bytes(feed.beside(), VALIDATED_INPUTS) + feed.bytes(VALIDATED_INPUTS, 0);
            target + judge + step.max(before)
        });
        let measured = images_bytes(input + feed.beside() + 2 * output, portions.solving.min(MEASURED_INPUTS))
            + arenas_bytes(portions, portions.solving, both_arenas)
            + feed.bytes(portions.solving, 0);
        let solve = closed_form.as_ref().map_or(0, |closed_form| folded + closed_form.bytes(portions));
        let measure = target + student + whole + measured;
        let bytes = most([folded + student + transforming, solve, folded + target + student, train, measure]);
        Way { portions, bytes, with_staging: bytes + values_bytes::<f16>(input) }
    };
    Ok(halves(MICRO_BATCH.max(batch).div_ceil(LANES)).map(option).collect())
}
