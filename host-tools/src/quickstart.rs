//! From teacher to students on built-in data, as a first look.

use std::{
    alloc::System,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use distill_core::{CountingAllocator, Device, Encoding, MEASURED_INPUTS, Settings, SourceKind, Width};
use distill_device::{Job, check_replaces_pack, open_pack, open_source, run_job, say};
use serde::Serialize;

use crate::{
    export::{export, recompose},
    images::{LabelledImages, cifar10},
    import::{self, Checkpoint},
    learn::{CALIBRATION_STEPS, calibrate, usual_calibration},
    measure::{Evaluation, evaluate},
    network::Network,
    show::table,
};

/// A ResNet-20 this project trained on CIFAR-10's training images, in half precision.
const TEACHER: &[u8] = include_bytes!("../assets/resnet20-teacher-f16.safetensors");
const TEACHER_NAME: &str = "resnet20-teacher-f16.safetensors";

/// Widths of the students.
const WIDTHS: [f32; 3] = [0.9, 0.75, 0.5];
/// Noise images to calibrate: as many as a minute allows.
const IMAGES: usize = 512;

/// The object `quickstart --json` prints.
#[derive(Debug, Serialize)]
pub struct Quickstart {
    /// The teacher, then the students.
    pub networks: Vec<Line>,
    /// Number of test images.
    pub images: usize,
    /// The files written.
    pub files: Vec<PathBuf>,
}

/// A row of the table.
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
    /// Mean over the blocks of `‖S_i(a) − T_i(a)‖ / ‖T_i(a)‖`; `None` for the teacher, as below.
    pub relative_error: Option<f64>,
    /// Time to distil.
    pub seconds: Option<f64>,
    /// Most heap in use while distilling.
    pub peak_bytes: Option<usize>,
}

impl Line {
    fn new(k: f32, &Evaluation { accuracy, parameters, macs, .. }: &Evaluation) -> Self {
        Self { k, accuracy, parameters, macs, relative_error: None, seconds: None, peak_bytes: None }
    }
}

/// The built-in teacher.
pub fn builtin_teacher() -> Result<Network> {
    let checkpoint = Checkpoint::from_safetensors(TEACHER)?;
    import::network(checkpoint, &import::ImportOptions::default(), (TEACHER_NAME, TEACHER))
        .context("the built-in teacher")
}

/// Refuses to write over somebody's own teacher.
fn check_folder(path: &Path, teacher: &Network) -> Result<()> {
    check_replaces_pack(path)?;
    let Ok(pack) = open_pack(path) else { return Ok(()) };
    ensure!(
        pack.manifest().source_sha256 == teacher.manifest.source_sha256,
        "cannot write {}: a pack of another network is there; name another folder with --dir",
        path.display()
    );
    Ok(())
}

/// Distils the built-in teacher at three widths into `folder`.
pub fn quickstart(folder: &Path, device: &Device, heap: &CountingAllocator<System>) -> Result<Quickstart> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let images = cifar10::builtin_test_images()?;
    let all = images.labels().len();
    let teacher = builtin_teacher()?;
    let teacher_path = folder.join("teacher.ndp");
    check_folder(&teacher_path, &teacher)?;
    teacher.write_pack(&teacher_path, Encoding::F32)?;
    say(&format!("teacher: {}, evaluated on {all} CIFAR-10 test images", teacher.manifest.architecture));
    let mut networks = vec![Line::new(1.0, &evaluate(&teacher, &images, all, device)?)];
    say(&format!("{IMAGES} noise images are fitted to the teacher's batch norms"));
    calibrate(&teacher_path, &teacher_path, &usual_calibration(&teacher, CALIBRATION_STEPS, 0), IMAGES)?;
    let mut files = vec![teacher_path.clone()];
    for k in WIDTHS {
        say(&format!("student with k = {k}: its blocks are solved on that noise"));
        let pack = folder.join(format!("student-{k}-blocks.ndp"));
        let source = open_source(SourceKind::Calibrated, &teacher_path, None)?;
        let job = Job { teacher: &teacher_path, student: &pack, source, fresh: true, trust: None, signer: None };
        let mut settings = Settings::calibrated(Width::new(k)?, 0);
        settings.recipe.images = IMAGES - MEASURED_INPUTS;
        let outcome = run_job(job, &settings, device, heap)?;
        let student = recompose(&teacher_path, std::slice::from_ref(&pack))?;
        let line = Line::new(k, &evaluate(&student, &images, all, device)?);
        let whole = folder.join(format!("student-{k}.ndp"));
        let model = folder.join(format!("student-{k}.onnx"));
        student.write_pack(&whole, Encoding::F32)?;
        export(&student, &model)?;
        files.extend([pack, whole, model]);
        let errors = outcome.blocks.iter().map(|block| block.report.relative_error);
        networks.push(Line {
            relative_error: Some(errors.sum::<f64>() / outcome.blocks.len() as f64),
            seconds: Some(outcome.seconds),
            peak_bytes: Some(outcome.peak_bytes),
            ..line
        });
    }
    Ok(Quickstart { networks, images: all, files })
}

impl Quickstart {
    /// The table and the list of files that a person reads.
    pub fn table(&self) -> String {
        let titles = ["network", "accuracy %", "parameters", "MACs", "block error", "seconds", "peak heap MiB"];
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let row = |line: &Line| {
            [
                if line.seconds.is_none() { "teacher".to_owned() } else { format!("student k {}", line.k) },
                format!("{:.1}", line.accuracy),
                line.parameters.to_string(),
                format!("{:.1} M", line.macs as f64 / 1e6),
                or_dash(line.relative_error.map(|e| format!("{e:.3}"))),
                or_dash(line.seconds.map(|s| format!("{s:.1}"))),
                or_dash(line.peak_bytes.map(|b| format!("{:.1}", b as f64 / f64::from(1 << 20)))),
            ]
        };
        let table = table(titles, &[1, 2, 3, 4, 5, 6], self.networks.iter().map(row));
        let files: Vec<String> = self.files.iter().map(|file| format!("  {}", file.display())).collect();
        format!(
            "{table}\naccuracy on {} CIFAR-10 test images; no image was used to distil\nwritten:\n{}",
            self.images,
            files.join("\n")
        )
    }
}
