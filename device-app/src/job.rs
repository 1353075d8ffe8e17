//! One run of the core over files: clock, heap counter and progress bar around it.

use std::{alloc::System, path::Path, time::Instant};

use anyhow::{Context, Result};
use distill_core::{BlockReport, CountingAllocator, Device, Event, Settings, run};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::file::{NewFile, check_distinct, open_pack};

/// What a run did: the object `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The distilled neighbourhoods, in order.
    pub blocks: Vec<BlockOutcome>,
    /// Wall time of the whole run.
    pub seconds: f64,
    /// Most heap in use during the run, in bytes.
    pub peak_bytes: usize,
    /// Heap the planner foresaw; `null` until there is a planner.
    pub planned_bytes: Option<usize>,
}

/// One neighbourhood of a run.
#[derive(Clone, Debug, Serialize)]
pub struct BlockOutcome {
    /// Shapes, sizes and errors.
    #[serde(flatten)]
    pub report: BlockReport,
    /// Wall time of distilling the block and writing it, without reading the teacher's and making its inputs.
    pub seconds: f64,
    /// Most heap in use during that time, in bytes.
    pub peak_bytes: usize,
}

/// Distils `teacher` into `student`. `heap` is the program's global allocator; its peak starts anew.
///
/// # Errors
/// What [`run`] reports, and files that cannot be read or written; `student` is then as it was before.
pub fn run_job(
    teacher: &Path,
    student: &Path,
    settings: &Settings,
    device: &Device,
    heap: &CountingAllocator<System>,
) -> Result<Outcome> {
    let start = Instant::now();
    heap.reset_peak();
    check_distinct(student, [teacher])?;
    let mut pack = open_pack(teacher)?;
    let mut file = NewFile::create(student)?;
    let mut blocks: Vec<BlockOutcome> = Vec::new();
    let mut watch = BlockWatch { start, run_peak: 0, bar: None };
    let observe = |event: Event<'_>| match event {
        Event::Started { index, total, name } => watch.begin(index, total, name, settings, heap),
        Event::Stepped { loss, .. } => watch.step(loss),
        Event::Finished(report) => blocks.push(watch.end(report, heap)),
        _ => {}
    };
    run(&mut pack, &mut file, settings, device, observe)
        .with_context(|| format!("cannot distil {} into {}", teacher.display(), student.display()))?;
    file.commit()?;
    let peak_bytes = watch.run_peak.max(heap.peak_bytes());
    Ok(Outcome { blocks, seconds: start.elapsed().as_secs_f64(), peak_bytes, planned_bytes: None })
}

/// Clock, heap peak and progress bar of the block in work.
struct BlockWatch {
    start: Instant,
    run_peak: usize,
    bar: Option<ProgressBar>,
}

impl BlockWatch {
    fn begin(&mut self, index: usize, total: usize, name: &str, settings: &Settings, heap: &CountingAllocator<System>) {
        // A block counts as one unit of progress, and so does each of its gradient steps.
        let units = (total * (settings.recipe.training.steps + 1)) as u64;
        let bar = self.bar.get_or_insert_with(|| ProgressBar::new(units).with_style(style()));
        bar.set_message(format!("block {index} {name}"));
        bar.tick();
        self.run_peak = self.run_peak.max(heap.peak_bytes());
        heap.reset_peak();
        self.start = Instant::now();
    }

    fn step(&self, loss: f32) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
            log::debug!("loss {loss:.6}");
        }
    }

    fn end(&mut self, report: &BlockReport, heap: &CountingAllocator<System>) -> BlockOutcome {
        let outcome = BlockOutcome {
            report: report.clone(),
            seconds: self.start.elapsed().as_secs_f64(),
            peak_bytes: heap.peak_bytes(),
        };
        let line = format!(
            "block {} {}: relative error {:.4}, {} -> {} parameters, {:.1} s",
            report.index,
            report.name,
            report.relative_error,
            report.teacher_parameters,
            report.parameters,
            outcome.seconds
        );
        if let Some(bar) = &self.bar {
            bar.inc(1);
            if bar.is_hidden() {
                eprintln!("{line}")
            } else {
                bar.println(line)
            }
            if bar.position() == bar.length().unwrap_or(0) {
                bar.finish_and_clear();
            }
        }
        outcome
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (ETA {eta})")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
