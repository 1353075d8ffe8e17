//! The device's whole job: teacher pack in, student pack out, one block in memory at a time.
//!
//! For each block of the teacher in order: load it, distil it if it is a chosen neighbourhood,
//! append its student to the pack, push the cached inputs through the *teacher's* block, drop it.
//! Peak memory does not grow with depth.

use alloc::{string::String, vec::Vec};
use core::fmt;

use serde::Serialize;

use crate::{
    block::{Block, BlockError, Role, Shape},
    boundary::Boundary,
    device::Device,
    distill::{Distilled, MEASURED_INPUTS, distill},
    forward::DeviceBlock,
    inputs::{Inputs, Source},
    noise::{Noise, Purpose, Stream},
    pack::{Contents, Encoding, Manifest, Pack, PackError, PackWriter},
    settings::{Settings, SettingsError},
    storage::{ReadAt, WriteAt},
};

/// Images that share their current batch statistics: large enough for stable ones.
pub const NOISE_BATCH: usize = 64;

/// What is known of a distilled neighbourhood.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlockReport {
    /// Number among the neighbourhoods, from 0.
    pub index: usize,
    /// The teacher's name for it.
    pub name: String,
    /// Shape of its input.
    pub input: Shape,
    /// Shape of its output.
    pub output: Shape,
    /// Parameters of the teacher's block.
    pub teacher_parameters: usize,
    /// Parameters of the student's.
    pub parameters: usize,
    /// Multiply-accumulates of the teacher's block for one image.
    pub teacher_macs: u64,
    /// Those of the student's.
    pub macs: u64,
    /// `‖S_i(a) − T_i(a)‖ / ‖T_i(a)‖` on held-out inputs.
    pub relative_error: f64,
    /// Mean squared error per element on them.
    pub loss: f64,
}

/// What a run is doing, for progress bars and clocks.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
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
    /// A neighbourhood is distilled and written.
    Finished(&'a BlockReport),
}

/// Why a run failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError<R, W> {
    /// A number that no run can work with.
    Settings(SettingsError),
    /// The teacher pack.
    Teacher(PackError<R>),
    /// The student pack.
    Student(PackError<W>),
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
    /// A student's weights or outputs are not finite numbers.
    Diverged {
        /// The block's name.
        block: String,
    },
    /// A block did not transform.
    Block(BlockError),
}

/// [`RunError`] with the errors of a teacher's storage and a student's.
pub type RunFailure<R, W> = RunError<<R as ReadAt>::Error, <W as WriteAt>::Error>;

/// Distils the chosen neighbourhoods of `teacher` into a student pack.
///
/// # Errors
/// [`RunError`]; the student's storage then holds no valid pack.
pub fn run<R: ReadAt, W: WriteAt>(
    teacher: &mut Pack<R>,
    student: W,
    settings: &Settings,
    device: &Device,
    mut observe: impl FnMut(Event<'_>),
) -> Result<(Vec<BlockReport>, W), RunFailure<R, W>> {
    settings.check().map_err(RunError::Settings)?;
    let chosen = chosen_positions::<R, W>(teacher, settings)?;
    let manifest = Manifest {
        contents: Contents::Neighbourhoods { teacher: teacher.fingerprint() },
        ..teacher.manifest().clone()
    };
    let mut writer = PackWriter::new(student, &manifest, chosen.len()).map_err(RunError::Student)?;
    let mut reports = Vec::with_capacity(chosen.len());
    let mut boundary = None;
    let last = chosen.last().map_or(0, |&(position, _)| position);
    for position in 0..=last {
        let number = chosen.iter().find(|&&(p, _)| p == position).map(|&(_, number)| number);
        if number.is_none() && settings.noise == Noise::Standard {
            continue;
        }
        let block = teacher.block(position).map_err(RunError::Teacher)?;
        if settings.noise == Noise::Propagated && boundary.is_none() {
            let mut stream = Stream::new(settings.seed, Purpose::Images, 0);
            // Whole batches, so that held-out images share no statistics with the others.
            let count = settings.images.next_multiple_of(NOISE_BATCH) + MEASURED_INPUTS;
            boundary = Some(Boundary::noise(&mut stream, block.input(), count, NOISE_BATCH));
        }
        if let Some(given) = boundary.as_ref().map(Boundary::shape).filter(|&given| given != block.input()) {
            return Err(RunError::Misfit { block: block.name().into(), takes: block.input(), given });
        }
        if let Some(index) = number {
            observe(Event::Started { index, total: chosen.len(), name: block.name() });
            let source = match &boundary {
                Some(boundary) => Source::Cached { boundary, held_out: MEASURED_INPUTS },
                None => Source::Fresh(block.input()),
            };
            let inputs = Inputs { source, seed: settings.seed, index };
            let step = |step, loss| observe(Event::Stepped { step, loss });
            let distilled = match distill(&block, &inputs, &settings.recipe, device, step) {
                Ok(distilled) if distilled.relative_error.is_finite() => distilled,
                Ok(_) | Err(BlockError::WeightValue { .. }) => {
                    return Err(RunError::Diverged { block: block.name().into() });
                }
                Err(error) => return Err(RunError::Block(error)),
            };
            writer.add(position, &distilled.block, Encoding::F32).map_err(RunError::Student)?;
            reports.push(report(index, &block, &distilled));
            observe(Event::Finished(&reports[reports.len() - 1]));
        }
        if let Some(boundary) = boundary.as_mut().filter(|_| position < last) {
            boundary.advance(&DeviceBlock::new(&block, device));
        }
    }
    let storage = writer.finish().map_err(RunError::Student)?;
    Ok((reports, storage))
}

/// Position in the network and number of every neighbourhood to distil, ascending.
fn chosen_positions<R: ReadAt, W: WriteAt>(
    teacher: &mut Pack<R>,
    settings: &Settings,
) -> Result<Vec<(usize, usize)>, RunFailure<R, W>> {
    if teacher.manifest().contents != Contents::Network {
        return Err(RunError::Teacher(PackError::WrongContents));
    }
    let mut neighbourhoods = Vec::new();
    let mut without_statistics = None;
    for position in 0..teacher.blocks() {
        let outline = teacher.outline(position).map_err(RunError::Teacher)?;
        if outline.role == Role::Neighbourhood {
            neighbourhoods.push((position, neighbourhoods.len()));
            if !outline.has_statistics {
                without_statistics.get_or_insert(outline.name);
            }
        }
    }
    if let Some(block) = without_statistics.filter(|_| settings.noise == Noise::Propagated) {
        return Err(RunError::NoStatistics { block });
    }
    if let Some(&index) = settings.blocks.iter().find(|&&index| index >= neighbourhoods.len()) {
        return Err(RunError::NoSuchBlock { index, blocks: neighbourhoods.len() });
    }
    if !settings.blocks.is_empty() {
        neighbourhoods.retain(|(_, number)| settings.blocks.contains(number));
    }
    Ok(neighbourhoods)
}

fn report(index: usize, teacher: &Block, distilled: &Distilled) -> BlockReport {
    BlockReport {
        index,
        name: teacher.name().into(),
        input: teacher.input(),
        output: teacher.output(),
        teacher_parameters: teacher.parameters(),
        parameters: distilled.block.parameters(),
        teacher_macs: teacher.macs(),
        macs: distilled.block.macs(),
        relative_error: distilled.relative_error,
        loss: distilled.loss,
    }
}

impl<R: fmt::Display, W: fmt::Display> fmt::Display for RunError<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(error) => write!(f, "{error}"),
            Self::Teacher(error) => write!(f, "cannot read the teacher pack: {error}"),
            Self::Student(error) => write!(f, "cannot write the student pack: {error}"),
            Self::NoSuchBlock { index, blocks } => {
                write!(f, "there is no block {index}: the teacher has {blocks}, numbered from 0")
            }
            Self::NoStatistics { block } => {
                write!(
                    f,
                    "block {block} has no batch-norm statistics, which propagated noise needs: use standard noise"
                )
            }
            Self::Diverged { block } => {
                write!(
                    f,
                    "the student of block {block} is not finite: take a lower learning rate, or check the teacher"
                )
            }
            Self::Misfit { block, takes, given } => {
                write!(f, "block {block} takes {takes}, but the block before it gives {given}")
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
