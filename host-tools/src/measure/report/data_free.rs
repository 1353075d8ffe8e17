//! Fills the paper's data-free table (Shao et al. 2020, table 3b) by every method there is here.

use std::{
    alloc::System,
    fmt::Write as _,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use distill_core::{Calibration, CountingAllocator, Device, NOISE_BATCH, Noise, Settings, Tuning, Width};
use distill_device::{Job, open_pack, run_job};
use serde_json::{Value, json};

use super::table::{Calibrated, Cell, DataFree, Method};
use crate::{
    export::recompose,
    images::LabelledImages,
    learn::{
        Baseline, CALIBRATED_IMAGES, CALIBRATION_STEPS, NoiseSource, Preset, baseline, calibrate, default_batch,
        finetune_on_noise,
    },
    measure::{evaluate, interface_error},
    network::Network,
};

/// What a report is asked for.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// Teacher pack.
    pub teacher: &'a Path,
    /// Folder for `data-free.md`, `.json` and `.svg`.
    pub folder: &'a Path,
    /// Folder for packs on the way.
    pub work: &'a Path,
    /// Bottleneck multipliers.
    pub widths: Vec<Width>,
    /// How many seeds, from 0.
    pub seeds: u64,
    /// The test images' name.
    pub data: &'a str,
    /// Most of them.
    pub limit: usize,
    /// Which baselines, if any.
    pub baselines: Option<Preset>,
    /// A share of the usual work, to try it out.
    pub effort: f32,
}

/// Gradient steps a block on calibrated noise.
const DISTILL_STEPS: usize = 600;

/// Fills the table, writing it to the folder after each student.
///
/// # Errors
/// The teacher has no batch norms, a file, or in the folder a report of another teacher, data set or settings.
pub fn data_free(asked: &Asked<'_>, test: &dyn LabelledImages, heap: &CountingAllocator<System>) -> Result<DataFree> {
    fs::create_dir_all(asked.folder).with_context(|| format!("cannot make the folder {}", asked.folder.display()))?;
    let teacher = Network::read_pack(asked.teacher)?;
    let path = asked.folder.join("data-free.json");
    let fingerprint = open_pack(asked.teacher)?.fingerprint();
    let recipes = Recipes { effort: asked.effort, batch: default_batch(asked.teacher)? };
    let described = recipes.described()?;
    let labels: Vec<u8> = test.labels().iter().flat_map(|label| label.to_le_bytes()).collect();
    let labels = crc32fast::hash(&labels);
    let mut report = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("cannot read {}: name another folder", path.display()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let evaluation = evaluate(&teacher, test, asked.limit, &Device::Cpu)?;
            DataFree {
                command: String::new(),
                source: teacher.manifest.source.clone(),
                teacher: fingerprint,
                teacher_accuracy: evaluation.accuracy,
                teacher_parameters: evaluation.parameters,
                images: evaluation.total,
                labels,
                effort: asked.effort,
                recipes: described.clone(),
                baselines: None,
                noise: Vec::new(),
                cells: Vec::new(),
            }
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let same = report.teacher == fingerprint
        && report.labels == labels
        && report.effort == asked.effort
        && report.images == asked.limit.min(test.labels().len())
        && (report.baselines.is_none() || asked.baselines.is_none() || report.baselines == asked.baselines);
    ensure!(
        same,
        "{} is of another teacher, effort, data set, number of images or kind of baselines: name another folder",
        path.display()
    );
    ensure!(
        report.recipes == described,
        "{} was made by a program of other settings: name another folder",
        path.display()
    );
    report.baselines = report.baselines.or(asked.baselines);
    report.command = command(asked, &report)?;
    // Packs on the way are of this teacher and these settings.
    let work = asked.work.join(format!("{:08x}", crc32fast::hash(format!("{fingerprint} {described}").as_bytes())));
    for seed in 0..asked.seeds {
        let wanted = |method: &Method| asked.baselines.is_some() || !method.is_baseline();
        let missing = |&(width, method): &(Width, Method)| {
            !report.cells.iter().any(|c| c.method == method && c.width == width.k() && c.seed == seed)
        };
        let students = asked.widths.iter().flat_map(|&width| Method::ALL.map(|method| (width, method)));
        let missing: Vec<(Width, Method)> = students.filter(|(_, m)| wanted(m)).filter(missing).collect();
        if missing.is_empty() {
            continue;
        }
        let maker = Maker { asked, recipes: &recipes, seed, heap, work: &work };
        let noise = maker.calibrate()?;
        if !report.noise.iter().any(|noise| noise.seed == seed) {
            report.noise.push(noise);
            report.write(asked.folder)?;
        }
        for (width, method) in missing {
            eprintln!("seed {seed}, k {}: {}", width.k(), method.title());
            let (student, seconds) = maker.make(method, width)?;
            let evaluation = evaluate(&student, test, asked.limit, &Device::Cpu)?;
            let interface_error = match method.is_baseline() {
                true => None,
                false => Some(maker.interface_error(&teacher, &student)?),
            };
            let (accuracy, parameters, width) = (evaluation.accuracy, evaluation.parameters, width.k());
            report.cells.push(Cell { method, width, seed, accuracy, interface_error, parameters, seconds });
            report.write(asked.folder)?;
        }
    }
    report.write(asked.folder)?;
    Ok(report)
}

/// The command that makes what is in the report and what is asked for; files by their names, as the folders are this machine's.
fn command(asked: &Asked<'_>, report: &DataFree) -> Result<String> {
    let teacher = asked.teacher.file_name().unwrap_or_default().to_string_lossy();
    let mut widths: Vec<f32> = asked.widths.iter().map(|width| width.k()).chain(report.widths()).collect();
    widths.sort_by(|a, b| b.total_cmp(a));
    widths.dedup();
    let widths: Vec<String> = widths.iter().map(f32::to_string).collect();
    let seeds = report.cells.iter().map(|cell| cell.seed + 1).fold(asked.seeds, u64::max);
    let mut command = format!(
        "distill report data-free {teacher} -o {} --data {} --widths {} --seeds {seeds}",
        asked.folder.display(),
        asked.data,
        widths.join(",")
    );
    if let Some(preset) = report.baselines.and_then(|preset| preset.to_possible_value()) {
        write!(command, " --baselines {}", preset.get_name())?;
    }
    if asked.effort != 1.0 {
        write!(command, " --effort {}", asked.effort)?;
    }
    if asked.limit != usize::MAX {
        write!(command, " --limit {}", asked.limit)?;
    }
    Ok(command)
}

/// What each method does, at a share of the usual work.
struct Recipes {
    effort: f32,
    /// Images that are calibrated together.
    batch: usize,
}

impl Recipes {
    /// A share of the usual steps or images, at least one.
    fn share(&self, usual: usize) -> usize {
        ((usual as f32 * self.effort) as usize).max(1)
    }

    fn calibration(&self, seed: u64) -> Calibration {
        Calibration { batch: self.batch, ..Calibration::new(self.share(CALIBRATION_STEPS), seed) }
    }

    fn images(&self) -> usize {
        self.share(CALIBRATED_IMAGES).max(256)
    }

    fn settings(&self, method: Method, width: Width, seed: u64) -> Settings {
        let mut settings = match method {
            Method::Solved => Settings::calibrated(width, 0),
            Method::Distilled => Settings::calibrated(width, self.share(DISTILL_STEPS)),
            _ => Settings::new(width, self.share(150)),
        };
        if method == Method::Standard {
            settings.noise = Noise::Standard;
            settings.recipe.solve_inputs = 0;
            settings.recipe.training.rate = 3e-3;
        }
        settings.images = self.share(settings.images).max(NOISE_BATCH);
        settings.recipe.solve_inputs = settings.recipe.solve_inputs.min(settings.images);
        Settings { seed, ..settings }
    }

    fn tuning(&self, seed: u64) -> Tuning {
        Tuning { seed, ..Tuning::new(self.share(Tuning::STEPS)) }
    }

    /// All of them: a report goes on with the same only.
    fn described(&self) -> Result<Value> {
        let whole = Width::new(1.0)?;
        let of = |method| self.settings(method, whole, 0);
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "images": self.images(),
            "calibration": self.calibration(0),
            "standard": of(Method::Standard),
            "propagated": of(Method::Propagated),
            "solved": of(Method::Solved),
            "distilled": of(Method::Distilled),
            "fine-tuned": self.tuning(0),
        }))
    }
}

/// Makes the students of one seed.
struct Maker<'a> {
    asked: &'a Asked<'a>,
    recipes: &'a Recipes,
    seed: u64,
    heap: &'a CountingAllocator<System>,
    /// Folder for packs on the way.
    work: &'a Path,
}

impl Maker<'_> {
    /// The teacher's pack with noise images of the seed.
    fn calibrated(&self) -> PathBuf {
        self.work.join(format!("teacher-{}.ndp", self.seed))
    }

    fn calibrate(&self) -> Result<Calibrated> {
        fs::create_dir_all(self.work).with_context(|| format!("cannot make the folder {}", self.work.display()))?;
        let (calibration, images) = (self.recipes.calibration(self.seed), self.recipes.images());
        let outcome = calibrate(self.asked.teacher, &self.calibrated(), &calibration, images)?;
        let seconds = (outcome.found == 0).then_some(outcome.seconds);
        Ok(Calibrated { seed: self.seed, images: outcome.images, mismatch: outcome.mismatch, seconds })
    }

    fn make(&self, method: Method, width: Width) -> Result<(Network, f64)> {
        let start = Instant::now();
        let student = match method {
            Method::GnKd | Method::Zskd => {
                let method = if method == Method::GnKd { Baseline::GnKd } else { Baseline::Zskd };
                let preset = self.asked.baselines.unwrap_or(Preset::Short);
                baseline(self.asked.teacher, method, preset, width, self.seed)?
            }
            Method::FineTuned => {
                let distilled = self.pack(Method::Distilled, width);
                if open_pack(&distilled).is_err() {
                    self.make(Method::Distilled, width)?;
                }
                return self.finetuned(&recompose(&self.calibrated(), &[distilled])?);
            }
            _ => {
                let (teacher, student) = (self.calibrated(), self.pack(method, width));
                let job = Job { teacher: &teacher, student: &student, resume: false };
                run_job(job, &self.recipes.settings(method, width, self.seed), &Device::Cpu, self.heap)?;
                recompose(&teacher, &[student])?
            }
        };
        Ok((student, start.elapsed().as_secs_f64()))
    }

    /// Where the students of a method lie.
    fn pack(&self, method: Method, width: Width) -> PathBuf {
        self.work.join(format!("{method:?}-{}-{}.ndp", width.k(), self.seed))
    }

    fn finetuned(&self, student: &Network) -> Result<(Network, f64)> {
        let start = Instant::now();
        let tuning = self.recipes.tuning(self.seed);
        let (network, _) = finetune_on_noise(&self.calibrated(), student, NoiseSource::Calibrated, &tuning)?;
        Ok((network, start.elapsed().as_secs_f64()))
    }

    fn interface_error(&self, teacher: &Network, student: &Network) -> Result<f64> {
        let noise = open_pack(&self.calibrated())?.noise_images()?.context("the teacher's noise images are gone")?;
        interface_error(teacher, student, &noise)
    }
}
