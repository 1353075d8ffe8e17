//! What a block takes in the phases of a run, for each way to cut its work.

use alloc::vec::Vec;

use half::f16;

use crate::{
    block::Block,
    block_error::BlockError,
    cpu::{CpuGradients, Program},
    fold::fold_batch_norms,
    inputs::MEASURED_INPUTS,
    kernels::{
        norm::Moments,
        parallel::threads,
        plane::{LANES, Lanes},
    },
    noise::{NOISE_BATCH, Noise},
    optimizer::{Optimizer, Training},
    recipe::Recipe,
    settings::Settings,
    solve::{NormalEquations, solvable_nodes},
    stage::{MICRO_BATCH, Portions},
    tensor::Shape,
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

/// Bytes of groups of images.
fn images_bytes(shapes: &[Shape], count: usize) -> u64 {
    let elements: u64 = shapes.iter().map(|shape| shape.elements() as u64).sum();
    count.div_ceil(LANES) as u64 * elements * size_of::<Lanes>() as u64
}

/// Heap bytes of a program, and those of an arena it works in.
fn program_bytes(program: &Program) -> [u64; 2] {
    [program.heap_bytes() as u64, arena_bytes(program.arena())]
}

fn arena_bytes(vectors: usize) -> u64 {
    vectors as u64 * size_of::<Lanes>() as u64
}

fn values_bytes<T>(count: usize) -> u64 {
    count as u64 * size_of::<T>() as u64
}

/// No gradient step.
fn untrained(recipe: &Recipe) -> Training {
    Training { steps: 0, ..recipe.training }
}

fn most<const N: usize>(phases: [u64; N]) -> u64 {
    phases.into_iter().max().unwrap_or(0)
}

/// Passing the cached activations through a block; `workers` are the arenas.
pub fn advance(block: &Block) -> Vec<Way> {
    let held = block.heap_bytes() as u64;
    let program = Program::new(block, block.nodes().len(), false);
    let channels = program.segments().iter().map(|nodes| program.norm_channels(nodes.end)).max().unwrap_or(0);
    let (groups, widest) = (NOISE_BATCH.div_ceil(LANES), block.input().elements().max(block.output().elements()));
    // Of each group, and of the batch.
    let moments = values_bytes::<Moments>(channels.max(1) * (groups + 1));
    let [program, arena] = program_bytes(&program);
    let option = |arenas: usize| {
        let working = program + arenas as u64 * arena + moments;
        // Noise at the network's input is drawn image by image.
        let bytes = most([held + program, working, values_bytes::<f32>(block.input().elements())]);
        let staging = (arenas * LANES) as u64 * values_bytes::<f16>(widest);
        Way { portions: Portions { workers: arenas, ..Portions::default() }, bytes, with_staging: bytes + staging }
    };
    halves(groups).map(option).collect()
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
        let teacher = folded.part(part)?;
        // What nothing changes is not distilled.
        if recipe.student(&teacher)? == teacher {
            continue;
        }
        let alone = teacher.heap_bytes() as u64;
        let inner = neighbourhood(teacher, &recipe, settings)?;
        for (way, inner) in ways.iter_mut().zip(inner) {
            let images = if leads { inner.portions.training.min(batch).max(inner.portions.solving) } else { 0 };
            let passing = program + images_bytes(&[folded.input()], images) + inner.portions.workers as u64 * arena;
            way.portions = inner.portions;
            way.raise_to((inner.bytes + passing).max(held + alone) + 2 * held);
        }
    }
    ways.iter_mut().for_each(|way| way.raise_to(first));
    Ok(ways)
}

/// Distilling one folded neighbourhood.
fn neighbourhood(folded_block: Block, recipe: &Recipe, settings: &Settings) -> Result<Vec<Way>, BlockError> {
    let (input, output, images) = (folded_block.input(), folded_block.output(), settings.images);
    let student_block = recipe.student(&folded_block)?;
    let [folded, student] = [&folded_block, &student_block].map(|block| block.heap_bytes() as u64);
    // Copies on the way to a student that differs in more than its width.
    let transforming = folded * (u64::from(recipe.fewer_layers > 0) + u64::from(recipe.activation.is_some()));
    // Programs, arena and images of a solve.
    let nodes = solvable_nodes(&student_block, &folded_block).filter(|_| recipe.solve_inputs > 0);
    let solving = nodes.map(|[node, teachers]| {
        let read = usize::from(student_block.nodes()[node].inputs[0]);
        let to_hidden = program_bytes(&Program::new(&student_block, read, false));
        let to_target = program_bytes(&Program::new(&folded_block, teachers + 1, false));
        let shapes = [input, student_block.shape(read), folded_block.shape(teachers + 1)];
        (node, to_hidden[0] + to_target[0], to_hidden[1].max(to_target[1]), shapes)
    });
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
        let arenas = |images: usize, arena: u64| portions.workers.min(images.div_ceil(LANES)) as u64 * arena;
        // Numbers of a part's images, and either the cache's order or one image of fresh noise.
        let feed = |images: usize, order: usize| match settings.noise {
            Noise::Propagated | Noise::Calibrated => values_bytes::<usize>(2 * images + order),
            Noise::Standard => values_bytes::<f32>(input.elements()),
        };
        let solve = solving.map_or(0, |(node, programs, arena, shapes)| {
            let [gathering, solving] = NormalEquations::heap_bytes(&student_block, node, portions.workers);
            let passing = programs + images_bytes(&shapes, portions.solving) + arenas(portions.solving, arena);
            folded + student + solving.max(gathering + passing + feed(portions.solving, 0))
        });
        let train = gradients.as_ref().map_or(0, |gradients| {
            let part = portions.training.min(batch);
            let held = (gradients.heap_bytes(batch, part) + size_of::<CpuGradients>()) as u64;
            let arena = target_arena.max(arena_bytes(gradients.arena()));
            // Weights and gradients, both as large as the student.
            let trainer = 2 * student + optimizer + held;
            let order = images.next_multiple_of(NOISE_BATCH);
            target + trainer + images_bytes(&[input, output], part) + arenas(part, arena) + feed(part, order)
        });
        let measured = images_bytes(&[input, output, output], portions.solving.min(MEASURED_INPUTS))
            + arenas(portions.solving, target_arena.max(whole_arena))
            + feed(portions.solving, 0);
        let measure = target + student + whole + measured;
        let bytes = most([folded + student + transforming, solve, folded + target + student, train, measure]);
        Way { portions, bytes, with_staging: bytes + values_bytes::<f16>(input.elements()) }
    };
    Ok(halves(MICRO_BATCH.max(batch).div_ceil(LANES)).map(option).collect())
}
