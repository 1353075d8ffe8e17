//! Fills the paper's data-free table (Shao et al. 2020, table 3b) with our methods and the baselines.

use std::{
    alloc::System,
    fmt::Write as _,
    fs,
    io::ErrorKind,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use distill_core::{Calibration, CountingAllocator, Device, NOISE_BATCH, Pull, Settings, Tuning, Width};
use distill_device::{Job, open_pack, open_source, run_job, say};
use serde_json::{Value, json};

use super::table::{Calibrated, Cell, DataFree, Method};
use crate::{
    export::recompose,
    images::{self, LabelledImages, Preparation},
    learn::{
        BaselineOptions, CALIBRATED_IMAGES, CALIBRATION_STEPS, FineTune, Keep, LearnFrom, NoiseSource, Preset, Watched,
        baseline, calibrate, finetune_student, usual_calibration,
    },
    measure::{Sample, compare, evaluate},
    network::Network,
};

/// What a report should hold, and where: the options of `distill report data-free`.
#[derive(Args, Clone, Debug)]
pub struct DataFreeOptions {
    /// Teacher pack, whose batch norms are not folded
    teacher: PathBuf,
    /// Folder to write to; a report that is already there is completed
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// Test images, as `distill evaluate` takes them
    #[arg(long, value_name = "DATA", default_value = "cifar10")]
    data: String,
    /// Folder for intermediate packs
    #[arg(long, value_name = "FOLDER", default_value = "distill-report")]
    work: PathBuf,
    /// Bottleneck multipliers
    #[arg(long, value_delimiter = ',', default_value = "1,0.9,0.75,0.5", value_name = "LIST")]
    widths: Vec<f32>,
    /// Number of seeds, from 0
    #[arg(long, default_value_t = 3, value_name = "N")]
    seeds: u64,
    /// Only the first N test images
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Add baselines, and how much work goes into them [default: no baselines]
    #[arg(long, value_enum, value_name = "PRESET")]
    baselines: Option<Preset>,
    /// Share of the usual images and steps, for a trial; it does not affect baselines
    #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
    effort: f32,
}

/// Gradient steps per block on calibrated noise.
const DISTILL_STEPS: usize = 600;

/// Fills the table, and writes it to the folder after each student.
///
/// # Errors
/// A teacher without batch norms, a file, or a report in the folder of another teacher, data set or settings.
pub fn data_free(options: &DataFreeOptions, heap: &CountingAllocator<System>) -> Result<DataFree> {
    let widths: Vec<Width> = options.widths.iter().map(|&k| Width::new(k)).collect::<Result<_, _>>()?;
    ensure!(options.effort > 0.0 && options.effort <= 1.0, "the effort must be above 0 and at most 1");
    let teacher = Network::read_pack(&options.teacher)?;
    let test = &*images::open(&options.data, &teacher, Preparation::default())?;
    let limit = options.limit.map_or(usize::MAX, NonZeroUsize::get);
    let folder = &options.output;
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let recipes = Recipes { effort: options.effort, usual: usual_calibration(&teacher, CALIBRATION_STEPS, 0) };
    let mut report = read_or_start(options, &teacher, test, recipes.described()?)?;
    report.baselines = report.baselines.or(options.baselines);
    report.command = command(options, &report)?;
    // Packs of another teacher or of other settings must not be reused.
    let key = crc32fast::hash(format!("{} {}", report.teacher, report.recipes).as_bytes());
    let work = options.work.join(format!("{key:08x}"));
    for seed in 0..options.seeds {
        let maker = Maker { options, recipes: &recipes, seed, heap, work: &work };
        // A cut may have come between a student's place in the report and the end of its training's state.
        for cell in report.cells.iter().filter(|cell| cell.seed == seed) {
            maker.clear(cell.method, Width::new(cell.width)?)?;
        }
        let missing = missing(&report, &widths, seed, options.baselines);
        if missing.is_empty() {
            continue;
        }
        let noise = maker.calibrate()?;
        if !report.noise.iter().any(|noise| noise.seed == seed) {
            report.noise.push(noise);
            report.write(folder)?;
        }
        for (width, method) in missing {
            say(&format!("seed {seed}, k {}: {}", width.k(), method.title()));
            let (student, seconds) = maker.make(method, width)?;
            let evaluation = evaluate(&student, test, limit, &Device::Cpu)?;
            let is_ours = method.baseline().is_none();
            let interface_error = is_ours.then(|| maker.interface_error(&teacher, &student)).transpose()?;
            let (accuracy, parameters, k) = (evaluation.accuracy, evaluation.parameters, width.k());
            report.cells.push(Cell { method, width: k, seed, accuracy, interface_error, parameters, seconds });
            report.write(folder)?;
            maker.clear(method, width)?;
        }
    }
    report.write(folder)?;
    Ok(report)
}

/// The report in the folder, which must be of the same kind, or an empty one.
fn read_or_start(
    options: &DataFreeOptions,
    teacher: &Network,
    test: &dyn LabelledImages,
    recipes: Value,
) -> Result<DataFree> {
    let limit = options.limit.map_or(usize::MAX, NonZeroUsize::get);
    let path = options.output.join("data-free.json");
    let fingerprint = open_pack(&options.teacher)?.fingerprint().to_string();
    let labels: Vec<u8> = test.labels().iter().flat_map(|label| label.to_le_bytes()).collect();
    let labels = crc32fast::hash(&labels);
    let cannot_read = || format!("cannot read {}", path.display());
    let report: DataFree = match fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).with_context(|| format!("{}: name another folder", cannot_read()))?
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let evaluation = evaluate(teacher, test, limit, &Device::Cpu)?;
            return Ok(DataFree {
                command: String::new(),
                source: teacher.manifest.source.clone(),
                teacher: fingerprint,
                teacher_accuracy: evaluation.accuracy,
                teacher_parameters: evaluation.parameters,
                images: evaluation.total,
                labels,
                effort: options.effort,
                recipes,
                baselines: None,
                noise: Vec::new(),
                cells: Vec::new(),
            });
        }
        Err(error) => return Err(error).with_context(cannot_read),
    };
    let shown = path.display();
    let same_baselines = report.baselines.is_none_or(|theirs| options.baselines.is_none_or(|ours| ours == theirs));
    ensure!(
        report.teacher == fingerprint
            && report.labels == labels
            && report.effort == options.effort
            && report.images == limit.min(test.labels().len())
            && same_baselines,
        "{shown} is of another teacher, effort, data set, number of images or kind of baselines: name another folder"
    );
    ensure!(report.recipes == recipes, "{shown} was made with other settings or another version: name another folder");
    Ok(report)
}

/// The students of a seed that the report does not have yet.
fn missing(report: &DataFree, widths: &[Width], seed: u64, baselines: Option<Preset>) -> Vec<(Width, Method)> {
    let is_wanted = |method: &Method| baselines.is_some() || method.baseline().is_none();
    let is_missing = |&(width, method): &(Width, Method)| {
        !report.cells.iter().any(|cell| cell.method == method && cell.width == width.k() && cell.seed == seed)
    };
    let methods = || Method::ALL.into_iter().filter(is_wanted);
    let students = widths.iter().flat_map(|&width| methods().map(move |method| (width, method)));
    students.filter(is_missing).collect()
}

/// The command that makes the whole report. It names files without their folders, which are those of one machine.
fn command(options: &DataFreeOptions, report: &DataFree) -> Result<String> {
    let teacher = options.teacher.file_name().unwrap_or_default().to_string_lossy();
    let mut widths: Vec<f32> = options.widths.iter().copied().chain(report.widths()).collect();
    widths.sort_by(|a, b| b.total_cmp(a));
    widths.dedup();
    let widths: Vec<String> = widths.iter().map(f32::to_string).collect();
    let seeds = report.cells.iter().map(|cell| cell.seed + 1).fold(options.seeds, u64::max);
    let mut command = format!(
        "distill report data-free {teacher} -o {} --data {} --widths {} --seeds {seeds}",
        options.output.display(),
        options.data,
        widths.join(",")
    );
    if let Some(preset) = report.baselines.and_then(|preset| preset.to_possible_value()) {
        write!(command, " --baselines {}", preset.get_name())?;
    }
    if options.effort != 1.0 {
        write!(command, " --effort {}", options.effort)?;
    }
    if let Some(limit) = options.limit {
        write!(command, " --limit {limit}")?;
    }
    Ok(command)
}

/// The settings of each method, at a share of the usual work.
struct Recipes {
    effort: f32,
    /// The teacher's usual calibration.
    usual: Calibration,
}

impl Recipes {
    /// A share of the usual number of steps or images, at least one.
    fn share(&self, usual: usize) -> usize {
        ((usual as f32 * self.effort) as usize).max(1)
    }

    fn calibration(&self, seed: u64) -> Calibration {
        let pull = Pull { steps: self.share(CALIBRATION_STEPS), ..self.usual.pull };
        Calibration { seed, pull, ..self.usual }
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
            settings.recipe.solve = false;
            settings.recipe.training.rate = 3e-3;
        }
        settings.recipe.images = self.share(settings.recipe.images).max(NOISE_BATCH);
        Settings { seed, ..settings }
    }

    fn tuning(&self, seed: u64) -> Tuning {
        Tuning { seed, ..Tuning::new(self.share(Tuning::STEPS)) }
    }

    /// All settings: a report can only be continued with the same ones.
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
    options: &'a DataFreeOptions,
    recipes: &'a Recipes,
    seed: u64,
    heap: &'a CountingAllocator<System>,
    /// Folder for intermediate packs.
    work: &'a Path,
}

impl Maker<'_> {
    /// The teacher pack with the noise images of the seed.
    fn calibrated(&self) -> PathBuf {
        self.work.join(format!("teacher-{}.ndp", self.seed))
    }

    fn calibrate(&self) -> Result<Calibrated> {
        fs::create_dir_all(self.work).with_context(|| format!("cannot make the folder {}", self.work.display()))?;
        let (calibration, images) = (self.recipes.calibration(self.seed), self.recipes.images());
        let outcome = calibrate(&self.options.teacher, &self.calibrated(), &calibration, images)?;
        let seconds = (outcome.found == 0).then_some(outcome.seconds);
        Ok(Calibrated { seed: self.seed, images: outcome.images, mismatch: outcome.distance.mismatch(), seconds })
    }

    /// A student, and the seconds that it took from its teacher pack, or from the student that is fine-tuned.
    fn make(&self, method: Method, width: Width) -> Result<(Network, f64)> {
        let (calibrated, seed) = (self.calibrated(), self.seed);
        let distilled = self.pack(Method::Distilled, width);
        if method == Method::FineTuned && open_pack(&distilled).is_err() {
            self.make(Method::Distilled, width)?;
        }
        let start = Instant::now();
        let output = self.pack(method, width);
        let keep = Keep { output: &output, fresh: false };
        let student = match (method, method.baseline()) {
            (_, Some(method)) => {
                let preset = self.options.baselines.unwrap_or(Preset::Short);
                let tuning = Tuning { seed, ..preset.tuning(method) };
                let options = BaselineOptions { method, preset, width, images: None, tuning };
                baseline(&self.options.teacher, options, Watched::new("training", keep))?
            }
            (Method::FineTuned, _) => {
                let (student, tuning) = (recompose(&calibrated, &[distilled])?, self.recipes.tuning(seed));
                let from = LearnFrom::Noise(NoiseSource::Calibrated);
                let task = FineTune { teacher: &calibrated, student: &student, from, tuning: &tuning };
                finetune_student(task, Watched::new("fine-tuning", keep))?.0
            }
            _ => {
                let student = self.pack(method, width);
                let source = open_source(method.source(), &calibrated, None)?;
                let job =
                    Job { teacher: &calibrated, student: &student, source, fresh: true, trust: None, signer: None };
                run_job(job, &self.recipes.settings(method, width, seed), &Device::Cpu, self.heap)?;
                recompose(&calibrated, &[student])?
            }
        };
        Ok((student, start.elapsed().as_secs_f64()))
    }

    /// The student pack of a method.
    fn pack(&self, method: Method, width: Width) -> PathBuf {
        self.work.join(format!("{method:?}-{}-{}.ndp", width.k(), self.seed))
    }

    /// Removes the state of a student's training.
    fn clear(&self, method: Method, width: Width) -> Result<()> {
        Keep { output: &self.pack(method, width), fresh: false }.clear()
    }

    fn interface_error(&self, teacher: &Network, student: &Network) -> Result<f64> {
        let noise =
            open_pack(&self.calibrated())?.noise_images()?.context("the teacher pack has lost its noise images")?;
        Ok(compare(teacher, student, Sample::HeldOut(&noise))?.interface_error())
    }
}
