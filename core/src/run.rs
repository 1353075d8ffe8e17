//! The device's whole job: teacher pack in, student pack out, one block in memory at a time.
//!
//! For each block of the teacher in order: load it, distil it if it is a chosen neighbourhood,
//! append its student to the pack, push the cached inputs through the *teacher's* block (in a sequential run those behind them
//! through the student's, too), drop it. Peak memory does not grow with depth.

mod distill;
mod plan;
mod report;
mod settings;

use alloc::{boxed::Box, string::String, vec, vec::Vec};
use core::fmt;

use crate::{
    block::{Block, BlockError, Statistics},
    engine::{Device, DeviceBlock, DistillError, Portions},
    kernels::plane::LANES,
    noise::{Boundary, Cache, Inputs, NOISE_BATCH, Purpose, Source, Stream, Variant},
    pack::{Contents, Encoding, Manifest, Pack, PackError, PackWriter},
    recipe::Noise,
    storage::{ReadAt, Scratch, ScratchError, WriteAt},
    student::fold_batch_norms,
};

pub use self::{
    distill::{Distilled, distill, measure},
    plan::{BlockPlan, CachePlan, Plan, PlanError, plan},
    report::BlockReport,
    settings::{Budget, MAX_INPUTS, Settings, SettingsError},
};

/// What a run is doing, for progress bars and clocks.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The run is planned, and about to begin.
    Planned(&'a Plan),
    /// A neighbourhood is about to be distilled.
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
    /// A neighbourhood is distilled and written, as planned.
    Finished(&'a BlockReport, &'a BlockPlan),
}

/// Why a run failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError<R, W> {
    /// It was not begun.
    Plan(PlanError<R>),
    /// The teacher pack.
    Teacher(PackError<R>),
    /// The student pack.
    Student(PackError<W>),
    /// The storage of the cached activations.
    Cache(ScratchError),
    /// A student's weights or outputs are not finite numbers.
    Diverged {
        /// The block's name.
        block: String,
    },
    /// A block did not transform.
    Block(BlockError),
}

/// [`RunError`] with the errors of a teacher's storage and a student's.
pub type RunFailure<R, W> = RunError<<R as ReadAt>::Error, <W as ReadAt>::Error>;

/// Distils the chosen neighbourhoods of `teacher` into a student pack.
///
/// After each block the student's storage holds a checkpoint: a run that was cut off goes on from there when it is given the
/// same storage again, and ends in the same bytes. With empty storage it begins. `cache` is where cached activations
/// lie if the budget has no room for them.
///
/// # Errors
/// [`RunError`]; the student's storage then holds no valid pack, but the blocks that are done.
pub fn run<R: ReadAt, W: WriteAt>(
    teacher: &mut Pack<R>,
    student: W,
    cache: Option<Box<dyn Scratch>>,
    settings: &Settings,
    device: &Device,
    mut observe: impl FnMut(Event<'_>),
) -> Result<(Vec<BlockReport>, W), RunFailure<R, W>> {
    let plan = plan(teacher, settings, device, cache.is_some()).map_err(RunError::Plan)?;
    observe(Event::Planned(&plan));
    let manifest = Manifest {
        contents: Contents::Neighbourhoods { teacher: teacher.fingerprint() },
        ..teacher.manifest().clone()
    };
    let positions: Vec<usize> = plan.blocks.iter().filter(|b| b.number.is_some()).map(|b| b.position).collect();
    let total = positions.len();
    let network = (teacher.fingerprint(), teacher.noise_checksum());
    let made_by = (settings, network, device.name(), LANES as u32, env!("CARGO_PKG_VERSION"));
    let job = postcard::to_allocvec(&made_by).map_or(0, |bytes| crc32fast::hash(&bytes));
    let mut writer = PackWriter::resume(student, &manifest, &positions, job).map_err(RunError::Student)?;
    drop(manifest);
    let mut reports: Vec<BlockReport> = Vec::with_capacity(total);
    let mut boundary = start_boundary(teacher, cache, settings, &plan)?;
    for (place, planned) in plan.blocks.iter().enumerate() {
        let BlockPlan { position, number, portions, arenas, .. } = planned;
        if let Some(index) = *number {
            let block = teacher.block(*position).map_err(RunError::Teacher)?;
            observe(Event::Started { index, total, name: block.name() });
            let source = match &mut boundary {
                Some(boundary) => {
                    Source::Cached { boundary, held_out: settings.held_out(), paired: settings.sequential }
                }
                None => Source::Fresh(block.input()),
            };
            let mut inputs = Inputs::new(source, settings.seed, index);
            let mut report = BlockReport::new(index, &block);
            let on = (device, *portions);
            let distilled = if reports.len() < writer.blocks() {
                // One of the two in memory at a time: the student after its teacher's program is made.
                let folded = fold_batch_norms(&block);
                drop(block);
                let target = folded.map(|folded| DeviceBlock::new(&folded, device));
                let student = writer.block(reports.len()).map_err(RunError::Student)?;
                target.map_err(DistillError::Block).and_then(|target| measured(&target, student, &mut inputs, on))
            } else {
                let step = |step, loss| observe(Event::Stepped { step, loss });
                let recipe = settings.recipe_of(block.name());
                let ahead = ahead(teacher, *position, settings.look_ahead)?;
                distill(block, &ahead, &mut inputs, &recipe, on, step)
            };
            let distilled = match distilled {
                Ok(distilled) if distilled.relative_error.is_finite() => distilled,
                Ok(_) | Err(DistillError::Block(BlockError::WeightValue { .. })) => {
                    return Err(RunError::Diverged { block: report.name });
                }
                Err(DistillError::Block(error)) => return Err(RunError::Block(error)),
                Err(DistillError::Inputs(error)) => return Err(RunError::Cache(error)),
            };
            if reports.len() == writer.blocks() {
                writer.add(*position, &distilled.block, Encoding::F32).map_err(RunError::Student)?;
                writer.checkpoint().map_err(RunError::Student)?;
            }
            report.parameters = distilled.block.parameters();
            report.macs = distilled.block.macs();
            (report.relative_error, report.loss) = (distilled.relative_error, distilled.loss);
            reports.push(report);
            observe(Event::Finished(&reports[reports.len() - 1], planned));
        }
        if let Some(boundary) = boundary.as_mut().filter(|_| place + 1 < plan.blocks.len()) {
            // With running statistics in the students' form: a student that is its teacher then makes the same to the bit.
            let block = match settings.noise.statistics() {
                Statistics::Running => folded(teacher, *position)?,
                Statistics::Current => teacher.block(*position).map_err(RunError::Teacher)?,
            };
            let mut passes = vec![(0..boundary.len(), DeviceBlock::new(&block, device))];
            drop(block);
            if settings.sequential {
                let student = match *number {
                    Some(_) => writer.block(reports.len() - 1).map_err(RunError::Student)?,
                    None => folded(teacher, *position)?,
                };
                let half = boundary.len() / 2;
                passes[0].0 = 0..half;
                passes.push((half..2 * half, DeviceBlock::new(&student, device)));
            }
            boundary.advance(passes, settings.noise.statistics(), *arenas).map_err(RunError::Cache)?;
        }
    }
    let storage = writer.finish().map_err(RunError::Student)?;
    Ok((reports, storage))
}

/// The teacher's block at `position`, without batch norms.
fn folded<R: ReadAt, W>(teacher: &mut Pack<R>, position: usize) -> Result<Block, RunError<R::Error, W>> {
    fold_batch_norms(&teacher.block(position).map_err(RunError::Teacher)?).map_err(RunError::Block)
}

/// Its blocks behind the one at `position`, at most `count`.
fn ahead<R: ReadAt, W>(
    teacher: &mut Pack<R>,
    position: usize,
    count: usize,
) -> Result<Vec<Block>, RunError<R::Error, W>> {
    let behind = position + 1..teacher.blocks().min(position + 1 + count);
    behind.map(|position| folded(teacher, position)).collect()
}

/// Inputs an image from which on its variants are told of.
const FEW: usize = 4;

/// Noise images at the network's input, where the noise has any.
fn start_boundary<R: ReadAt, W>(
    teacher: &mut Pack<R>,
    storage: Option<Box<dyn Scratch>>,
    settings: &Settings,
    plan: &Plan,
) -> Result<Option<Boundary>, RunError<R::Error, W>> {
    let Some((planned, first)) = plan.cache.zip(plan.blocks.first()) else { return Ok(None) };
    let shape = teacher.outline(first.position).map_err(RunError::Teacher)?.input;
    let cache = match storage.filter(|_| planned.in_storage) {
        Some(storage) => Cache::Storage(storage),
        None => Cache::Memory(Vec::with_capacity(planned.images * planned.elements)),
    };
    let mut stream = Stream::new(settings.seed, Purpose::Images, 0);
    // Teacher and student begin with the same images.
    let images = if settings.sequential { planned.images / 2 } else { planned.images };
    let mut boundary = Boundary::new(cache, shape, [planned.images, NOISE_BATCH]);
    if settings.noise == Noise::Calibrated {
        put_calibrated(teacher, &mut boundary, [images, settings.held_out()], &mut stream)?;
    } else {
        boundary.put_noise(images, &mut stream).map_err(RunError::Cache)?;
    }
    if settings.sequential {
        boundary.repeat(images).map_err(RunError::Cache)?;
    }
    Ok(Some(boundary))
}

/// Puts the teacher's calibrated images into the first `images` places, and variants of them as far as they do not fill those. The last of
/// them come last, to measure on, without variants.
fn put_calibrated<R: ReadAt, W>(
    teacher: &mut Pack<R>,
    boundary: &mut Boundary,
    [images, held_out]: [usize; 2],
    stream: &mut Stream,
) -> Result<(), RunError<R::Error, W>> {
    let (shape, pixels) = (boundary.shape(), teacher.manifest().pixels());
    let stored = teacher.calibrated().map_or(0, |calibrated| calibrated.images as usize);
    let (trained, originals) = (images - held_out, stored - held_out);
    if originals < trained / FEW {
        log::warn!("only {originals} calibrated images for {trained} inputs: `distill calibrate` makes more");
    }
    let [mut values, mut other] = [(); 2].map(|()| vec![0.0; shape.elements()]);
    let mut put = Ok(());
    let show = |index: usize, image: &[u8]| {
        let place =
            if index < originals { Some(index).filter(|&i| i < trained) } else { Some(index - originals + trained) };
        if let Some(place) = place.filter(|_| put.is_ok()) {
            pixels.values(image, shape, &mut values);
            put = boundary.put(place, &values);
        }
    };
    teacher.each_noise_image(show).map_err(RunError::Teacher)?;
    let vary = || -> Result<(), ScratchError> {
        put?;
        let mut varied = Vec::with_capacity(shape.elements());
        for image in originals..trained {
            boundary.get(image % originals, &mut values)?;
            boundary.get(stream.below(originals), &mut other)?;
            Variant::draw(stream, shape).of(&values, &other, shape, &mut varied);
            boundary.put(image, &varied)?;
        }
        Ok(())
    };
    vary().map_err(RunError::Cache)
}

/// A student that an earlier run finished.
fn measured(
    target: &DeviceBlock,
    student: Block,
    inputs: &mut Inputs<'_>,
    (device, portions): (&Device, Portions),
) -> Result<Distilled, DistillError> {
    let (relative_error, loss) = measure(target, &DeviceBlock::new(&student, device), inputs, portions)?;
    Ok(Distilled { block: student, relative_error, loss })
}

impl<R: fmt::Display, W: fmt::Display> fmt::Display for RunError<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(error) => write!(f, "{error}"),
            Self::Teacher(error) => write!(f, "cannot read the teacher pack: {error}"),
            Self::Student(error) => write!(f, "cannot write the student pack: {error}"),
            Self::Cache(error) => write!(f, "cannot use the cache of activations: {error}"),
            Self::Diverged { block } => {
                write!(
                    f,
                    "the student of block {block} is not finite: take a lower learning rate, or check the teacher"
                )
            }
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
