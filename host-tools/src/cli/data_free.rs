//! The commands that make students or noise without data, and compare them.

use std::{alloc::System, num::NonZeroUsize, path::PathBuf, time::Instant};

use anyhow::{Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use distill_core::{Calibration, CountingAllocator, Pull, Start, Training, Tuning, Width};
use distill_device::{check_distinct, print};
use distill_host::{
    export,
    images::{self, CROP_FRACTION, Filter, Preparation},
    learn::{
        Baseline, CALIBRATED_IMAGES, CALIBRATION_STEPS, NoiseSource, Preset, baseline, calibrate, default_batch,
        finetune_on_noise, read_student,
    },
    measure::{Asked, data_free},
    network::Network,
};
use serde_json::json;

#[derive(Args)]
pub struct CalibrateArgs {
    /// Teacher pack, whose batch norms are not folded
    teacher: PathBuf,
    /// Pack to write: the teacher with the images. If it already holds images of the same calibration, it goes on from them
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Images, rounded up to whole batches
    #[arg(long, default_value_t = CALIBRATED_IMAGES, value_name = "N")]
    images: usize,
    /// Images that are matched together [default: 128, fewer where they are large]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Gradient steps on the pixels of a batch
    #[arg(long, default_value_t = CALIBRATION_STEPS, value_name = "N")]
    steps: usize,
    /// Weight of the difference of neighbouring pixels
    #[arg(long, default_value_t = Pull::calibration(0).smoothness, value_name = "W")]
    smoothness: f32,
    /// Weight of the cross-entropy on a random class for each image
    #[arg(long, default_value_t = Pull::calibration(0).classes, value_name = "W")]
    classes: f32,
    /// What the images begin as
    #[arg(long, value_enum, default_value_t = StartName::Octaves)]
    start: StartName,
    /// Every random number follows from it
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
}

/// `--start`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum StartName {
    /// N(0,1) in every pixel
    White,
    /// Noise of every octave, with a spectrum as steep as natural images' (1/f)
    Octaves,
}

#[derive(Subcommand)]
pub enum ReportCommand {
    /// Accuracy without data by every method, at several widths: Markdown, JSON and a plot, after each student
    #[command(
        name = "data-free",
        after_help = "Example:\n  distill report data-free teacher.ndp -o docs/results --data cifar10"
    )]
    DataFree(DataFreeArgs),
}

#[derive(Args)]
pub struct DataFreeArgs {
    /// Teacher pack, whose batch norms are not folded
    teacher: PathBuf,
    /// Folder to write to; a report that is there goes on
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// Test images, as `distill evaluate` takes them
    #[arg(long, value_name = "DATA", default_value = "cifar10")]
    data: String,
    /// Folder for the packs on the way
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
    /// Baselines, and how much work goes into them [default: none]
    #[arg(long, value_enum, value_name = "PRESET")]
    baselines: Option<Preset>,
    /// Share of the usual images and steps, for a trial; baselines go by their preset
    #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
    effort: f32,
}

#[derive(Args)]
pub struct BaselineArgs {
    /// How the student learns
    #[arg(value_enum)]
    method: Baseline,
    /// Teacher pack
    teacher: PathBuf,
    /// File to write: .ndp, .safetensors or .onnx
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Share of the inner channels each block keeps
    #[arg(long, default_value_t = 0.5, value_name = "K")]
    width: f32,
    /// How much work goes into it
    #[arg(long, value_enum, default_value_t = Preset::Short)]
    preset: Preset,
    /// Every random number follows from it
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
}

#[derive(Args)]
pub struct FinetuneArgs {
    /// Teacher pack
    teacher: PathBuf,
    /// A recomposed student (.ndp), or student packs of the teacher
    #[arg(required = true)]
    students: Vec<PathBuf>,
    /// File to write: .ndp, .safetensors or .onnx
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// What the student learns from
    #[arg(long, value_enum, default_value_t = LessonName::Calibrated)]
    noise: LessonName,
    /// Gradient steps
    #[arg(long, default_value_t = Tuning::STEPS, value_name = "N")]
    steps: usize,
    /// Images a step
    #[arg(long, default_value_t = Tuning::new(0).training.batch, value_name = "N")]
    batch: usize,
    /// Peak learning rate of Adam, down a cosine to zero
    #[arg(long, default_value_t = Tuning::new(0).training.rate, value_name = "RATE")]
    rate: f32,
    /// Divides the logits before the softmaxes are compared
    #[arg(long, default_value_t = Tuning::new(0).temperature, value_name = "T")]
    temperature: f32,
    /// Weight of the relative distance of each block's output
    #[arg(long, default_value_t = Tuning::new(0).features, value_name = "W")]
    features: f32,
    /// Every random number follows from it
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
}

/// `finetune --noise`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LessonName {
    /// N(0,1) in every pixel (the paper)
    Standard,
    /// The noise images that `distill calibrate` put into the teacher pack
    Calibrated,
}

pub fn calibrate_file(json: bool, args: &CalibrateArgs) -> Result<()> {
    let start = match args.start {
        StartName::White => Start::White,
        StartName::Octaves => Start::Octaves,
    };
    let &CalibrateArgs { batch, steps, smoothness, classes, seed, .. } = args;
    let pull = Pull { smoothness, classes, ..Pull::calibration(steps) };
    let batch = batch.map_or_else(|| default_batch(&args.teacher), Ok)?;
    let calibration = Calibration { batch, start, seed, pull };
    let outcome = calibrate(&args.teacher, &args.output, &calibration, args.images)?;
    print(json, &outcome, || {
        format!(
            "{} images in {:.0} s, mismatch of the statistics {before}{:.3}: {output}\n\
             Next: distill-device run {output} -o blocks.ndp --noise calibrated",
            outcome.images,
            outcome.seconds,
            outcome.mismatch,
            before = outcome.mismatch_before.map_or(String::new(), |before| format!("{before:.1} -> ")),
            output = args.output.display(),
        )
    })
}

pub fn finetune_files(json: bool, args: &FinetuneArgs) -> Result<()> {
    let FinetuneArgs { teacher, students, output, .. } = args;
    check_distinct(output, students.iter().map(PathBuf::as_path).chain([teacher.as_path()]))?;
    export::check_ending(output)?;
    let student = read_student(teacher, students)?;
    let source = match args.noise {
        LessonName::Standard => NoiseSource::Standard,
        LessonName::Calibrated => NoiseSource::Calibrated,
    };
    let usual = Tuning::new(args.steps);
    let training = Training { batch: args.batch, rate: args.rate, ..usual.training };
    let tuning = Tuning { training, temperature: args.temperature, features: args.features, seed: args.seed };
    let start = Instant::now();
    let (network, loss) = finetune_on_noise(teacher, &student, source, &tuning)?;
    export::export(&network, output)?;
    let (parameters, seconds) = (network.parameters(), start.elapsed().as_secs_f64());
    let summary = json!({"file": output, "parameters": parameters, "loss": loss, "seconds": seconds});
    print(json, &summary, || match loss {
        Some(loss) => {
            format!("{} steps in {seconds:.0} s, last cross-entropy {loss:.4}: {}", args.steps, output.display())
        }
        None => format!("there was nothing to learn: {}", output.display()),
    })
}

pub fn baseline_file(json: bool, args: &BaselineArgs) -> Result<()> {
    check_distinct(&args.output, [args.teacher.as_path()])?;
    export::check_ending(&args.output)?;
    let start = Instant::now();
    let network = baseline(&args.teacher, args.method, args.preset, Width::new(args.width)?, args.seed)?;
    export::export(&network, &args.output)?;
    let (parameters, seconds) = (network.parameters(), start.elapsed().as_secs_f64());
    let summary = json!({"file": args.output, "parameters": parameters, "seconds": seconds});
    print(json, &summary, || format!("{parameters} parameters, {seconds:.0} s: {}", args.output.display()))
}

pub fn report_data_free(json: bool, args: &DataFreeArgs, heap: &CountingAllocator<System>) -> Result<()> {
    let widths = args.widths.iter().map(|&k| Width::new(k)).collect::<Result<_, _>>()?;
    ensure!(args.effort > 0.0 && args.effort <= 1.0, "the effort must be above 0 and at most 1");
    let asked = Asked {
        teacher: &args.teacher,
        folder: &args.output,
        work: &args.work,
        widths,
        seeds: args.seeds,
        data: &args.data,
        limit: args.limit.map_or(usize::MAX, NonZeroUsize::get),
        baselines: args.baselines,
        effort: args.effort,
    };
    let teacher = Network::read_pack(&args.teacher)?;
    let test = images::open(&args.data, &teacher, Preparation::new(CROP_FRACTION, Filter::default())?)?;
    let report = data_free(&asked, &*test, heap)?;
    let text = report.markdown()?;
    print(json, &report, || text)
}
