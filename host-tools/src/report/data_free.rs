//! The paper's data-free table (Shao et al. 2020, table 3b), by every method there is here.

use std::{
    alloc::System,
    fmt::Write as _,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use distill_core::{Calibration, CountingAllocator, Device, NOISE_BATCH, Noise, Settings, Tuning, Width};
use distill_device::{Job, open_pack, run_job, write_file};
use serde::{Deserialize, Serialize};

use super::plot::{Curve, plot};
use crate::{
    baseline::{Baseline, Preset, baseline},
    calibrate::{self, calibrate, default_batch},
    evaluate::evaluate,
    finetune::{NoiseSource, finetune_on_noise},
    images::LabelledImages,
    interface::interface_error,
    network::Network,
    recompose::recompose,
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
    /// Each random number follows from one of them.
    pub seeds: u64,
    /// Test images.
    pub limit: usize,
    /// Which baselines, if any.
    pub baselines: Option<Preset>,
    /// A share of the usual work, to try it out.
    pub effort: f32,
}

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Standard noise, gradient steps alone: the paper's recipe.
    Standard,
    /// Propagated noise, solve, gradient steps.
    Propagated,
    /// Calibrated noise, solve alone.
    Solved,
    /// Calibrated noise, solve, gradient steps.
    Distilled,
    /// And the whole network fine-tuned on it.
    FineTuned,
    /// Knowledge distillation on noise images.
    GnKd,
    /// Zero-shot knowledge distillation.
    Zskd,
}

impl Method {
    const ALL: [Self; 7] =
        [Self::Standard, Self::Propagated, Self::Solved, Self::Distilled, Self::FineTuned, Self::GnKd, Self::Zskd];

    /// Whether it is somebody else's.
    fn is_baseline(self) -> bool {
        matches!(self, Self::GnKd | Self::Zskd)
    }

    /// What it is called in the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Standard => "standard noise, steps",
            Self::Propagated => "propagated, solve + steps",
            Self::Solved => "calibrated, solve only",
            Self::Distilled => "calibrated, solve + steps",
            Self::FineTuned => "the same, fine-tuned",
            Self::GnKd => "GN-KD",
            Self::Zskd => "ZSKD",
        }
    }
}

/// One student.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// How it was made.
    pub method: Method,
    /// Bottleneck multiplier.
    pub width: f32,
    /// Seed.
    pub seed: u64,
    /// Percent of the test images.
    pub accuracy: f64,
    /// Mean relative error of its blocks on calibrated noise; a student that learned end to end has none.
    pub interface_error: Option<f64>,
    /// Trained scalars.
    pub parameters: usize,
    /// Wall time to make it from what it begins with: the teacher's pack, or the student it fine-tunes.
    pub seconds: f64,
}

/// The noise images of one seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Calibrated {
    /// Seed.
    pub seed: u64,
    /// How many.
    pub images: usize,
    /// What is left of the mismatch.
    pub mismatch: f32,
    /// Wall time; none if some had been made before.
    pub seconds: Option<f64>,
}

/// Everything the report knows: `data-free.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataFree {
    /// The command that goes on with it.
    pub command: String,
    /// File the teacher came from.
    pub source: String,
    /// Fingerprint of the teacher's pack.
    pub teacher: u32,
    /// Percent of the test images that the teacher has right.
    pub teacher_accuracy: f64,
    /// The teacher's trained scalars.
    pub teacher_parameters: usize,
    /// Test images.
    pub images: usize,
    /// Checksum of the labels of the data set.
    pub labels: u32,
    /// Share of the usual work.
    pub effort: f32,
    /// How much work went into the baselines.
    pub baselines: Option<Preset>,
    /// Calibrated noise, by seed.
    pub noise: Vec<Calibrated>,
    /// Students, in the order they were made.
    pub cells: Vec<Cell>,
}

/// The paper's table 3b: k, CE (with data), G-ND, G-ND+FT, GN-KD, ZSKD.
const PAPER: [(f32, [f64; 5]); 4] = [
    (1.0, [91.60, 91.51, 91.51, 16.00, 21.50]),
    (0.9, [91.31, 88.78, 88.78, 12.97, 22.77]),
    (0.75, [90.89, 80.64, 83.74, 13.00, 21.54]),
    (0.5, [90.17, 53.40, 54.83, 12.74, 22.17]),
];

/// Gradient steps a block on calibrated noise.
const DISTILL_STEPS: usize = 600;

/// Fills the table, writing it to the folder after each student.
///
/// # Errors
/// The teacher has no batch norms, a file, or a report of another teacher in the folder.
pub fn data_free(
    asked: &Asked<'_>,
    command: String,
    test: &dyn LabelledImages,
    heap: &CountingAllocator<System>,
) -> Result<DataFree> {
    for folder in [asked.folder, asked.work] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let teacher = Network::read_pack(asked.teacher)?;
    let path = asked.folder.join("data-free.json");
    let fingerprint = open_pack(asked.teacher)?.fingerprint();
    let labels: Vec<u8> = test.labels().iter().flat_map(|label| label.to_le_bytes()).collect();
    let labels = crc32fast::hash(&labels);
    let mut report = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("cannot read {}", path.display()))?,
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
    report.baselines = report.baselines.or(asked.baselines);
    report.command = command;
    for seed in 0..asked.seeds {
        let maker = Maker::new(asked, seed, heap, &mut report)?;
        for &width in &asked.widths {
            let k = width.k();
            for method in Method::ALL {
                let wanted = asked.baselines.is_some() || !method.is_baseline();
                let there = report.cells.iter().any(|c| c.method == method && c.width == k && c.seed == seed);
                if there || !wanted {
                    continue;
                }
                eprintln!("seed {seed}, k {k}: {}", method.title());
                let (student, seconds) = maker.make(method, width)?;
                let evaluation = evaluate(&student, test, asked.limit, &Device::Cpu)?;
                let interface_error = match method.is_baseline() {
                    true => None,
                    false => Some(maker.interface_error(&teacher, &student)?),
                };
                let (accuracy, parameters) = (evaluation.accuracy, evaluation.parameters);
                report.cells.push(Cell { method, width: k, seed, accuracy, interface_error, parameters, seconds });
                report.write(asked.folder)?;
            }
        }
    }
    report.write(asked.folder)?;
    Ok(report)
}

/// Makes the students of one seed.
struct Maker<'a> {
    asked: &'a Asked<'a>,
    seed: u64,
    heap: &'a CountingAllocator<System>,
    /// The teacher's pack with noise images of the seed.
    calibrated: PathBuf,
}

impl<'a> Maker<'a> {
    fn new(
        asked: &'a Asked<'a>,
        seed: u64,
        heap: &'a CountingAllocator<System>,
        report: &mut DataFree,
    ) -> Result<Self> {
        let calibrated = asked.work.join(format!("teacher-{seed}.ndp"));
        let maker = Self { asked, seed, heap, calibrated };
        let batch = default_batch(asked.teacher)?;
        let calibration = Calibration { batch, ..Calibration::new(maker.share(calibrate::STEPS), seed) };
        let outcome =
            calibrate(asked.teacher, &maker.calibrated, &calibration, maker.share(calibrate::IMAGES).max(256))?;
        if !report.noise.iter().any(|noise| noise.seed == seed) {
            let (images, mismatch) = (outcome.images, outcome.mismatch);
            let seconds = (outcome.found == 0).then_some(outcome.seconds);
            report.noise.push(Calibrated { seed, images, mismatch, seconds });
            report.write(asked.folder)?;
        }
        Ok(maker)
    }

    /// A share of the usual steps or images, at least one.
    fn share(&self, usual: usize) -> usize {
        ((usual as f32 * self.asked.effort) as usize).max(1)
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
                return self.finetuned(&recompose(&self.calibrated, &[distilled])?);
            }
            _ => {
                let student = self.pack(method, width);
                let job = Job { teacher: &self.calibrated, student: &student, resume: false };
                run_job(job, &self.settings(method, width), &Device::Cpu, self.heap)?;
                recompose(&self.calibrated, &[student])?
            }
        };
        Ok((student, start.elapsed().as_secs_f64()))
    }

    /// Where the students of a method lie.
    fn pack(&self, method: Method, width: Width) -> PathBuf {
        self.asked.work.join(format!("{method:?}-{}-{}-{}.ndp", width.k(), self.seed, self.asked.effort))
    }

    fn settings(&self, method: Method, width: Width) -> Settings {
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
        settings.seed = self.seed;
        settings
    }

    fn finetuned(&self, student: &Network) -> Result<(Network, f64)> {
        let start = Instant::now();
        let tuning = Tuning { seed: self.seed, ..Tuning::new(self.share(Tuning::STEPS)) };
        let (network, _) = finetune_on_noise(&self.calibrated, student, NoiseSource::Calibrated, &tuning)?;
        Ok((network, start.elapsed().as_secs_f64()))
    }

    fn interface_error(&self, teacher: &Network, student: &Network) -> Result<f64> {
        let noise = open_pack(&self.calibrated)?.noise_images()?.context("the teacher's noise images are gone")?;
        interface_error(teacher, student, &noise)
    }
}

/// Accuracies, interface errors and seconds of one method and width over the seeds.
struct Spread<'a>(Vec<&'a Cell>);

impl Spread<'_> {
    /// Mean, and the largest distance from it.
    fn of(&self, value: impl Fn(&Cell) -> Option<f64>) -> Option<(f64, f64)> {
        let values: Option<Vec<f64>> = self.0.iter().map(|cell| value(cell)).collect();
        let values = values.filter(|values| !values.is_empty())?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some((mean, values.iter().map(|value| (value - mean).abs()).fold(0.0, f64::max)))
    }
}

impl DataFree {
    /// Mean accuracy of each method at each width, largest first.
    fn curves(&self) -> Vec<Curve> {
        let curve = |method: Method| -> Curve {
            let mean = |k: f32| Some((k, self.spread(method, k).of(|cell| Some(cell.accuracy))?.0));
            (method.title(), self.widths().into_iter().filter_map(mean).collect())
        };
        Method::ALL.into_iter().map(curve).collect()
    }

    fn widths(&self) -> Vec<f32> {
        let mut widths: Vec<f32> = self.cells.iter().map(|cell| cell.width).collect();
        widths.sort_by(|a, b| b.total_cmp(a));
        widths.dedup();
        widths
    }

    fn spread(&self, method: Method, k: f32) -> Spread<'_> {
        Spread(self.cells.iter().filter(|cell| cell.method == method && cell.width == k).collect())
    }

    fn write(&self, folder: &Path) -> Result<()> {
        write_file(&folder.join("data-free.json"), &serde_json::to_vec_pretty(self)?)?;
        write_file(&folder.join("data-free.md"), self.markdown()?.as_bytes())?;
        write_file(&folder.join("data-free.svg"), plot(self.curves())?.as_bytes())
    }

    /// The table that a person reads.
    ///
    /// # Errors
    /// None in practice.
    pub fn markdown(&self) -> Result<String> {
        let mut text = String::new();
        writeln!(text, "# Distillation without data\n\nMade by `{}`.\n", self.command)?;
        writeln!(
            text,
            "Teacher `{}`: {:.2} % of {} test images, {} parameters. Mean over the seeds ± the largest distance from it. *Error* is \
             the mean over the blocks of ‖S(a) − T(a)‖ / ‖T(a)‖ on calibrated noise that no student saw, with the teacher's own \
             activations as inputs; seconds are those of the column's last step alone.\n",
            self.source, self.teacher_accuracy, self.images, self.teacher_parameters
        )?;
        if self.effort != 1.0 {
            writeln!(text, "**{} of the usual work: a trial.**\n", self.effort)?;
        }
        text.push_str("![Accuracy over width](data-free.svg)\n\n## Ours\n\n");
        let (baselines, ours): (Vec<_>, Vec<_>) = Method::ALL.into_iter().partition(|method| method.is_baseline());
        self.table(&mut text, &ours)?;
        if self.cells.iter().any(|cell| cell.method.is_baseline()) {
            text.push_str("\n## Baselines, by this program\n\n");
            self.table(&mut text, &baselines)?;
        }
        text.push_str("\n## The paper, its own teacher (Shao et al. 2020, table 3b; CE sees the data)\n\n");
        text.push_str("| k | CE | G-ND | G-ND+FT | GN-KD | ZSKD |\n|---|---|---|---|---|---|\n");
        for (k, row) in PAPER {
            let row: Vec<String> = row.iter().map(|accuracy| format!("{accuracy:.2}")).collect();
            writeln!(text, "| {k} | {} |", row.join(" | "))?;
        }
        text.push_str("\n## Noise images\n\n| seed | images | mismatch left | seconds |\n|---|---|---|---|\n");
        for Calibrated { seed, images, mismatch, seconds } in &self.noise {
            let seconds = seconds.map_or("made before".to_owned(), |seconds| format!("{seconds:.0}"));
            writeln!(text, "| {seed} | {images} | {mismatch:.3} | {seconds} |")?;
        }
        Ok(text)
    }

    fn table(&self, text: &mut String, methods: &[Method]) -> Result<()> {
        let titles: Vec<&str> = methods.iter().map(|method| method.title()).collect();
        writeln!(text, "| k | parameters | {} |", titles.join(" | "))?;
        writeln!(text, "|{}", "---|".repeat(2 + methods.len()))?;
        for k in self.widths() {
            let parameters = self.cells.iter().find(|cell| cell.width == k && methods.contains(&cell.method));
            write!(text, "| {k} | {} |", parameters.map_or(0, |cell| cell.parameters))?;
            for &method in methods {
                let spread = self.spread(method, k);
                let Some((accuracy, most)) = spread.of(|cell| Some(cell.accuracy)) else {
                    text.push_str(" |");
                    continue;
                };
                write!(text, " {accuracy:.2} ± {most:.2}")?;
                if let Some((error, _)) = spread.of(|cell| cell.interface_error) {
                    write!(text, ", error {error:.3}")?;
                }
                let seconds = spread.of(|cell| Some(cell.seconds)).map_or(0.0, |(mean, _)| mean);
                write!(text, ", {seconds:.0} s |")?;
            }
            text.push('\n');
        }
        Ok(())
    }
}
