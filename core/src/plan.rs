//! How a run stays inside a memory budget, settled before anything large is allocated.
//!
//! What is in memory in each phase of a block is asked from the parts themselves, made from the real block. A [`Plan`] then
//! cuts the work into portions: fewer groups of images at a time, gradients accumulated over parts of a batch, the boundary
//! cache in a storage. The student is the same to the bit in any budget.
//!
//! Planning reads each block's weights, so it takes some memory itself: less than the leanest run over the same block.
//! Sizes are 64 bits wide, because a device of 32 bits must be able to say that it is asked for more than it can address.

use alloc::{string::String, vec::Vec};
use core::fmt;

use half::f16;

use crate::{
    block::{Block, BlockError, Role, Shape},
    cpu::{CpuGradients, Program},
    device::Device,
    distill::{MEASURED_INPUTS, MICRO_BATCH, Portions, Recipe},
    fold::fold_batch_norms,
    kernels::{
        norm::Moments,
        parallel::threads,
        plane::{LANES, Lanes},
    },
    noise::Noise,
    optimizer::Optimizer,
    pack::{Contents, Outline, Pack, PackError},
    run::{BlockReport, NOISE_BATCH},
    settings::{Settings, SettingsError},
    shrink::shrink,
    solve::{NormalEquations, solvable_node},
    storage::ReadAt,
    train::Training,
};

/// Small allocations that no part answers for: graphs being copied, a section's metadata.
const SMALL_BYTES: usize = 8 << 10;
/// A thread's queue and name.
const THREAD_BYTES: usize = if cfg!(feature = "std") { 8 << 10 } else { 0 };
/// What each block of the network takes for the whole run, without its names: plans (of two, one is taken), lines of an index
/// being gathered, the report.
const BYTES_PER_BLOCK: usize = size_of::<Passed>() + 2 * size_of::<BlockPlan>() + size_of::<BlockReport>() + 128;
/// Copies of a block's name in them.
const NAMES_PER_BLOCK: usize = 4;

/// Memory that a run may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Most heap in use at any time, in bytes.
    pub bytes: u64,
    /// What of it the program around the run has in use.
    pub used: u64,
}

impl Budget {
    /// As much as there is.
    pub const UNLIMITED: Self = Self { bytes: u64::MAX, used: 0 };
}

/// How a run will go, and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Every block the run passes, in order.
    pub blocks: Vec<BlockPlan>,
    /// The cached activations, where the noise has any.
    pub cache: Option<CachePlan>,
    /// Most heap in use, in bytes, what the program around uses included.
    pub bytes: u64,
}

/// How one block goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPlan {
    /// Place in the network.
    pub position: usize,
    /// Its name.
    pub name: String,
    /// Number among the neighbourhoods, if it is distilled.
    pub number: Option<usize>,
    /// How its distillation is cut.
    pub portions: Portions,
    /// Groups of images in memory while the cache passes it.
    pub arenas: usize,
    /// Most heap in use, in bytes, cache and program included.
    pub bytes: u64,
}

/// Where cached activations lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachePlan {
    /// Images.
    pub images: usize,
    /// Values of an image at the largest boundary.
    pub elements: usize,
    /// In a storage instead of memory.
    pub in_storage: bool,
}

impl CachePlan {
    /// Bytes in half precision.
    pub fn bytes(&self) -> u64 {
        self.images as u64 * self.elements as u64 * size_of::<f16>() as u64
    }
}

/// Why there is no plan.
#[derive(Debug)]
#[non_exhaustive]
pub enum PlanError<R> {
    /// A number that no run can work with.
    Settings(SettingsError),
    /// The teacher pack.
    Teacher(PackError<R>),
    /// A chosen block is not there.
    NoSuchBlock {
        /// The number.
        index: usize,
        /// Neighbourhoods the teacher has.
        blocks: usize,
    },
    /// Propagated noise needs batch-norm statistics in every neighbourhood.
    NoStatistics {
        /// The first neighbourhood without.
        block: String,
    },
    /// A block does not take what the one before it gives.
    Misfit {
        /// The block's name.
        block: String,
        /// What it takes.
        takes: Shape,
        /// What it is given.
        given: Shape,
    },
    /// The budget does not do.
    Budget {
        /// Bytes there may be.
        budget: u64,
        /// The smallest budget that does.
        smallest: u64,
        /// The block that needs it.
        block: String,
    },
    /// The device's memory is not ours to plan.
    BudgetOfDevice,
    /// A block did not transform.
    Block(BlockError),
}

/// Plans a run of `settings` over `teacher` on `device`; `storage` says whether there is one for the cache.
///
/// # Errors
/// [`PlanError`].
pub fn plan<R: ReadAt>(
    teacher: &mut Pack<R>,
    settings: &Settings,
    device: &Device,
    storage: bool,
) -> Result<Plan, PlanError<R::Error>> {
    settings.check().map_err(PlanError::Settings)?;
    let budget = settings.budget.bytes;
    if !matches!(device, Device::Cpu) && budget != u64::MAX {
        return Err(PlanError::BudgetOfDevice);
    }
    let passed = passed_blocks(teacher, settings)?;
    // Whole batches, so that held-out images share no statistics with the others.
    let images = settings.images.next_multiple_of(NOISE_BATCH) + MEASURED_INPUTS;
    let elements = passed.iter().map(|passed| passed.outline.input.elements()).max().unwrap_or(0);
    let in_memory = CachePlan { images, elements, in_storage: false };
    let in_storage = CachePlan { in_storage: true, ..in_memory };
    let caches: &[Option<CachePlan>] = match settings.noise {
        Noise::Standard => &[None],
        Noise::Propagated if storage => &[Some(in_memory), Some(in_storage)],
        Noise::Propagated => &[Some(in_memory)],
    };
    let names: usize = passed.iter().map(|passed| passed.outline.name.len()).sum();
    let lines = BYTES_PER_BLOCK * teacher.blocks() + NAMES_PER_BLOCK * names;
    let fixed = settings.budget.used + (SMALL_BYTES + THREAD_BYTES * threads() + lines) as u64;
    let mut drafts: Vec<Draft> = caches.iter().map(|&cache| Draft::new(cache, fixed, passed.len())).collect();
    let mut given = None;
    for (place, Passed { position, number, .. }) in passed.iter().enumerate() {
        let block = teacher.block(*position).map_err(PlanError::Teacher)?;
        if settings.noise == Noise::Propagated {
            if let Some(given) = given.filter(|&given| given != block.input()) {
                return Err(PlanError::Misfit { block: block.name().into(), takes: block.input(), given });
            }
            given = Some(block.output());
        }
        let last = place + 1 == passed.len();
        let needs = Needs::of(block, *position, *number, last, settings).map_err(PlanError::Block)?;
        drafts.iter_mut().for_each(|draft| draft.add(&needs, budget));
    }
    let smallest = drafts.iter().map(|draft| draft.smallest).min().unwrap_or(0);
    if smallest > budget {
        let draft = drafts.into_iter().find(|draft| draft.smallest == smallest);
        return Err(PlanError::Budget {
            budget,
            smallest,
            block: draft.map(|draft| draft.largest).unwrap_or_default(),
        });
    }
    // Of equally fast ones the first, with the cache in memory.
    let fitting = drafts.into_iter().filter(|draft| draft.smallest <= budget);
    let plan = fitting.map(|draft| draft.plan).min_by_key(Plan::idle_threads);
    Ok(plan.unwrap_or(Plan { blocks: Vec::new(), cache: None, bytes: fixed }))
}

/// A block that the run passes.
struct Passed {
    position: usize,
    /// Number among the neighbourhoods, if it is distilled.
    number: Option<usize>,
    outline: Outline,
}

/// Every block that the run passes, in order.
fn passed_blocks<R: ReadAt>(teacher: &mut Pack<R>, settings: &Settings) -> Result<Vec<Passed>, PlanError<R::Error>> {
    if teacher.manifest().contents != Contents::Network {
        return Err(PlanError::Teacher(PackError::WrongContents));
    }
    let mut passed = Vec::with_capacity(teacher.blocks());
    let (mut blocks, mut without_statistics) = (0, None);
    for position in 0..teacher.blocks() {
        let outline = teacher.outline(position).map_err(PlanError::Teacher)?;
        let number = (outline.role == Role::Neighbourhood).then_some(blocks);
        if number.is_some() {
            blocks += 1;
            if !outline.has_statistics {
                without_statistics.get_or_insert_with(|| outline.name.clone());
            }
        }
        let number = number.filter(|n| settings.blocks.is_empty() || settings.blocks.contains(n));
        passed.push(Passed { position, number, outline });
    }
    if let Some(block) = without_statistics.filter(|_| settings.noise == Noise::Propagated) {
        return Err(PlanError::NoStatistics { block });
    }
    if let Some(&index) = settings.blocks.iter().find(|&&index| index >= blocks) {
        return Err(PlanError::NoSuchBlock { index, blocks });
    }
    let last = passed.iter().rposition(|passed| passed.number.is_some());
    passed.truncate(last.map_or(0, |last| last + 1));
    passed.retain(|passed| passed.number.is_some() || settings.noise == Noise::Propagated);
    Ok(passed)
}

impl BlockPlan {
    /// Inputs whose gradients are taken at a time, or, without gradient steps, whose sums of a solve are.
    pub fn micro_batch(&self, settings: &Settings) -> usize {
        match settings.recipe.training {
            Training { steps: 0, .. } => self.portions.solving,
            Training { batch, .. } => self.portions.training.min(batch),
        }
    }
}

impl Plan {
    /// Threads without work, over the blocks.
    fn idle_threads(&self) -> usize {
        self.blocks.iter().map(|block| threads().saturating_sub(block.portions.workers)).sum()
    }
}

/// A plan with its cache in one of the places there are.
struct Draft {
    plan: Plan,
    /// What is in memory all the time.
    kept: u64,
    /// The smallest budget so far, and the block that needs it.
    smallest: u64,
    largest: String,
}

impl Draft {
    fn new(cache: Option<CachePlan>, fixed: u64, blocks: usize) -> Self {
        let kept = fixed + cache.filter(|cache| !cache.in_storage).map_or(0, |cache| cache.bytes());
        let plan = Plan { blocks: Vec::with_capacity(blocks), cache, bytes: kept };
        Self { plan, kept, smallest: kept, largest: String::new() }
    }

    /// Takes the fastest way for a block that the budget has room for.
    fn add(&mut self, needs: &Needs, budget: u64) {
        let in_storage = self.plan.cache.is_some_and(|cache| cache.in_storage);
        let bytes = |need: &Need| self.kept + if in_storage { need.with_staging } else { need.bytes };
        // From the fastest to the leanest; the leanest where none does.
        let best = |options: &[(Portions, Need)]| {
            let fitting = options.iter().find(|(_, need)| bytes(need) <= budget).or(options.last());
            fitting.map_or((Portions::default(), self.kept), |(portions, need)| (*portions, bytes(need)))
        };
        let least = |options: &[(Portions, Need)]| options.last().map_or(self.kept, |(_, need)| bytes(need));
        let (portions, to_distil) = best(&needs.distil);
        let (passing, to_advance) = best(&needs.advance);
        let smallest = least(&needs.distil).max(least(&needs.advance));
        let block = BlockPlan {
            position: needs.position,
            name: needs.name.clone(),
            number: needs.number,
            portions,
            arenas: passing.workers,
            bytes: to_distil.max(to_advance),
        };
        if smallest > self.smallest {
            (self.smallest, self.largest) = (smallest, block.name.clone());
        }
        self.plan.bytes = self.plan.bytes.max(block.bytes);
        self.plan.blocks.push(block);
    }
}

/// What a block takes, for each way to cut its work, from the fastest to the leanest.
struct Needs {
    position: usize,
    name: String,
    number: Option<usize>,
    distil: Vec<(Portions, Need)>,
    /// `workers` are the arenas.
    advance: Vec<(Portions, Need)>,
}

/// Heap bytes without the cache.
#[derive(Clone, Copy)]
struct Need {
    bytes: u64,
    /// With images on their way from and to a storage.
    with_staging: u64,
}

impl Needs {
    fn of(
        block: Block,
        position: usize,
        number: Option<usize>,
        last: bool,
        settings: &Settings,
    ) -> Result<Self, BlockError> {
        let name = block.name().into();
        let propagated = settings.noise == Noise::Propagated;
        let advance = if propagated && !last { advance_needs(&block) } else { Vec::new() };
        let distil = match number {
            Some(_) => distil_needs(block, &settings.recipe, settings.images, propagated)?,
            None => Vec::new(),
        };
        Ok(Self { position, name, number, distil, advance })
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

fn most<const N: usize>(phases: [u64; N]) -> u64 {
    phases.into_iter().max().unwrap_or(0)
}

fn advance_needs(block: &Block) -> Vec<(Portions, Need)> {
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
        (Portions { workers: arenas, ..Portions::default() }, Need { bytes, with_staging: bytes + staging })
    };
    halves(groups).map(option).collect()
}

fn distil_needs(
    block: Block,
    recipe: &Recipe,
    images: usize,
    propagated: bool,
) -> Result<Vec<(Portions, Need)>, BlockError> {
    let (input, output) = (block.input(), block.output());
    let teacher = block.heap_bytes() as u64;
    let folded_block = fold_batch_norms(&block)?;
    drop(block);
    let student_block = shrink(&folded_block, recipe.width)?;
    let [folded, student] = [&folded_block, &student_block].map(|block| block.heap_bytes() as u64);
    // Programs, arena and images of a solve.
    let node = solvable_node(&student_block, &folded_block).filter(|_| recipe.solve_inputs > 0);
    let solving = node.map(|node| {
        let read = usize::from(student_block.nodes()[node].inputs[0]);
        let to_hidden = program_bytes(&Program::new(&student_block, read, false));
        let to_target = program_bytes(&Program::new(&folded_block, node + 1, false));
        let shapes = [input, student_block.shape(read), folded_block.shape(node + 1)];
        (node, to_hidden[0] + to_target[0], to_hidden[1].max(to_target[1]), shapes)
    });
    let [target, target_arena] = program_bytes(&Program::new(&folded_block, folded_block.nodes().len(), false));
    drop(folded_block);
    let [whole, whole_arena] = program_bytes(&Program::new(&student_block, student_block.nodes().len(), false));
    let trained = recipe.training.steps > 0;
    let gradients = trained.then(|| CpuGradients::new(&student_block));
    let optimizer =
        Optimizer::heap_bytes(recipe.training.update, student_block.weights().len(), student_block.parameters()) as u64;
    let batch = if trained { recipe.training.batch } else { 1 };
    let option = |groups: usize| {
        let portions = Portions {
            workers: threads().min(groups),
            solving: MICRO_BATCH.next_multiple_of(LANES).min(groups * LANES),
            training: batch.next_multiple_of(LANES).min(groups * LANES),
        };
        let arenas = |images: usize, arena: u64| portions.workers.min(images.div_ceil(LANES)) as u64 * arena;
        // Numbers of a part's images, and either the cache's order or one image of fresh noise.
        let feed = |images: usize, order: usize| match propagated {
            true => values_bytes::<usize>(2 * images + order),
            false => values_bytes::<f32>(input.elements()),
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
        let bytes = most([teacher + folded, folded + student, solve, folded + target + student, train, measure]);
        (portions, Need { bytes, with_staging: bytes + values_bytes::<f16>(input.elements()) })
    };
    Ok(halves(MICRO_BATCH.max(batch).div_ceil(LANES)).map(option).collect())
}

impl<R: fmt::Display> fmt::Display for PlanError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(error) => write!(f, "{error}"),
            Self::Teacher(error) => write!(f, "cannot read the teacher pack: {error}"),
            Self::NoSuchBlock { index, blocks } => {
                write!(f, "there is no block {index}: the teacher has {blocks}, numbered from 0")
            }
            Self::NoStatistics { block } => {
                write!(
                    f,
                    "block {block} has no batch-norm statistics, which propagated noise needs: use standard noise"
                )
            }
            Self::Misfit { block, takes, given } => {
                write!(f, "block {block} takes {takes}, but the block before it gives {given}")
            }
            Self::Budget { budget, smallest, block } => {
                write!(
                    f,
                    "a budget of {budget} bytes does not do: block {block} needs {smallest} bytes ({} KiB) at least",
                    smallest.div_ceil(1 << 10)
                )?;
                // The feature's groups are of four.
                if LANES > 4 { f.write_str("; a build with --features small needs less") } else { Ok(()) }
            }
            Self::BudgetOfDevice => write!(f, "a budget can be planned for the cpu only: leave it out, or the device"),
            Self::Block(error) => write!(f, "{error}"),
        }
    }
}

impl<R: core::error::Error + 'static> core::error::Error for PlanError<R> {}
