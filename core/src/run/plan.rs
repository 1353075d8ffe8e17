//! How a run stays inside a memory budget, settled before anything large is allocated.
//!
//! What is in memory in each phase of a block is asked from the parts themselves, made from the real block. A [`Plan`] then
//! cuts the work into portions: fewer groups of images at a time, gradients accumulated over parts of a batch, the boundary
//! cache in a storage. The student is the same to the bit in any budget.
//!
//! Planning reads each block's weights, so it takes some memory itself: less than the leanest run over the same block.
//! Sizes are 64 bits wide, because a device of 32 bits must be able to say that it is asked for more than it can address.

mod bytes;
mod closed_form;
mod needs;

use alloc::{string::String, vec::Vec};
use core::fmt;

use half::f16;

use self::needs::Way;
use crate::{
    block::{BlockError, Role},
    engine::{Device, Portions},
    kernels::{parallel::threads, plane::LANES},
    noise::{MEASURED_INPUTS, NOISE_BATCH, VALIDATED_INPUTS},
    pack::{Contents, Outline, Pack, PackError},
    recipe::{Noise, Training},
    run::{BlockReport, Settings, SettingsError},
    storage::ReadAt,
    tensor::Shape,
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
    /// A width is given for a neighbourhood that is not there.
    NoSuchName {
        /// The name.
        name: String,
    },
    /// Propagated noise needs batch-norm statistics in every neighbourhood.
    NoStatistics {
        /// The first neighbourhood without.
        block: String,
    },
    /// The pack holds no calibrated noise images, or too few.
    NotCalibrated,
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
    /// A look-ahead is for the CPU, and what it takes is not planned.
    LookAhead,
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
    if settings.look_ahead > 0 && (budget != u64::MAX || !matches!(device, Device::Cpu)) {
        return Err(PlanError::LookAhead);
    }
    let passed = passed_blocks(teacher, settings)?;
    if settings.noise == Noise::Calibrated {
        let stored = teacher.calibrated().ok_or(PlanError::NotCalibrated)?;
        if stored.images as usize <= settings.held_out() {
            return Err(PlanError::NotCalibrated);
        }
    }
    // Whole batches, so that held-out images share no statistics with the others.
    let images = settings.images.next_multiple_of(NOISE_BATCH) + settings.held_out();
    let images = if settings.sequential { 2 * images } else { images };
    let elements = passed.iter().map(|passed| passed.outline.input.elements()).max().unwrap_or(0);
    let in_memory = CachePlan { images, elements, in_storage: false };
    let in_storage = CachePlan { in_storage: true, ..in_memory };
    let caches: &[Option<CachePlan>] = match settings.noise {
        Noise::Standard => &[None],
        _ if storage => &[Some(in_memory), Some(in_storage)],
        _ => &[Some(in_memory)],
    };
    let names: usize = passed.iter().map(|passed| passed.outline.name.len()).sum();
    let lines = BYTES_PER_BLOCK * teacher.blocks() + NAMES_PER_BLOCK * names;
    let fixed = settings.budget.used + (SMALL_BYTES + THREAD_BYTES * threads() + lines) as u64;
    let mut drafts: Vec<Draft> = caches.iter().map(|&cache| Draft::new(cache, fixed, passed.len())).collect();
    let mut given = None;
    for (place, here) in passed.iter().enumerate() {
        let block = teacher.block(here.position).map_err(PlanError::Teacher)?;
        if settings.noise.is_cached() {
            if let Some(given) = given.filter(|&given| given != block.input()) {
                return Err(PlanError::Misfit { block: block.name().into(), takes: block.input(), given });
            }
            given = Some(block.output());
        }
        let advanced = settings.noise.is_cached() && place + 1 < passed.len();
        let to_advance = match advanced {
            true => needs::advance(&block, here.number.is_some(), settings).map_err(PlanError::Block)?,
            false => Vec::new(),
        };
        let to_distil = match here.number {
            Some(_) => needs::distil(block, settings).map_err(PlanError::Block)?,
            None => Vec::new(),
        };
        drafts.iter_mut().for_each(|draft| draft.add(here, [&to_distil, &to_advance], budget));
    }
    let (fitting, refused): (Vec<Draft>, Vec<Draft>) = drafts.into_iter().partition(|draft| draft.smallest <= budget);
    // Of equally fast ones the first, with the cache in memory.
    if let Some(draft) = fitting.into_iter().min_by_key(|draft| draft.plan.idle_threads()) {
        return Ok(draft.plan);
    }
    let leanest = refused.into_iter().min_by_key(|draft| draft.smallest);
    let (smallest, block) = leanest.map(|draft| (draft.smallest, draft.largest)).unwrap_or_default();
    Err(PlanError::Budget { budget, smallest, block })
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
    let named = |name: &String| {
        passed.iter().any(|passed| passed.outline.role == Role::Neighbourhood && passed.outline.name == *name)
    };
    if let Some((name, _)) = settings.widths.iter().find(|(name, _)| !named(name)) {
        return Err(PlanError::NoSuchName { name: name.clone() });
    }
    let last = passed.iter().rposition(|passed| passed.number.is_some());
    passed.truncate(last.map_or(0, |last| last + 1));
    passed.retain(|passed| passed.number.is_some() || settings.noise.is_cached());
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

    /// Takes the fastest ways to distil a block and to pass it that the budget has room for.
    fn add(&mut self, passed: &Passed, ways: [&[Way]; 2], budget: u64) {
        let in_storage = self.plan.cache.is_some_and(|cache| cache.in_storage);
        let bytes = |way: &Way| self.kept + if in_storage { way.with_staging } else { way.bytes };
        // The leanest where none has room.
        let best = |ways: &[Way]| {
            let way = ways.iter().find(|way| bytes(way) <= budget).or(ways.last());
            way.map_or((Portions::default(), self.kept), |way| (way.portions, bytes(way)))
        };
        let [(portions, to_distil), (passing, to_advance)] = ways.map(best);
        let smallest = ways.into_iter().filter_map(|ways| ways.last()).map(bytes).max().unwrap_or(self.kept);
        let block = BlockPlan {
            position: passed.position,
            name: passed.outline.name.clone(),
            number: passed.number,
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

impl<R: fmt::Display> fmt::Display for PlanError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(error) => write!(f, "{error}"),
            Self::Teacher(error) => write!(f, "cannot read the teacher pack: {error}"),
            Self::NoSuchBlock { index, blocks } => {
                write!(f, "there is no block {index}: the teacher has {blocks}, numbered from 0")
            }
            Self::NoSuchName { name } => {
                write!(f, "there is no neighbourhood {name} to give a width: `distill inspect` lists the names")
            }
            Self::NoStatistics { block } => {
                write!(
                    f,
                    "block {block} has no batch-norm statistics, which propagated noise needs: take standard noise (--noise standard)"
                )
            }
            Self::NotCalibrated => {
                write!(
                    f,
                    "the teacher pack holds no calibrated noise, or no more than the {MEASURED_INPUTS} images that are held out ({} with --stop): make \
                     it with `distill calibrate`, or take another --noise",
                    MEASURED_INPUTS + VALIDATED_INPUTS
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
            Self::LookAhead => write!(f, "a look-ahead is for the cpu without a budget: leave it out, or those"),
            Self::Block(error) => write!(f, "{error}"),
        }
    }
}

impl<R: core::error::Error + 'static> core::error::Error for PlanError<R> {}
