//! Plans a run within a memory budget, before anything large is allocated.
//!
//! The components themselves, built from the real blocks, report the memory of each phase. A [`Plan`] then divides the
//! work into portions: fewer groups of images at a time, gradients accumulated over parts of a batch, the boundary
//! cache in a storage. The student is bit-identical for any budget.
//!
//! Planning reads each block's weights, so it needs memory itself: less than the leanest run over the same block. Sizes
//! are 64 bits wide, because a 32-bit device must be able to report needs beyond its address space.

use alloc::{string::String, vec::Vec};
use core::fmt;

use half::f16;

use crate::{
    block::{Block, BlockError, Role},
    engine::{Device, Engine, MICRO_BATCH, Portions},
    inputs::{Cache, InputBytes},
    kernels::{parallel::threads, plane::LANES},
    pack::{Contents, Outline, Pack, PackError},
    recipe::{SourceKind, Training},
    run::{
        Ahead, BlockReport, Run, Settings, SettingsError,
        advance::{advance_ways, halves},
        distill::{Distillation, distill_bytes},
    },
    storage::ReadAt,
    student::prunable,
    tensor::Shape,
};

/// Allowance for small allocations that no component reports: copies of graphs, a section's metadata.
const SMALL_BYTES: usize = 8 << 10;
/// Bytes of a thread's queue and name.
const THREAD_BYTES: usize = if cfg!(feature = "std") { 8 << 10 } else { 0 };
/// Bytes per block of the network for the whole run, without names: two candidate plans, index entries, the report.
const BYTES_PER_BLOCK: usize = size_of::<Visited>() + 2 * size_of::<BlockPlan>() + size_of::<BlockReport>() + 128;
/// Copies of a block's name in these.
const NAMES_PER_BLOCK: usize = 4;

/// Copies of the recipe in use at a time.
const RECIPES: usize = 4;

/// The plan of a run and its memory use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Every block that the run visits, in order.
    pub blocks: Vec<BlockPlan>,
    /// The cached activations, if the source's kind is cached.
    pub cache: Option<CachePlan>,
    /// Peak heap use in bytes, the surrounding program included.
    pub bytes: u64,
}

/// The plan of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPlan {
    /// Position in the network.
    pub position: usize,
    /// Its name.
    pub name: String,
    /// Number among the neighbourhoods, if it is distilled.
    pub number: Option<usize>,
    /// The portions of its distillation.
    pub portions: Portions,
    /// Groups of images in memory while the cache is propagated through it.
    pub arenas: usize,
    /// Peak heap use in bytes, cache and surrounding program included.
    pub bytes: u64,
}

/// Size and place of the cached activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachePlan {
    /// Number of images.
    pub images: usize,
    /// Values per image at the largest boundary.
    pub elements: usize,
    /// Whether they are in a storage instead of memory.
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
    /// A setting is outside its range.
    Settings(SettingsError),
    /// The teacher pack.
    Teacher(PackError<R>),
    /// A chosen block does not exist.
    NoSuchBlock {
        /// The number.
        index: usize,
        /// Number of neighbourhoods of the teacher.
        blocks: usize,
    },
    /// A width is given for a neighbourhood that does not exist.
    NoSuchName {
        /// The name.
        name: String,
    },
    /// A sparsity is given for something that is no kernel of a dense convolution in a neighbourhood.
    NoSuchLayer {
        /// The name.
        name: String,
    },
    /// The source needs batch-norm statistics in every neighbourhood but the last, and somewhere.
    NoStatistics {
        /// The first neighbourhood without statistics.
        block: String,
    },
    /// The source has no more images than are held out.
    TooFewImages {
        /// Number of its images.
        images: usize,
        /// Images reserved to measure and to stop early.
        held_out: usize,
    },
    /// A block's input shape is not the previous block's output shape.
    Misfit {
        /// The block's name.
        block: String,
        /// Its input shape.
        takes: Shape,
        /// The previous block's output shape.
        given: Shape,
    },
    /// The budget is too small.
    Budget {
        /// The budget in bytes.
        budget: u64,
        /// The smallest budget that suffices.
        smallest: u64,
        /// The block that needs it.
        block: String,
    },
    /// A budget is set, but the device is not the CPU.
    BudgetOfDevice,
    /// A transformation of a block failed.
    Block(BlockError),
}

/// Plans a run.
///
/// # Errors
/// [`PlanError`].
pub fn plan<R: ReadAt>(run: &mut Run<'_, R>) -> Result<Plan, PlanError<R::Error>> {
    let Run { teacher, source, scratch, settings, device } = run;
    let kind = source.kind();
    settings.check(kind).map_err(PlanError::Settings)?;
    let budget = settings.budget.bytes;
    if !matches!(device, Device::Cpu) && budget != u64::MAX {
        return Err(PlanError::BudgetOfDevice);
    }
    // No allocation can be larger, which counts on 32 bits.
    let budget = budget.min(isize::MAX as u64);
    let held_out = settings.held_out();
    if let Some(images) = source.images().filter(|&images| images <= held_out) {
        return Err(PlanError::TooFewImages { images, held_out });
    }
    let visited = visited_blocks(teacher, settings, kind)?;
    let elements = visited.iter().map(|visited| visited.outline.input.elements()).max().unwrap_or(0);
    let in_memory = CachePlan { images: settings.cache_size().total(), elements, in_storage: false };
    let in_storage = CachePlan { in_storage: true, ..in_memory };
    let caches: &[Option<CachePlan>] = match kind.is_cached() {
        false => &[None],
        true if scratch.is_some() => &[Some(in_memory), Some(in_storage)],
        true => &[Some(in_memory)],
    };
    let names: usize = visited.iter().map(|visited| visited.outline.name.len()).sum();
    let lines = BYTES_PER_BLOCK * teacher.blocks() + NAMES_PER_BLOCK * names;
    let recipes = RECIPES * settings.recipe.heap_bytes();
    let fixed = settings.budget.used + (SMALL_BYTES + THREAD_BYTES * threads() + lines + recipes) as u64;
    // Images at the network's input are drawn one at a time.
    let drawn = visited.first().map_or(0, |first| source.bytes(first.outline.input.elements()));
    let mut drafts: Vec<Draft> = caches.iter().map(|&cache| Draft::new(cache, fixed, visited.len())).collect();
    let mut unseen: Vec<&str> = settings.recipe.sparsities.iter().map(|(name, _)| name.as_str()).collect();
    for (place, here) in visited.iter().enumerate() {
        let last = place + 1 == visited.len();
        let mut ways = block_ways(teacher, here, kind, settings, last, &mut unseen)?;
        if let Some(next) = visited.get(place + 1).filter(|_| kind.is_cached()) {
            let (takes, given) = (next.outline.input, ways.output);
            if takes != given {
                return Err(PlanError::Misfit { block: next.outline.name.clone(), takes, given });
            }
        }
        ways.advance.iter_mut().filter(|_| place == 0).for_each(|way| way.bytes = way.bytes.max(drawn));
        drafts.iter_mut().for_each(|draft| draft.add(here, &ways, budget));
    }
    if !unseen.is_empty() {
        see_others(teacher, &visited, &mut unseen)?;
    }
    if let Some(name) = unseen.first() {
        return Err(PlanError::NoSuchLayer { name: (*name).into() });
    }
    let (fitting, refused): (Vec<Draft>, Vec<Draft>) = drafts.into_iter().partition(|draft| draft.smallest <= budget);
    // Of equally fast plans take the first, with the cache in memory.
    if let Some(draft) = fitting.into_iter().min_by_key(|draft| draft.plan.idle_threads()) {
        return Ok(draft.plan);
    }
    let leanest = refused.into_iter().min_by_key(|draft| draft.smallest);
    let (smallest, block) = leanest.map(|draft| (draft.smallest, draft.largest)).unwrap_or_default();
    Err(PlanError::Budget { budget, smallest, block })
}

/// The ways to distil a block and to propagate the cache, each from the fastest to the leanest.
struct Ways {
    /// Shape of the block's output.
    output: Shape,
    distill: Vec<Way<Portions>>,
    /// Groups of images processed at the same time.
    advance: Vec<Way<usize>>,
}

/// A way to divide work, and its memory use.
#[derive(Clone, Copy, Debug)]
pub struct Way<C> {
    pub cut: C,
    /// Heap bytes, excluding the cache.
    pub bytes: u64,
    /// Additional bytes for transfers if the cache is in a storage.
    pub staging: u64,
}

impl<C> Way<C> {
    /// Total heap bytes; `kept` includes the cache if it is in memory.
    fn total(&self, kept: u64, in_storage: bool) -> u64 {
        kept + self.bytes + if in_storage { self.staging } else { 0 }
    }
}

fn block_ways<R: ReadAt>(
    teacher: &mut Pack<R>,
    visited: &Visited,
    kind: SourceKind,
    settings: &Settings,
    last: bool,
    unseen: &mut Vec<&str>,
) -> Result<Ways, PlanError<R::Error>> {
    let block = teacher.block(visited.position).map_err(PlanError::Teacher)?;
    let recipe = settings.recipe_of(block.name());
    let (output, elements) = (block.output(), block.input().elements());
    let advance = match kind.is_cached() && !last {
        true => {
            let recipe = visited.number.map(|_| &recipe);
            advance_ways(&block, recipe, kind, settings.sequential).map_err(PlanError::Block)?
        }
        false => Vec::new(),
    };
    if visited.number.is_none() {
        return Ok(Ways { output, distill: Vec::new(), advance });
    }
    unseen.retain(|name| !kernels(&block).any(|kernel| kernel == *name));
    let Training { steps, batch, .. } = settings.recipe.training;
    let batch = if steps > 0 { batch } else { 1 };
    let portions = |groups: usize| Portions {
        workers: threads().min(groups),
        solving: MICRO_BATCH.next_multiple_of(LANES).min(groups * LANES),
        training: batch.next_multiple_of(LANES).min(groups * LANES),
    };
    let portions: Vec<Portions> = halves(MICRO_BATCH.max(batch).div_ceil(LANES)).map(portions).collect();
    let inputs = InputBytes { cached: kind.is_cached(), paired: settings.sequential, elements };
    let ahead = Ahead::load(teacher, &block, visited.position, settings).map_err(PlanError::Teacher)?;
    let loading = block.heap_bytes() as u64 + ahead.loading;
    let how = Distillation { recipe: &recipe, ahead: ahead.all(settings), engine: &Engine::default() };
    let bytes = distill_bytes(block, how, inputs, &portions).map_err(PlanError::Block)?;
    let staging = Cache::staging_bytes(1, elements);
    let way = |(cut, bytes): (Portions, u64)| Way { cut, bytes: bytes.max(loading), staging };
    Ok(Ways { output, distill: portions.into_iter().zip(bytes).map(way).collect(), advance })
}

/// Looks for kernels in the neighbourhoods that a run does not distil.
fn see_others<R: ReadAt>(
    teacher: &mut Pack<R>,
    visited: &[Visited],
    unseen: &mut Vec<&str>,
) -> Result<(), PlanError<R::Error>> {
    for position in 0..teacher.blocks() {
        let is_distilled = visited.iter().any(|here| here.position == position && here.number.is_some());
        if !is_distilled && teacher.outline(position).map_err(PlanError::Teacher)?.role == Role::Neighbourhood {
            let block = teacher.block(position).map_err(PlanError::Teacher)?;
            unseen.retain(|name| !kernels(&block).any(|kernel| kernel == *name));
        }
    }
    Ok(())
}

/// The names of the kernels that weights may be removed from.
fn kernels(block: &Block) -> impl Iterator<Item = &str> {
    prunable(block).filter_map(|node| Some(block.weight(node, 0)?.name.as_str()))
}

/// A block that the run visits.
struct Visited {
    position: usize,
    /// Number among the neighbourhoods, if it is distilled.
    number: Option<usize>,
    outline: Outline,
}

/// Every block that the run visits, in order.
fn visited_blocks<R: ReadAt>(
    teacher: &mut Pack<R>,
    settings: &Settings,
    kind: SourceKind,
) -> Result<Vec<Visited>, PlanError<R::Error>> {
    if teacher.manifest().contents != Contents::Network {
        return Err(PlanError::Teacher(PackError::WrongContents));
    }
    let mut visited = Vec::with_capacity(teacher.blocks());
    let (mut blocks, mut without_statistics, mut any_statistics) = (0, None, false);
    for position in 0..teacher.blocks() {
        let outline = teacher.outline(position).map_err(PlanError::Teacher)?;
        any_statistics |= outline.has_statistics;
        let number = (outline.role == Role::Neighbourhood).then_some(blocks);
        if number.is_some() {
            blocks += 1;
            if !outline.has_statistics {
                without_statistics.get_or_insert_with(|| (blocks - 1, outline.name.clone()));
            }
        }
        let number = number.filter(|n| settings.blocks.is_empty() || settings.blocks.contains(n));
        visited.push(Visited { position, number, outline });
    }
    // Nothing reads what the last neighbourhood gives, such as the classes of fully connected layers.
    let spreads = |&(number, _): &(usize, _)| number + 1 < blocks || !any_statistics;
    if let Some((_, block)) = without_statistics.filter(spreads).filter(|_| kind == SourceKind::Propagated) {
        return Err(PlanError::NoStatistics { block });
    }
    if let Some(&index) = settings.blocks.iter().find(|&&index| index >= blocks) {
        return Err(PlanError::NoSuchBlock { index, blocks });
    }
    let named = |name: &String| {
        visited.iter().any(|visited| visited.outline.role == Role::Neighbourhood && visited.outline.name == *name)
    };
    if let Some((name, _)) = settings.widths.iter().find(|(name, _)| !named(name)) {
        return Err(PlanError::NoSuchName { name: name.clone() });
    }
    let last = visited.iter().rposition(|visited| visited.number.is_some());
    visited.truncate(last.map_or(0, |last| last + 1));
    visited.retain(|visited| visited.number.is_some() || kind.is_cached());
    Ok(visited)
}

impl BlockPlan {
    /// Inputs per portion of a gradient step or, without steps, of a solve.
    pub fn micro_batch(&self, settings: &Settings) -> usize {
        match settings.recipe.training {
            Training { steps: 0, .. } => self.portions.solving,
            Training { batch, .. } => self.portions.training.min(batch),
        }
    }
}

impl Plan {
    /// Idle threads, summed over the blocks.
    fn idle_threads(&self) -> usize {
        self.blocks.iter().map(|block| threads().saturating_sub(block.portions.workers)).sum()
    }
}

/// A candidate plan with its cache in one of the possible places.
struct Draft {
    plan: Plan,
    /// Bytes in use during the whole run.
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

    /// Adds a block with the fastest ways that fit the budget, or the leanest if none fits.
    fn add(&mut self, visited: &Visited, ways: &Ways, budget: u64) {
        let in_storage = self.plan.cache.is_some_and(|cache| cache.in_storage);
        let distill = Choice::of(&ways.distill, self.kept, in_storage, budget);
        let advance = Choice::of(&ways.advance, self.kept, in_storage, budget);
        let smallest = distill.smallest.max(advance.smallest);
        let block = BlockPlan {
            position: visited.position,
            name: visited.outline.name.clone(),
            number: visited.number,
            portions: distill.cut.unwrap_or_default(),
            arenas: advance.cut.unwrap_or(usize::MAX),
            bytes: distill.bytes.max(advance.bytes),
        };
        if smallest > self.smallest {
            (self.smallest, self.largest) = (smallest, block.name.clone());
        }
        self.plan.bytes = self.plan.bytes.max(block.bytes);
        self.plan.blocks.push(block);
    }
}

/// The chosen way.
struct Choice<C> {
    /// `None` if there is nothing to do.
    cut: Option<C>,
    bytes: u64,
    /// Bytes of the leanest way.
    smallest: u64,
}

impl<C: Copy> Choice<C> {
    fn of(ways: &[Way<C>], kept: u64, in_storage: bool, budget: u64) -> Self {
        let total = |way: &Way<C>| way.total(kept, in_storage);
        let way = ways.iter().find(|way| total(way) <= budget).or(ways.last());
        let smallest = ways.last().map_or(kept, total);
        Self { cut: way.map(|way| way.cut), bytes: way.map_or(kept, total), smallest }
    }
}

/// Formats a number of bytes as KiB or MiB, rounded up.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        match self.0 {
            bytes if bytes.is_multiple_of(MIB) || bytes > 100 * MIB => write!(f, "{} MiB", bytes.div_ceil(MIB)),
            bytes => write!(f, "{} KiB", bytes.div_ceil(1 << 10)),
        }
    }
}

impl<R: fmt::Display> fmt::Display for PlanError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(error) => write!(f, "{error}"),
            Self::Teacher(error) => write!(f, "cannot read the teacher pack: {error}"),
            Self::NoSuchBlock { index, blocks } => {
                write!(f, "there is no block {index}: the teacher has {blocks}, numbered from 0")
            }
            Self::NoSuchLayer { name } => write!(
                f,
                "a sparsity is given for {name}, which is no kernel of an ordinary convolution between stem and head"
            ),
            Self::NoSuchName { name } => {
                write!(f, "a width is given for neighbourhood {name}, which does not exist")
            }
            Self::NoStatistics { block } => {
                write!(f, "block {block} has no batch-norm statistics, which propagated noise needs")
            }
            Self::TooFewImages { images: 0, .. } => write!(f, "the source has no images"),
            Self::TooFewImages { images, held_out } => {
                write!(f, "the source has {images} images, but {held_out} are held out to measure on")
            }
            Self::Misfit { block, takes, given } => {
                write!(f, "block {block} has input shape {takes}, but the block before it has output shape {given}")
            }
            Self::Budget { budget, smallest, block } => {
                let (budget, smallest) = (Size(*budget), Size(*smallest));
                write!(f, "a budget of {budget} is too small: block {block} needs at least {smallest}")
            }
            Self::BudgetOfDevice => write!(f, "a budget can only be planned for the CPU"),
            Self::Block(error) => write!(f, "{error}"),
        }
    }
}

impl<R: core::error::Error + 'static> core::error::Error for PlanError<R> {}
