//! How a run stays inside a memory budget, settled before anything large is allocated.
//!
//! What is in memory in each phase of a block is asked from the parts themselves, made from the real block: no size is
//! written down a second time. A [`Plan`] then cuts the work into portions: fewer groups of images at a time, gradients
//! accumulated over parts of a batch, the boundary cache in a storage. The student is the same to the bit in any budget.

use alloc::{string::String, vec::Vec};
use core::fmt;

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
    pack::{Contents, Pack, PackError},
    run::NOISE_BATCH,
    settings::{Settings, SettingsError},
    shrink::shrink,
    solve::{NormalEquations, solvable_node},
    storage::ReadAt,
    train::Training,
};

/// Small allocations that no part answers for: graphs being copied, a section's metadata, queues of threads.
const SMALL_BYTES: usize = 8 << 10;
/// The same for each block of the network: lines of an index, names, reports.
const SMALL_BYTES_PER_BLOCK: usize = 256;

/// Memory that a run may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Most heap in use at any time, in bytes.
    pub bytes: usize,
    /// What of it the program around the run has in use.
    pub used: usize,
}

impl Budget {
    /// As much as there is.
    pub const UNLIMITED: Self = Self { bytes: usize::MAX, used: 0 };
}

/// How a run will go, and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Every block the run passes, in order.
    pub blocks: Vec<BlockPlan>,
    /// The cached activations, where the noise has any.
    pub cache: Option<CachePlan>,
    /// Most heap in use, in bytes, what the program around uses included.
    pub bytes: usize,
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
    pub bytes: usize,
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
    pub fn bytes(&self) -> usize {
        self.images * self.elements * 2
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
        budget: usize,
        /// The smallest budget that does.
        smallest: usize,
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
    if !matches!(device, Device::Cpu) && settings.budget.bytes != usize::MAX {
        return Err(PlanError::BudgetOfDevice);
    }
    let passed = passed_blocks(teacher, settings)?;
    let mut needs = Vec::with_capacity(passed.len());
    let (mut given, mut elements) = (None, 0);
    for &Passed { position, number } in &passed {
        let block = teacher.block(position).map_err(PlanError::Teacher)?;
        if settings.noise == Noise::Propagated {
            if let Some(given) = given.filter(|&given| given != block.input()) {
                return Err(PlanError::Misfit { block: block.name().into(), takes: block.input(), given });
            }
            given = Some(block.output());
            elements = elements.max(block.input().elements());
        }
        let last = passed.last().is_some_and(|last| last.position == position);
        needs.push(Needs::of(block, position, number, last, settings).map_err(PlanError::Block)?);
    }
    // Whole batches, so that held-out images share no statistics with the others.
    let images = settings.images.next_multiple_of(NOISE_BATCH) + MEASURED_INPUTS;
    let in_memory = CachePlan { images, elements, in_storage: false };
    let in_storage = CachePlan { in_storage: true, ..in_memory };
    let places: &[Option<CachePlan>] = match settings.noise {
        Noise::Standard => &[None],
        Noise::Propagated if storage => &[Some(in_memory), Some(in_storage)],
        Noise::Propagated => &[Some(in_memory)],
    };
    let fixed = settings.budget.used + SMALL_BYTES + SMALL_BYTES_PER_BLOCK * teacher.blocks();
    let candidates = places.iter().map(|&cache| Plan::fitting(&needs, cache, fixed, settings.budget.bytes));
    let mut best: Option<Plan> = None;
    let mut refused: Option<(usize, &str)> = None;
    for candidate in candidates {
        match candidate {
            Ok(plan) if best.as_ref().is_none_or(|best| plan.idle_threads() < best.idle_threads()) => best = Some(plan),
            Err(found) if refused.is_none_or(|refused| found.0 < refused.0) => refused = Some(found),
            _ => {}
        }
    }
    best.ok_or_else(|| {
        let (smallest, block) = refused.unwrap_or_default();
        PlanError::Budget { budget: settings.budget.bytes, smallest, block: block.into() }
    })
}

/// A block that the run passes.
struct Passed {
    position: usize,
    /// Number among the neighbourhoods, if it is distilled.
    number: Option<usize>,
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
                without_statistics.get_or_insert(outline.name);
            }
        }
        let number = number.filter(|n| settings.blocks.is_empty() || settings.blocks.contains(n));
        passed.push(Passed { position, number });
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
    /// The fastest plan inside `budget`, or the smallest budget and the block that needs it.
    fn fitting(needs: &[Needs], cache: Option<CachePlan>, fixed: usize, budget: usize) -> Result<Self, (usize, &str)> {
        let in_storage = cache.is_some_and(|cache| cache.in_storage);
        let kept = fixed + cache.filter(|_| !in_storage).map_or(0, |cache| cache.bytes());
        let (mut blocks, mut smallest) = (Vec::with_capacity(needs.len()), (0, ""));
        for Needs { position, name, number, distil, advance } in needs {
            // From the fastest to the leanest.
            let bytes = |need: &Need| kept + if in_storage { need.with_staging } else { need.bytes };
            let best = |options: &'_ [(Portions, Need)]| {
                options.iter().find(|(_, need)| bytes(need) <= budget).map(|(p, need)| (*p, bytes(need)))
            };
            let (distilled, advanced) = (best(distil), best(advance));
            let least = [distil, advance].into_iter().filter_map(|options| options.last()).map(|(_, n)| bytes(n)).max();
            if least.is_some_and(|least| least > smallest.0) {
                smallest = (least.unwrap_or(0), name);
            }
            let (portions, of_distil) = distilled.unwrap_or((Portions::default(), 0));
            let (passing, of_advance) = advanced.unwrap_or((Portions::default(), 0));
            blocks.push(BlockPlan {
                position: *position,
                name: name.clone(),
                number: *number,
                portions,
                arenas: passing.workers,
                bytes: of_distil.max(of_advance).max(kept),
            });
        }
        if smallest.0 > budget {
            return Err(smallest);
        }
        let bytes = blocks.iter().map(|block| block.bytes).max().unwrap_or(kept);
        Ok(Self { blocks, cache, bytes })
    }

    /// Threads without work, over the blocks.
    fn idle_threads(&self) -> usize {
        self.blocks.iter().map(|block| threads().saturating_sub(block.portions.workers)).sum()
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
    bytes: usize,
    /// With images on their way from and to a storage.
    with_staging: usize,
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

fn images_bytes(shape: Shape, count: usize) -> usize {
    count.div_ceil(LANES) * shape.elements() * size_of::<Lanes>()
}

fn most(phases: &[usize]) -> usize {
    phases.iter().copied().max().unwrap_or(0)
}

fn advance_needs(block: &Block) -> Vec<(Portions, Need)> {
    let held = block.heap_bytes();
    let program = Program::new(block, block.nodes().len(), false);
    let channels = program.segments().iter().map(|nodes| program.norm_channels(nodes.end)).max().unwrap_or(0);
    let (groups, widest) = (NOISE_BATCH.div_ceil(LANES), block.input().elements().max(block.output().elements()));
    let moments = (channels.max(1) * (groups + 1)) * size_of::<Moments>();
    let option = |arenas: usize| {
        let working = program.heap_bytes() + arenas * program.arena() * size_of::<Lanes>() + moments;
        // Noise at the network's input is drawn image by image.
        let bytes = most(&[held + program.heap_bytes(), working, block.input().elements() * size_of::<f32>()]);
        let staging = widest * arenas * LANES * size_of::<u16>();
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
    let teacher = block.heap_bytes();
    let folded_block = fold_batch_norms(&block)?;
    drop(block);
    let student_block = shrink(&folded_block, recipe.width)?;
    let (folded, student) = (folded_block.heap_bytes(), student_block.heap_bytes());
    let of_node = |node: usize| (0..4).filter_map(|slot| folded_block.weight(node, slot)).map(|w| w.data.len()).sum();
    let largest_node: usize = (0..folded_block.nodes().len()).map(of_node).max().unwrap_or(0) * size_of::<f32>();
    let size = |program: &Program| (program.heap_bytes(), program.arena() * size_of::<Lanes>());
    // Heap and arena of what a solve needs.
    let node = solvable_node(&student_block, &folded_block).filter(|_| recipe.solve_inputs > 0);
    let solving = node.map(|node| {
        let read = usize::from(student_block.nodes()[node].inputs[0]);
        let to_hidden = size(&Program::new(&student_block, read, false));
        let to_target = size(&Program::new(&folded_block, node + 1, false));
        let shapes = [input, student_block.shape(read), folded_block.shape(node + 1)];
        (node, to_hidden.0 + to_target.0, to_hidden.1.max(to_target.1), shapes)
    });
    let target = size(&Program::new(&folded_block, folded_block.nodes().len(), false));
    drop(folded_block);
    let whole = size(&Program::new(&student_block, student_block.nodes().len(), false));
    let trained = recipe.training.steps > 0;
    let gradients = trained.then(|| CpuGradients::new(&student_block));
    let optimizer =
        Optimizer::heap_bytes(recipe.training.update, student_block.weights().len(), student_block.parameters());
    let batch = if trained { recipe.training.batch } else { 1 };
    let option = |groups: usize| {
        let portions = Portions {
            workers: threads().min(groups),
            solving: MICRO_BATCH.next_multiple_of(LANES).min(groups * LANES),
            training: batch.next_multiple_of(LANES).min(groups * LANES),
        };
        let arenas = |images: usize, arena: usize| portions.workers.min(images.div_ceil(LANES)) * arena;
        // Numbers of a part's images, and either the cache's order or one image of fresh noise.
        let feed = |images: usize, order: usize| match propagated {
            true => (2 * images + order) * size_of::<usize>(),
            false => input.elements() * size_of::<f32>(),
        };
        let in_work = |shapes: &[Shape], count: usize| shapes.iter().map(|&s| images_bytes(s, count)).sum::<usize>();
        let solve = solving.map_or(0, |(node, programs, arena, shapes)| {
            let [gathering, solving] = NormalEquations::heap_bytes(&student_block, node, portions.workers);
            let gathering = gathering
                + programs
                + in_work(&shapes, portions.solving)
                + arenas(portions.solving, arena)
                + feed(portions.solving, 0);
            folded + student + gathering.max(solving)
        });
        let train = gradients.as_ref().map_or(0, |gradients| {
            let arena = target.1.max(gradients.arena() * size_of::<Lanes>());
            let part = portions.training.min(batch);
            target.0
                + 2 * student
                + optimizer
                + gradients.heap_bytes(batch, part)
                + size_of::<CpuGradients>()
                + in_work(&[input, output], part)
                + arenas(part, arena)
                + feed(part, images.next_multiple_of(NOISE_BATCH))
        });
        let measure = target.0
            + student
            + whole.0
            + in_work(&[input, output, output], portions.solving.min(MEASURED_INPUTS))
            + arenas(portions.solving, target.1.max(whole.1))
            + feed(portions.solving, 0);
        let shrinking = folded + student + largest_node;
        let bytes = most(&[teacher + folded, shrinking, solve, folded + target.0 + student, train, measure]);
        (portions, Need { bytes, with_staging: bytes + input.elements() * size_of::<u16>() })
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
