//! The command `run`, which both programs have.

use std::alloc::System;

use anyhow::Result;
use distill_core::{BlockReport, CountingAllocator, Pack, Source};

use crate::{
    file::{DiskFile, check_pack_name},
    job::{Job, open_source, open_trusted, run_job},
    options::RunOptions,
    terminal::{parameters, print, say},
};

/// Opens images, by the name that `--inputs` has, for the network in a teacher pack; so large a share is to learn from.
pub type OpenImages = fn(&str, f32, &mut Pack<DiskFile>) -> Result<Box<dyn Source>>;

/// Distils a teacher pack into a student pack, and prints the result. `heap` is the program's global allocator. A program that
/// reads images gives `open_images`.
///
/// # Errors
/// As [`run_job`]; a noise that the pack does not allow, images that cannot be opened, or an option out of range.
pub fn run_command(
    json: bool,
    options: &RunOptions,
    open_images: Option<OpenImages>,
    heap: &CountingAllocator<System>,
) -> Result<()> {
    let RunOptions { teacher, output, work, device, fresh, trust, counter_file, sign, .. } = options;
    check_pack_name(output)?;
    let (trust, signer) = (trust.trust(counter_file.as_deref())?, sign.signer(output)?);
    let chosen = work.source(teacher)?;
    let (settings, device) = (work.settings(chosen.kind)?, device.open()?);
    chosen.say();
    let source = match (&work.inputs, open_images) {
        (Some(images), Some(open)) => {
            let source = open(images, work.train_split, &mut open_trusted(teacher, trust.as_ref())?)?;
            say(&format!("inputs: {} images of {images}", source.images().unwrap_or(0)));
            source
        }
        _ => open_source(chosen.kind, teacher, trust.as_ref())?,
    };
    let job = Job { teacher, student: output, source, fresh: *fresh, trust, signer };
    let outcome = run_job(job, &settings, &device, heap)?;
    print(json, &outcome, || {
        let sum = |size: fn(&BlockReport) -> usize| outcome.blocks.iter().map(|b| size(&b.report)).sum::<usize>();
        format!(
            "{} blocks distilled in {:.1} s, peak heap {:.1} MiB, parameters {} -> {}: {student}\n\
             Next: distill {} {} {student} -o student.onnx{}",
            outcome.blocks.len(),
            outcome.seconds,
            outcome.peak_bytes as f64 / f64::from(1 << 20),
            sum(|report| report.teacher_parameters),
            parameters(sum(|report| report.parameters), sum(|report| report.zeros)),
            if work.inputs.is_some() { "finetune" } else { "recompose" },
            teacher.display(),
            work.inputs.as_ref().map_or_else(String::new, |data| format!(" --data {data}")),
            student = output.display(),
        )
    })
}
