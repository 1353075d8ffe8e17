//! The whole loop on a built-in teacher and built-in test images: a first look in a minute.

use std::{
    alloc::System,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use distill_core::{CountingAllocator, Device, Encoding, Settings, Width};
use distill_device::{Job, run_job};
use serde::Serialize;

use crate::{
    export::{export, recompose},
    images::{LabelledImages, cifar10},
    import::{self, Checkpoint},
    measure::evaluate,
    network::Network,
};

/// A ResNet-20 this project trained on CIFAR-10's training images, in half precision.
const TEACHER: &[u8] = include_bytes!("../assets/resnet20-teacher-f16.safetensors");
const TEACHER_NAME: &str = "resnet20-teacher-f16.safetensors";

/// Widths of the students, and their gradient steps a block: the solve is enough for wide ones.
const STUDENTS: [(f32, usize); 3] = [(0.9, 0), (0.75, 0), (0.5, 50)];

/// The object `quickstart --json` prints.
#[derive(Debug, Serialize)]
pub struct Quickstart {
    /// The teacher, then the students.
    pub networks: Vec<Line>,
    /// Test images the accuracies are over.
    pub images: usize,
    /// What was written.
    pub files: Vec<PathBuf>,
}

/// One network of the table.
#[derive(Debug, Serialize)]
pub struct Line {
    /// Bottleneck multiplier; 1 is the teacher.
    pub k: f32,
    /// Percent of the test images.
    pub accuracy: f64,
    /// Trained scalars.
    pub parameters: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Mean over the blocks of `‖S_i(a) − T_i(a)‖ / ‖T_i(a)‖`; the teacher has none.
    pub relative_error: Option<f64>,
    /// Time to distil; the teacher has none.
    pub seconds: Option<f64>,
    /// Most heap in use while distilling, in bytes; the teacher has none.
    pub peak_bytes: Option<usize>,
}

/// The built-in teacher.
///
/// # Errors
/// Only a damaged build.
pub fn builtin_teacher() -> Result<Network> {
    let checkpoint = Checkpoint::from_safetensors(TEACHER)?;
    import::network(checkpoint, &import::ImportOptions::default(), (TEACHER_NAME, TEACHER))
        .context("the built-in teacher")
}

/// Distils the built-in teacher at three widths into `folder`.
///
/// # Errors
/// The folder cannot be written.
pub fn quickstart(folder: &Path, device: &Device, heap: &CountingAllocator<System>) -> Result<Quickstart> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let images = cifar10::builtin_test_images()?;
    let all = images.labels().len();
    let teacher = builtin_teacher()?;
    let teacher_path = folder.join("teacher.ndp");
    teacher.write_pack(&teacher_path, Encoding::F32)?;
    eprintln!("teacher: {}, evaluated on {all} CIFAR-10 test images", teacher.manifest.architecture);
    let evaluation = evaluate(&teacher, &images, all, device)?;
    let mut networks = vec![Line {
        k: 1.0,
        accuracy: evaluation.accuracy,
        parameters: evaluation.parameters,
        macs: evaluation.macs,
        relative_error: None,
        seconds: None,
        peak_bytes: None,
    }];
    let mut files = vec![teacher_path.clone()];
    for (k, steps) in STUDENTS {
        eprintln!(
            "student with k = {k}: noise through the teacher, solve{}",
            if steps > 0 { ", gradient steps" } else { "" }
        );
        let pack = folder.join(format!("student-{k}-blocks.ndp"));
        let job = Job { teacher: &teacher_path, student: &pack, resume: false };
        let outcome = run_job(job, &Settings::new(Width::new(k)?, steps), device, heap)?;
        let student = recompose(&teacher_path, std::slice::from_ref(&pack))?;
        let evaluation = evaluate(&student, &images, all, device)?;
        let whole = folder.join(format!("student-{k}.ndp"));
        let model = folder.join(format!("student-{k}.onnx"));
        student.write_pack(&whole, Encoding::F32)?;
        export(&student, &model)?;
        files.extend([pack, whole, model]);
        let errors = outcome.blocks.iter().map(|block| block.report.relative_error);
        networks.push(Line {
            k,
            accuracy: evaluation.accuracy,
            parameters: evaluation.parameters,
            macs: evaluation.macs,
            relative_error: Some(errors.sum::<f64>() / outcome.blocks.len() as f64),
            seconds: Some(outcome.seconds),
            peak_bytes: Some(outcome.peak_bytes),
        });
    }
    Ok(Quickstart { networks, images: all, files })
}

impl Quickstart {
    /// The table and the list of files that a person reads.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(UTF8_BORDERS_ONLY);
        table.set_header(["network", "accuracy %", "parameters", "MACs", "block error", "seconds", "peak heap MiB"]);
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        for line in &self.networks {
            table.add_row([
                if line.seconds.is_none() { "teacher".to_owned() } else { format!("student k {}", line.k) },
                format!("{:.1}", line.accuracy),
                line.parameters.to_string(),
                format!("{:.1} M", line.macs as f64 / 1e6),
                or_dash(line.relative_error.map(|e| format!("{e:.3}"))),
                or_dash(line.seconds.map(|s| format!("{s:.1}"))),
                or_dash(line.peak_bytes.map(|b| format!("{:.1}", b as f64 / f64::from(1 << 20)))),
            ]);
        }
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        let files: Vec<String> = self.files.iter().map(|file| format!("  {}", file.display())).collect();
        format!(
            "{table}\naccuracy on {} CIFAR-10 test images; no image was used to distil\nwritten:\n{}",
            self.images,
            files.join("\n")
        )
    }
}
