//! The commands that train whole networks: `finetune`, `baseline` and `train`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use distill_core::{Block, Device, Training, Tuning, Width};
use distill_device::{
    OptimizerName, ScheduleName, SignOptions, check_distinct, check_writable, parse_share, print, say,
};
use distill_host::{
    export::export,
    images::{Images, LabelledImages, Part, Preparation, Split, class_names, open_lessons, open_training},
    import::architecture,
    learn::{
        Baseline, BaselineOptions, FineTune, Keep, LearnFrom, MetricFiles, NoiseSource, Preset, TUNING_RATE, Teach,
        Watched, baseline, check_classes, finetune_student as fine_tune, from_scratch, read_metrics, read_student,
        teach,
    },
    measure::{Comparison, Sample, compare, evaluate},
    network::{Network, ending},
};
use serde::Serialize;
use serde_json::json;

use super::{
    compare::{on_noise, warn},
    files::{ReadOptions, check_output, read_network},
};

/// Options of every training of a whole network; what is not given is the preset's.
#[derive(Args)]
struct TuningOptions {
    /// Gradient steps
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Images per step
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Update rule
    #[arg(long, value_enum)]
    optimizer: Option<OptimizerName>,
    /// Peak learning rate
    #[arg(long, value_name = "RATE")]
    rate: Option<f32>,
    /// Learning-rate schedule
    #[arg(long, value_enum)]
    schedule: Option<ScheduleName>,
    /// Steps over which the rate rises from a tenth to all of its schedule's
    #[arg(long, value_name = "N")]
    warm_up: Option<usize>,
    /// L2 regularisation
    #[arg(long, value_name = "L2")]
    weight_decay: Option<f32>,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Start over, even if an earlier run of the same was cut off
    #[arg(long)]
    fresh: bool,
    /// File to which step, rate, loss and held-out accuracy are written
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Folder to which the same is written for TensorBoard
    #[arg(long, value_name = "FOLDER")]
    tensorboard: Option<PathBuf>,
}

impl TuningOptions {
    fn tuning(&self, usual: Tuning) -> Tuning {
        let mut training = usual.training;
        if let Some(optimizer) = self.optimizer {
            // The optimiser that is the preset's keeps the preset's rate.
            if optimizer.update() != training.update {
                training.rate = optimizer.update().default_rate();
            }
            training.update = optimizer.update();
        }
        let steps = self.steps.unwrap_or(training.steps);
        let training = Training {
            steps,
            batch: self.batch.unwrap_or(training.batch),
            rate: self.rate.unwrap_or(training.rate),
            schedule: self.schedule.map_or(training.schedule, ScheduleName::schedule),
            warm_up: self.warm_up.unwrap_or(training.warm_up.min(steps / 10)),
            weight_decay: self.weight_decay.unwrap_or(training.weight_decay),
            ..training
        };
        Tuning { training, seed: self.seed, ..usual }
    }

    /// Checks before any work that the metrics can be written, and that they replace nothing else.
    fn check(&self, output: &Path) -> Result<()> {
        if let Some(path) = &self.metrics {
            check_writable(path, [])?;
            read_metrics(path)?;
        }
        if let Some(folder) = &self.tensorboard {
            check_distinct(output, [folder.as_path()])?;
            fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        Ok(())
    }

    fn metrics(&self) -> MetricFiles<'_> {
        MetricFiles { csv: self.metrics.as_deref(), tensorboard: self.tensorboard.as_deref() }
    }
}

/// Which images are learned from, and which are held out.
#[derive(Args)]
struct DataOptions {
    /// Images to learn from: cifar10 (its training images), or a folder as `distill evaluate` takes it
    #[arg(long, value_name = "DATA")]
    data: Option<String>,
    /// Share of the images to learn from; the accuracy on the others decides what is chosen
    #[arg(long, default_value = "0.9", value_name = "SHARE", value_parser = parse_share, requires = "data")]
    train_split: f32,
}

impl DataOptions {
    /// The images, with their classes if asked for; `None` without `--data`.
    fn open(&self, network: &Network, labelled: bool) -> Result<Option<Split>> {
        let Some(data) = &self.data else { return Ok(None) };
        let preparation = Preparation::default();
        let split = if labelled {
            let split = open_lessons(data, network, preparation, self.train_split)?;
            check_classes(network, split.learned.labels()).with_context(|| format!("cannot learn from {data}"))?;
            split
        } else {
            open_training(data, network, preparation, self.train_split)?
        };
        split.learned.check()?;
        let Split { learned, held_out } = &split;
        say(&format!("data: {} images of {data} to learn from, {} held out", learned.len(), held_out.len()));
        Ok(Some(split))
    }
}

/// Percent of labelled images whose class a network gives.
fn accuracy(network: &Network, images: &Part) -> Result<f64> {
    Ok(evaluate(network, images, usize::MAX, &Device::Cpu)?.accuracy)
}

/// Whether accuracy can be measured on images.
fn labelled(images: &Part) -> Option<&Part> {
    (!images.labels().is_empty()).then_some(images)
}

#[derive(Args)]
pub struct FinetuneArgs {
    /// Teacher pack
    teacher: PathBuf,
    /// A whole student (.ndp, .onnx, .safetensors), or student packs of the teacher
    #[arg(required = true)]
    students: Vec<PathBuf>,
    /// File to write: .ndp, .safetensors or .onnx
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Learn from noise
    #[arg(long, value_enum, default_value_t = NoiseSource::Calibrated, conflicts_with = "data")]
    noise: NoiseSource,
    #[command(flatten)]
    data: DataOptions,
    /// Steps, loss and rate [default: usual]
    #[arg(long, value_enum)]
    preset: Option<FinetunePreset>,
    /// Divides the logits before the softmaxes are compared [default: 2.5]
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Weight of the cross-entropy with the labels; with 0 the images need no classes [default: 1 with --data]
    #[arg(long, value_name = "L", allow_negative_numbers = true)]
    lambda: Option<f32>,
    /// Weight of the relative error of each block's output [default: 100; with --data 10; paper: 0]
    #[arg(long, value_name = "W")]
    features: Option<f32>,
    #[command(flatten)]
    tuning: TuningOptions,
    #[command(flatten)]
    sign: SignOptions,
}

/// How a student is fine-tuned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FinetunePreset {
    /// 50000 steps of momentum (batch 128) from 1e-3, divided by ten after each third, L2 1e-4, without --features; the
    /// paper's rate of 1e-2 is for students with batch norms, and ours have none
    Paper,
    /// Adam along a cosine from 1e-3: 3000 steps of 128 noise images, or 8000 steps of 64 images of a data set
    Usual,
}

impl FinetunePreset {
    fn tuning(self, data: bool) -> Tuning {
        match self {
            Self::Usual if data => Tuning::with_data(Tuning::STEPS_WITH_DATA),
            Self::Usual => Tuning::new(Tuning::STEPS),
            Self::Paper => {
                let training = Training { rate: TUNING_RATE, warm_up: 0, ..from_scratch(50_000) };
                Tuning { training, features: 0.0, ..Tuning::new(0) }
            }
        }
    }
}

/// Images that a student is compared on where none is held out.
const COMPARED: usize = 512;

/// How good a student is before or after its fine-tune.
#[derive(Serialize)]
struct Judged {
    #[serde(flatten)]
    comparison: Comparison,
    /// Percent of the held-out images, if there are any with labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
}

impl Judged {
    fn line(&self) -> String {
        let accuracy = self
            .accuracy
            .map_or_else(String::new, |accuracy| format!("{accuracy:.2} % of the held-out images right; "));
        accuracy + &self.comparison.line()
    }

    /// Whether this student is better than it was before.
    fn follows(&self, before: &Self) -> bool {
        match self.accuracy.zip(before.accuracy) {
            Some((after, before)) => after >= before,
            None => self.comparison.follows(&before.comparison),
        }
    }
}

pub fn finetune_student(json: bool, args: &FinetuneArgs) -> Result<()> {
    let FinetuneArgs { teacher, students, output, .. } = args;
    check_output(output, students.iter().chain([teacher]))?;
    args.tuning.check(output)?;
    let signer = args.sign.signer(output)?;
    let student = read_student(teacher, students)?;
    let whole = Network::read_pack(teacher)?;
    let usual = args.preset.unwrap_or(FinetunePreset::Usual).tuning(args.data.data.is_some());
    let tuning = args.tuning.tuning(Tuning {
        temperature: args.temperature.unwrap_or(usual.temperature),
        labels: args.lambda.unwrap_or(usual.labels),
        features: args.features.unwrap_or(usual.features),
        ..usual
    });
    let split = args.data.open(&whole, tuning.labels > 0.0)?;
    let held_out = split.as_ref().map(|split| &split.held_out).filter(|images| !images.is_empty());
    let judge = |network: &Network| -> Result<Judged> {
        let comparison = match (held_out, &split) {
            (Some(images), _) => compare(&whole, network, Sample::Pictures(images, usize::MAX))?,
            (None, Some(Split { learned, .. })) => compare(&whole, network, Sample::Pictures(learned, COMPARED))?,
            (None, None) => on_noise(teacher, &whole, network)?,
        };
        let accuracy = held_out.and_then(labelled).map(|images| accuracy(network, images)).transpose()?;
        Ok(Judged { comparison, accuracy })
    };
    let before = judge(&student)?;
    let start = Instant::now();
    let from = split.as_ref().map_or(LearnFrom::Noise(args.noise), |split| LearnFrom::Images(&split.learned));
    let task = FineTune { teacher, student: &student, from, tuning: &tuning };
    let keep = Keep { output, fresh: args.tuning.fresh };
    let measure = held_out.and_then(labelled).map(|images| |network: &Network| accuracy(network, images));
    let watched = Watched {
        metrics: args.tuning.metrics(),
        accuracy: measure.as_ref().map(|measure| measure as _),
        ..Watched::new("fine-tuning", keep)
    };
    let (network, loss) = fine_tune(task, watched)?;
    let seconds = start.elapsed().as_secs_f64();
    let after = judge(&network).context("the fine-tune ruined the student: try a lower --rate")?;
    // Without images that are held out from it, nothing can judge a training on images.
    let unjudged = split.is_some() && held_out.is_none();
    let kept = loss.is_none() || unjudged || after.follows(&before);
    if unjudged {
        log::warn!("no image is held out: whether the fine-tune made the student better is not known");
    }
    let best = if kept { &after } else { &before };
    match best.accuracy {
        Some(accuracy) if accuracy * whole.logits() as f64 <= 100.0 => {
            log::warn!("the student is no better than guessing")
        }
        Some(_) => {}
        None => warn(&best.comparison),
    }
    if !kept {
        log::warn!(
            "the fine-tune did not make the student better: {} is the student as it was; a lower --rate or more --steps may help",
            output.display()
        );
    }
    let network = if kept { network } else { student.folded()? };
    export(&network, output)?;
    signer.map_or(Ok(()), |signer| signer.sign_file(output))?;
    keep.clear()?;
    let parameters = network.parameters();
    let summary = json!({
        "file": output, "parameters": parameters, "loss": loss, "seconds": seconds, "kept": kept, "before": before,
        "after": after,
    });
    print(json, &summary, || match loss {
        Some(loss) => format!(
            "{} steps in {seconds:.0} s, last loss {loss:.4}: {}\nbefore: {}\nafter{}: {}",
            tuning.training.steps,
            output.display(),
            before.line(),
            if kept { "" } else { ", not kept" },
            after.line()
        ),
        None => format!("nothing to train: {}", output.display()),
    })
}

#[derive(Args)]
pub struct BaselineArgs {
    /// How the student is trained
    #[arg(value_enum)]
    method: Baseline,
    /// Teacher pack
    teacher: PathBuf,
    /// File to write: .ndp, .safetensors or .onnx
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Share of the inner channels that each block keeps
    #[arg(long, default_value_t = 0.5, value_name = "K", value_parser = parse_share)]
    width: f32,
    /// How much work goes into it
    #[arg(long, value_enum, default_value_t = Preset::Short)]
    preset: Preset,
    #[command(flatten)]
    data: DataOptions,
    /// Divides the logits before the softmaxes are compared [default: 2.5; zskd: 20]
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Weight of the cross-entropy with the labels in kd [default: 1]
    #[arg(long, value_name = "L", allow_negative_numbers = true)]
    lambda: Option<f32>,
    #[command(flatten)]
    tuning: TuningOptions,
}

pub fn baseline_student(json: bool, args: &BaselineArgs) -> Result<()> {
    let &BaselineArgs { method, preset, width, .. } = args;
    check_output(&args.output, [&args.teacher].into_iter())?;
    args.tuning.check(&args.output)?;
    let start = Instant::now();
    let usual = preset.tuning(method);
    let tuning = args.tuning.tuning(Tuning {
        temperature: args.temperature.unwrap_or(usual.temperature),
        labels: args.lambda.unwrap_or(usual.labels),
        ..usual
    });
    ensure!(args.lambda.is_none() || method == Baseline::Kd, "--lambda is for kd alone");
    ensure!(args.temperature.is_none() || method != Baseline::Ce, "--temperature is for methods with a teacher");
    ensure!(method.takes_data() || args.data.data.is_none(), "this baseline takes no data: leave --data out");
    let split = args.data.open(&Network::read_pack(&args.teacher)?, tuning.labels > 0.0)?;
    let images = split.as_ref().map(|split| &split.learned);
    let options = BaselineOptions { method, preset, width: Width::new(width)?, images, tuning };
    let held_out = split.as_ref().and_then(|split| labelled(&split.held_out));
    let (network, accuracy) =
        trained(&args.tuning, &args.output, held_out, |watched| baseline(&args.teacher, options, watched))?;
    let (parameters, seconds) = (network.parameters(), start.elapsed().as_secs_f64());
    let summary = json!({"file": args.output, "parameters": parameters, "seconds": seconds, "accuracy": accuracy});
    print(json, &summary, || {
        format!("{parameters} parameters, {seconds:.0} s{}: {}", held_out_accuracy(accuracy), args.output.display())
    })
}

#[derive(Args)]
pub struct TrainArgs {
    /// resnet20 or another CIFAR ResNet (6n + 2 layers) with the classes of --data, or a model's file, whose weights are not used
    architecture: String,
    /// File to write: .ndp, .safetensors or .onnx
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    read: ReadOptions,
    /// Deviation of Gaussian noise on the output of every block between stem and head: they learn to bear errors
    #[arg(long, default_value_t = 0.0, value_name = "SIGMA", allow_negative_numbers = true)]
    activation_noise: f32,
    #[command(flatten)]
    tuning: TuningOptions,
}

const NO_DATA: &str = "a network learns from images: name them with --data";
/// Peak rate of `train` for a network without batch norms.
const UNNORMALISED_RATE: f32 = 1e-2;
/// Steps of `train` unless told otherwise: half an hour of two cores for a ResNet-20.
const TEACHING_STEPS: usize = 12_000;

pub fn train_teacher(json: bool, args: &TrainArgs) -> Result<()> {
    let path = Path::new(&args.architecture);
    check_output(&args.output, [&path.to_owned()].into_iter())?;
    args.tuning.check(&args.output)?;
    let network = match path.exists() {
        true => read_network(path, &args.read)?,
        false => {
            let data = args.data.data.as_deref().context(NO_DATA)?;
            architecture(&args.architecture, &class_names(data)?, &args.read.options()?)?
        }
    };
    let mut training = from_scratch(args.tuning.steps.unwrap_or(TEACHING_STEPS));
    if !network.blocks.iter().any(Block::has_statistics) && args.tuning.rate.is_none() {
        training.rate = UNNORMALISED_RATE;
        log::warn!(
            "the network has no batch norms: it is trained at a rate of {UNNORMALISED_RATE}, not {}",
            from_scratch(1).rate
        );
    }
    let usual = Tuning { training, ..Tuning::new(0) };
    let tuning = args.tuning.tuning(Tuning { disturbance: args.activation_noise, ..usual });
    let split = args.data.open(&network, true)?.context(NO_DATA)?;
    let start = Instant::now();
    let task = Teach { network: &network, images: &split.learned, tuning };
    let mut loss = None;
    let (network, accuracy) = trained(&args.tuning, &args.output, labelled(&split.held_out), |watched| {
        let (network, last) = teach(task, watched)?;
        loss = last;
        Ok(network)
    })?;
    let (parameters, seconds) = (network.parameters(), start.elapsed().as_secs_f64());
    if accuracy.is_some_and(|accuracy| accuracy * network.logits() as f64 <= 100.0) {
        log::warn!("the network is no better than guessing: a lower --rate or more --steps may help");
    }
    let summary =
        json!({"file": args.output, "parameters": parameters, "seconds": seconds, "loss": loss, "accuracy": accuracy});
    print(json, &summary, || {
        format!(
            "{} steps in {seconds:.0} s{}: {output}\nNext: distill {next}",
            tuning.training.steps,
            held_out_accuracy(accuracy),
            output = args.output.display(),
            next = match ending(&args.output) {
                "ndp" => format!(
                    "run {} -o blocks.ndp --inputs {}",
                    args.output.display(),
                    args.data.data.as_deref().unwrap_or_default()
                ),
                _ => format!("import {} -o teacher.ndp", args.output.display()),
            },
        )
    })
}

/// Trains a network from random weights and writes it; returns its accuracy on the held-out images, if they have labels.
fn trained(
    options: &TuningOptions,
    output: &Path,
    held_out: Option<&Part>,
    train: impl FnOnce(Watched<'_>) -> Result<Network>,
) -> Result<(Network, Option<f64>)> {
    let keep = Keep { output, fresh: options.fresh };
    let measure = held_out.map(|images| |network: &Network| accuracy(network, images));
    let network = train(Watched {
        metrics: options.metrics(),
        accuracy: measure.as_ref().map(|measure| measure as _),
        ..Watched::new("training", keep)
    })?;
    let accuracy = measure.map(|measure| measure(&network)).transpose()?;
    export(&network, output)?;
    keep.clear()?;
    Ok((network, accuracy))
}

fn held_out_accuracy(accuracy: Option<f64>) -> String {
    accuracy.map_or_else(String::new, |accuracy| format!(", {accuracy:.2} % of the held-out images right"))
}
