//! The whole job of a device: teacher pack in, student pack out, one block in memory at a time.
//!
//! For each block of the teacher in order: load it, distil it if it is a chosen neighbourhood, append its student to
//! the pack, propagate the cached inputs through the *teacher's* block (in a sequential run the students' inputs
//! through the student's block, too), and drop it. Peak memory does not grow with depth.

mod advance;
mod distill;
mod plan;
mod report;
mod settings;

use alloc::{boxed::Box, string::String, vec::Vec};
use core::fmt;

use self::{
    advance::advance,
    distill::{measure, undoes_steps},
};
pub use self::{
    distill::{Distillation, Distilled, distill},
    plan::{BlockPlan, CachePlan, Plan, PlanError, plan},
    report::BlockReport,
    settings::{Budget, MAX_INPUTS, Settings, SettingsError},
};
use crate::{
    block::{Block, BlockError, Statistics},
    engine::{Device, DeviceBlock, DistillError, Engine},
    inputs::{Cache, Draw, Inputs, InputsFrom, Side, Source, Store},
    kernels::plane::LANES,
    pack::{Contents, Encoding, Manifest, Pack, PackError, PackWriter},
    storage::{ReadAt, Scratch, ScratchError, WriteAt},
    student::fold_batch_norms,
    train::LookAhead,
};

/// Everything that a run works with.
#[derive(Debug)]
pub struct Run<'a, R> {
    /// The teacher's pack.
    pub teacher: &'a mut Pack<R>,
    /// The source of the inputs.
    pub source: &'a mut dyn Source,
    /// Storage for cached activations that do not fit the budget.
    pub scratch: Option<Box<dyn Scratch>>,
    /// The settings.
    pub settings: &'a Settings,
    /// The compute device.
    pub device: &'a Device,
}

/// The progress of a run, for progress bars and timers.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The plan is ready; the run starts next.
    Planned(&'a Plan),
    /// An earlier run of the same had finished some neighbourhoods.
    Resumed {
        /// How many.
        blocks: usize,
    },
    /// The distillation of a neighbourhood starts.
    Started {
        /// Its number.
        index: usize,
        /// Neighbourhoods this run distils.
        total: usize,
        /// Its name.
        name: &'a str,
    },
    /// A gradient step is done.
    Stepped {
        /// Its number, from 1.
        step: usize,
        /// Its loss.
        loss: f32,
    },
    /// A neighbourhood is distilled and written; its report and plan.
    Finished(&'a BlockReport, &'a BlockPlan),
}

/// Why a run failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError<R, W> {
    /// The run cannot be planned.
    Plan(PlanError<R>),
    /// The teacher pack.
    Teacher(PackError<R>),
    /// The student pack.
    Student(PackError<W>),
    /// The source of the inputs, or the storage that they are cached in.
    Source(ScratchError),
    /// The storage of the cached activations.
    Cache(ScratchError),
    /// The outputs of a teacher's block or of its student are infinite or NaN.
    Diverged {
        /// The block's name.
        block: String,
    },
    /// A student is no closer to its teacher's block than an output of zeros would be.
    Useless(DistillError),
    /// A transformation of a block failed.
    Block(BlockError),
}

/// [`RunError`] with the errors of the teacher's and the student's storage.
pub type RunFailure<R, W> = RunError<<R as ReadAt>::Error, <W as ReadAt>::Error>;

impl<R, W> From<DistillError> for RunError<R, W> {
    fn from(error: DistillError) -> Self {
        match error {
            DistillError::Diverged { block } => Self::Diverged { block },
            useless @ (DistillError::Useless { .. } | DistillError::Worse { .. }) => Self::Useless(useless),
            DistillError::Block(error) => Self::Block(error),
            DistillError::Inputs(error) => Self::Cache(error),
        }
    }
}

impl<R, W> From<ScratchError> for RunError<R, W> {
    fn from(error: ScratchError) -> Self {
        Self::Cache(error)
    }
}

impl<R, W> From<BlockError> for RunError<R, W> {
    fn from(error: BlockError) -> Self {
        Self::Block(error)
    }
}

/// Distils the chosen neighbourhoods of a teacher into a student pack.
///
/// After each block the student's storage holds a checkpoint: a run that was interrupted resumes there if it is given
/// the same storage, and produces the same bytes. With empty storage it starts from the beginning.
///
/// # Errors
/// [`RunError`]; the student's storage then holds the finished blocks, but not a valid pack.
pub fn run<R: ReadAt, W: WriteAt>(
    mut run: Run<'_, R>,
    student: W,
    mut observe: impl FnMut(Event<'_>),
) -> Result<(Vec<BlockReport>, W), RunFailure<R, W>> {
    let plan = plan(&mut run).map_err(RunError::Plan)?;
    observe(Event::Planned(&plan));
    let Run { teacher, source, scratch, settings, device } = run;
    let (kind, job) = (source.kind(), job(teacher, source, settings, device));
    let positions: Vec<usize> = plan.blocks.iter().filter(|b| b.number.is_some()).map(|b| b.position).collect();
    let mut writer = {
        let contents = Contents::Neighbourhoods { teacher: teacher.fingerprint() };
        // A teacher may be a student itself.
        let made_from = teacher.manifest().made_from.max(Some(kind));
        let manifest = Manifest { contents, made_from, ..teacher.manifest().clone() };
        PackWriter::resume(student, &manifest, &positions, job).map_err(RunError::Student)?
    };
    if writer.blocks() > 0 {
        observe(Event::Resumed { blocks: writer.blocks() });
    }
    let mut reports: Vec<BlockReport> = Vec::with_capacity(positions.len());
    let mut cache = start_cache(teacher, source, scratch, settings, &plan)?;
    for (place, planned) in plan.blocks.iter().enumerate() {
        if let Some(index) = planned.number {
            let block = teacher.block(planned.position).map_err(RunError::Teacher)?;
            observe(Event::Started { index, total: positions.len(), name: block.name() });
            let from = match &mut cache {
                Some(cache) => InputsFrom::Cached { cache, held_out: settings.held_out() },
                None => InputsFrom::Fresh(block.input()),
            };
            let inputs = Inputs::new(from, settings.seed, index);
            let mut report = BlockReport::new(index, &block);
            let engine = Engine { device: device.clone(), portions: planned.portions };
            let distilled = if reports.len() < writer.blocks() {
                measure_again(block, inputs, &engine, || writer.block(reports.len()).map_err(RunError::Student))?
            } else {
                let ahead = Ahead::load(teacher, &block, planned.position, settings).map_err(RunError::Teacher)?;
                if settings.look_ahead > 0 && !block.parts().is_empty() {
                    log::warn!("{}: look-ahead is not used for neighbourhoods inside the block", block.name());
                }
                let recipe = settings.recipe_of(block.name());
                let how = Distillation { recipe: &recipe, ahead: ahead.all(settings), engine: &engine };
                let mut inputs = inputs;
                let step = |step, loss| observe(Event::Stepped { step, loss });
                let distilled = match distill(block, how, &mut inputs, step) {
                    Err(error) if undoes_steps(&error, &recipe) => {
                        let how = Distillation { recipe: &recipe.without_steps(), ahead: LookAhead::NONE, ..how };
                        distill(
                            teacher.block(planned.position).map_err(RunError::Teacher)?,
                            how,
                            &mut inputs,
                            |_, _| {},
                        )?
                    }
                    distilled => distilled?,
                };
                writer.add(planned.position, &distilled.block, Encoding::F32).map_err(RunError::Student)?;
                writer.checkpoint().map_err(RunError::Student)?;
                distilled
            };
            report.finish(&distilled);
            reports.push(report);
            observe(Event::Finished(&reports[reports.len() - 1], planned));
        }
        if let Some(cache) = cache.as_mut().filter(|_| place + 1 < plan.blocks.len()) {
            // With running statistics fold the teacher, too: a student equal to it then has bit-identical outputs.
            let load = |side| match (side, planned.number, kind.statistics()) {
                (Side::Student, Some(_), _) => writer.block(reports.len() - 1).map_err(RunError::Student),
                (Side::Teacher, _, Statistics::Current) => teacher.block(planned.position).map_err(RunError::Teacher),
                _ => folded(teacher, planned.position).map_err(RunError::Teacher),
            };
            advance(cache, kind.statistics(), planned.arenas, device, load)?;
        }
    }
    Ok((reports, writer.finish().map_err(RunError::Student)?))
}

/// A checksum of everything that determines the students' bytes.
fn job<R: ReadAt>(teacher: &Pack<R>, source: &dyn Source, settings: &Settings, device: &Device) -> u32 {
    let inputs = (source.kind(), source.checksum());
    let made_by = (settings, teacher.fingerprint(), inputs, device.name(), LANES as u32, env!("CARGO_PKG_VERSION"));
    postcard::to_allocvec(&made_by).map_or(0, |bytes| crc32fast::hash(&bytes))
}

/// Measures a student that an earlier run finished.
fn measure_again<R, W>(
    block: Block,
    mut inputs: Inputs<'_>,
    engine: &Engine,
    load: impl FnOnce() -> Result<Block, RunError<R, W>>,
) -> Result<Distilled, RunError<R, W>> {
    let folded = fold_batch_norms(&block)?;
    let ends = (block.input(), block.output());
    drop(block);
    let target = DeviceBlock::new(&folded, &engine.device);
    // Load the student only now: only one of the two blocks is in memory at a time.
    drop(folded);
    let student = load()?;
    if (student.input(), student.output()) != ends {
        return Err(RunError::Student(PackError::OtherJob));
    }
    Ok(measure(&target, student, &mut inputs, engine)?)
}

/// The teacher's block at `position`, without batch norms.
fn folded<R: ReadAt>(teacher: &mut Pack<R>, position: usize) -> Result<Block, PackError<R::Error>> {
    fold_batch_norms(&teacher.block(position)?).map_err(PackError::Block)
}

/// The teacher's next blocks, for a look-ahead.
struct Ahead {
    /// Without batch norms.
    blocks: Vec<Block>,
    /// Peak heap bytes while loading.
    loading: u64,
}

impl Ahead {
    /// The blocks, and the weight of each.
    fn all<'a>(&'a self, settings: &'a Settings) -> LookAhead<'a> {
        LookAhead { blocks: &self.blocks, alpha: &settings.alpha }
    }

    /// Loads the blocks after `block`, which is at `position`: none if it takes no gradient steps or has parts.
    fn load<R: ReadAt>(
        teacher: &mut Pack<R>,
        block: &Block,
        position: usize,
        settings: &Settings,
    ) -> Result<Self, PackError<R::Error>> {
        let trains = settings.recipe.training.steps > 0 && block.parts().is_empty();
        let count = if trains { settings.look_ahead } else { 0 };
        let (mut ahead, mut held) = (Self { blocks: Vec::with_capacity(count), loading: 0 }, 0);
        for position in position + 1..teacher.blocks().min(position + 1 + count) {
            let block = teacher.block(position)?;
            let folded = fold_batch_norms(&block).map_err(PackError::Block)?;
            ahead.loading = ahead.loading.max(held + (block.heap_bytes() + folded.heap_bytes()) as u64);
            held += folded.heap_bytes() as u64;
            ahead.blocks.push(folded);
        }
        Ok(ahead)
    }
}

/// Creates the cache of images at the network's input; `None` if the source's kind is not cached.
fn start_cache<R: ReadAt, W>(
    teacher: &mut Pack<R>,
    source: &mut dyn Source,
    scratch: Option<Box<dyn Scratch>>,
    settings: &Settings,
    plan: &Plan,
) -> Result<Option<Cache>, RunError<R::Error, W>> {
    let Some((planned, first)) = plan.cache.zip(plan.blocks.first()) else { return Ok(None) };
    let shape = teacher.outline(first.position).map_err(RunError::Teacher)?.input;
    let store = match scratch.filter(|_| planned.in_storage) {
        Some(mut scratch) => {
            scratch.room(planned.bytes())?;
            Store::Storage(scratch)
        }
        None => Store::Memory(Vec::with_capacity(planned.images * planned.elements)),
    };
    let mut cache = Cache::new(store, shape, settings.cache_size());
    let draw = Draw { seed: settings.seed, held_out: settings.held_out() };
    source.fill(&mut cache, draw).map_err(RunError::Source)?;
    cache.copy_to_students()?;
    Ok(Some(cache))
}

impl<R: fmt::Display, W: fmt::Display> fmt::Display for RunError<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(error) => write!(f, "{error}"),
            Self::Teacher(error) => write!(f, "cannot read the teacher pack: {error}"),
            Self::Student(error) => write!(f, "cannot write the student pack: {error}"),
            Self::Cache(error) => write!(f, "cannot use the cache of activations: {error}"),
            Self::Source(error) => write!(f, "cannot fill the cache with inputs: {error}"),
            Self::Diverged { block } => {
                write!(f, "the outputs of block {block} or of its student are not finite: check the teacher")
            }
            Self::Useless(error) => write!(f, "{error}"),
            Self::Block(error) => write!(f, "{error}"),
        }
    }
}

impl<R, W> core::error::Error for RunError<R, W>
where
    R: core::error::Error + 'static,
    W: core::error::Error + 'static,
{
}
