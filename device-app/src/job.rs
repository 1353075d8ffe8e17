//! Runs the core on files, with timing, heap counter and progress bar.

use std::{alloc::System, path::Path, time::Instant};

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use distill_core::{
    BlockPlan, BlockReport, Budget, CalibratedNoise, CountingAllocator, Device, Event, Pack, PlanError, ReadAt, Run,
    RunError, Settings, Source, SourceKind, WhiteNoise, run,
};
use serde::Serialize;

use crate::{
    advice::Advised,
    file::{DiskFile, UnfinishedFile, check_distinct, open_pack, scratch_file},
    interrupt::Resumable,
    memory::{available_memory, check_memory},
    signing::{Signer, Trust},
    terminal::{Progress, parameters, say},
    unchanged::check_changes,
};

/// Heap bytes that the program needs in addition to a run over `teacher`: arguments, progress bar, manifests, reports.
pub fn program_bytes<R: ReadAt>(teacher: &Pack<R>) -> u64 {
    let manifest = teacher.manifest();
    let classes: usize = manifest.classes.iter().map(|name| name.len() + size_of::<String>()).sum();
    // A second pack, opened for calibrated noise, has an index of 88 bytes per block.
    let blocks = teacher.blocks() * (size_of::<BlockOutcome>() + 64 + 88);
    (PROGRAM_BYTES + 2 * classes + blocks) as u64
}

const PROGRAM_BYTES: usize = 64 << 10;

/// A run on files.
#[derive(Debug)]
pub struct Job<'a> {
    /// Teacher pack.
    pub teacher: &'a Path,
    /// Student pack to write.
    pub student: &'a Path,
    /// Source of the inputs.
    pub source: Box<dyn Source>,
    /// Whether to start over, instead of resuming an interrupted run from its file beside the student.
    pub fresh: bool,
    /// Whose signature the teacher must have.
    pub trust: Option<Trust>,
    /// What signs the student.
    pub signer: Option<Signer>,
}

/// Opens the source of inputs for a teacher pack, whose images must be signed as it is.
///
/// # Errors
/// As [`open_pack`] and [`Trust::accept`].
pub fn open_source(kind: SourceKind, teacher: &Path, trust: Option<&Trust>) -> Result<Box<dyn Source>> {
    Ok(match kind {
        SourceKind::Standard => Box::new(WhiteNoise::Standard),
        SourceKind::Propagated => Box::new(WhiteNoise::Propagated),
        SourceKind::Calibrated => Box::new(CalibratedNoise(open_trusted(teacher, trust)?)),
        other => bail!("this program makes no {other} inputs: `distill run` does"),
    })
}

/// Opens a pack that must be signed as `trust` says.
pub fn open_trusted(path: &Path, trust: Option<&Trust>) -> Result<Pack<DiskFile>> {
    let mut pack = open_pack(path)?;
    trust.map_or(Ok(()), |trust| trust.accept(path, &mut pack))?;
    Ok(pack)
}

/// The result of a run: the object that `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The distilled neighbourhoods, in order.
    pub blocks: Vec<BlockOutcome>,
    /// Wall time of the whole run.
    pub seconds: f64,
    /// Peak heap use during the run, in bytes.
    pub peak_bytes: usize,
    /// Planned peak, in bytes; `null` on devices without a memory plan.
    pub planned_bytes: Option<u64>,
}

/// The result of one neighbourhood.
#[derive(Clone, Debug, Serialize)]
pub struct BlockOutcome {
    /// Shapes, sizes and errors.
    #[serde(flatten)]
    pub report: BlockReport,
    /// Wall time to distil and write the block, without reading the teacher's block and making its inputs.
    pub seconds: f64,
    /// Peak heap use during that time, in bytes.
    pub peak_bytes: usize,
    /// Planned peak of the block, including the propagation of the cache, in bytes; `null` if there is no memory plan.
    pub planned_bytes: Option<u64>,
    /// Inputs per portion of a gradient step or a solve.
    pub micro_batch: usize,
}

/// Runs a job. `heap` is the program's global allocator; its peak is reset.
///
/// # Errors
/// Those of [`run`], and files that cannot be read or written; the student file is then unchanged.
pub fn run_job(
    job: Job<'_>,
    settings: &Settings,
    device: &Device,
    heap: &CountingAllocator<System>,
) -> Result<Outcome> {
    let start = Instant::now();
    heap.reset_peak();
    check_distinct(job.student, [job.teacher])?;
    check_distinct(&UnfinishedFile::path(job.student)?, [job.teacher])?;
    let (mut teacher, mut source) = (open_trusted(job.teacher, job.trust.as_ref())?, job.source);
    // Without a budget, the machine's memory is one.
    let is_given = settings.budget.bytes != Budget::UNLIMITED.bytes;
    let left = available_memory().filter(|_| !is_given && matches!(device, Device::Cpu));
    let budget = Budget { used: program_bytes(&teacher), bytes: left.unwrap_or(settings.budget.bytes) };
    let settings = &Settings { budget, ..settings.clone() };
    let unchanged = check_changes(&mut teacher, settings);
    let unchanged = unchanged.with_context(|| format!("cannot distil {}", job.teacher.display()))?;
    unchanged.lines().for_each(|line| log::warn!("{line}"));
    let mut part = UnfinishedFile::open(job.student, job.fresh)?;
    let path = UnfinishedFile::path(job.student)?;
    let line = format!("finished blocks are in {}; the same command resumes after them", path.display());
    let _resumable = Resumable::new(path, line);
    let scratch = Box::new(scratch_file(job.student)?);
    let (mut blocks, mut planned_bytes) = (Vec::new(), 0);
    let planned = matches!(device, Device::Cpu);
    let units = settings.recipe.training.steps as u64 + 1;
    let mut watch = BlockWatch { start, planned, run_peak: 0, progress: None, units, done: 0, block_end: 0 };
    let observe = |event: Event<'_>| match event {
        Event::Planned(plan) => {
            planned_bytes = plan.bytes;
            if let Some(cache) = plan.cache {
                let place = if cache.in_storage { "in a file beside the student" } else { "in memory" };
                say(&format!("activations: {} {place}, for {} inputs", ByteSize(cache.bytes()), cache.images));
            }
            let count = plan.blocks.iter().filter(|block| block.number.is_some()).count() as u64;
            watch.progress = Progress::new("distilling", Some(count * units), "{msg}").ok();
            blocks.reserve_exact(plan.blocks.len());
        }
        Event::Resumed { blocks } => say(&format!("resuming: {blocks} blocks were done before (--fresh starts over)")),
        Event::Started { index, name, .. } => watch.begin(index, name, heap),
        Event::Stepped { loss, .. } => watch.step(loss),
        Event::Finished(report, planned) => blocks.push(watch.end(report, planned, settings, heap)),
        _ => {}
    };
    let run_of = Run { teacher: &mut teacher, source: &mut *source, scratch: Some(scratch), settings, device };
    let done = run(run_of, &mut part, observe).map(|_| ());
    let done = done.map_err(|error| match error {
        RunError::Plan(PlanError::Budget { smallest, ref block, .. }) if !is_given => {
            check_memory(&format!("block {block}"), smallest).err().unwrap_or_else(|| error.into())
        }
        error => error.advised(),
    });
    // What failed first is what is told, whatever comes of the file.
    let kept = match (&done, blocks.is_empty()) {
        (Ok(()), _) => job.signer.as_ref().map_or(Ok(()), |signer| signer.sign(&mut part)).and_then(|()| part.commit()),
        (Err(_), true) => part.discard().map_err(Into::into),
        (Err(_), false) => Ok(()),
    };
    done.with_context(|| {
        let (teacher, student) = (job.teacher.display(), job.student.display());
        match blocks.len() {
            0 => format!("cannot distil {teacher} into {student}"),
            done => {
                format!(
                    "cannot distil {teacher} into {student} ({done} blocks are done: the same command resumes after them)"
                )
            }
        }
    })?;
    kept?;
    let peak_bytes = watch.run_peak.max(heap.peak_bytes());
    let planned_bytes = planned.then_some(planned_bytes);
    Ok(Outcome { blocks, seconds: start.elapsed().as_secs_f64(), peak_bytes, planned_bytes })
}

/// Timer, heap peak and progress of the current block.
struct BlockWatch {
    start: Instant,
    /// Whether the device has a memory plan.
    planned: bool,
    run_peak: usize,
    progress: Option<Progress>,
    /// Units of progress of a block: one for itself, and one for each of its gradient steps.
    units: u64,
    /// Units done.
    done: u64,
    /// Units done at the end of the current block.
    block_end: u64,
}

impl BlockWatch {
    fn begin(&mut self, index: usize, name: &str, heap: &CountingAllocator<System>) {
        self.block_end = self.done + self.units;
        if let Some(progress) = &self.progress {
            progress.name(format!("block {index} {name}"));
        }
        self.run_peak = self.run_peak.max(heap.peak_bytes());
        heap.reset_peak();
        self.start = Instant::now();
    }

    fn step(&mut self, loss: f32) {
        log::debug!("loss {loss:.6}");
        // A block with several neighbourhoods takes all steps for each of them.
        if self.done + 1 < self.block_end {
            self.set(self.done + 1);
        }
    }

    fn set(&mut self, done: u64) {
        self.done = done;
        if let Some(progress) = &mut self.progress {
            progress.set(done);
        }
    }

    fn end(
        &mut self,
        report: &BlockReport,
        planned: &BlockPlan,
        settings: &Settings,
        heap: &CountingAllocator<System>,
    ) -> BlockOutcome {
        let outcome = BlockOutcome {
            report: report.clone(),
            seconds: self.start.elapsed().as_secs_f64(),
            peak_bytes: heap.peak_bytes(),
            planned_bytes: self.planned.then_some(planned.bytes),
            micro_batch: planned.micro_batch(settings),
        };
        let line = format!(
            "block {} {}: relative error {:.4}, parameters {} -> {}, {:.1} s",
            report.index,
            report.name,
            report.relative_error,
            report.teacher_parameters,
            parameters(report.parameters, report.zeros),
            outcome.seconds
        );
        match &self.progress {
            Some(progress) => progress.say(&line),
            None => say(&line),
        }
        self.set(self.block_end);
        outcome
    }
}
