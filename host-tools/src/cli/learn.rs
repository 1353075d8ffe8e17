//! The commands that make noise, and train whole students on it: `calibrate`, `finetune` and `baseline`.

use std::{path::PathBuf, time::Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};
use distill_core::{Calibration, Pull, Start, Training, Tuning, Width};
use distill_device::{SignOptions, check_pack_name, open_pack, print};
use distill_host::{
    export::export,
    learn::{
        Baseline, BaselineOptions, CALIBRATED_IMAGES, CALIBRATION_STEPS, FineTune, Keep, NoiseSource, Preset, baseline,
        calibrate, finetune_on_noise, read_student, usual_calibration,
    },
    network::Network,
};
use serde_json::json;

use super::{
    compare::{on_noise, warn},
    files::check_output,
};

#[derive(Args)]
pub struct CalibrateArgs {
    /// Teacher pack. With batch norms, images are pulled towards their statistics, otherwise towards classes
    teacher: PathBuf,
    /// Pack to write: the teacher with the images, in its own place if you like. Images of the same calibration that it
    /// already holds are kept
    #[arg(short, long, id = "updated", value_name = "FILE")]
    output: PathBuf,
    /// Number of images, rounded up to whole batches
    #[arg(long, default_value_t = CALIBRATED_IMAGES, value_name = "N")]
    images: usize,
    /// Images whose statistics are matched together [default: 128, or fewer if they are large]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Gradient steps on the pixels of a batch
    #[arg(long, default_value_t = CALIBRATION_STEPS, value_name = "N")]
    steps: usize,
    /// Weight of the difference between neighbouring pixels [default: 0.05; 10 without batch norms]
    #[arg(long, value_name = "W")]
    smoothness: Option<f32>,
    /// Weight of the cross-entropy with a random class for each image [default: 0.1; 1 without batch norms; 0 if the
    /// output is not one number for each class]
    #[arg(long, value_name = "W")]
    classes: Option<f32>,
    /// What the images start from [default: octaves; natural without batch norms]
    #[arg(long, value_enum)]
    start: Option<StartName>,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    #[command(flatten)]
    sign: SignOptions,
}

/// `--start`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum StartName {
    /// N(0,1) in every pixel
    White,
    /// Noise of every octave, with a spectrum as steep as natural images' (1/f)
    Octaves,
    /// The same, most of it common to all channels
    Natural,
}

impl StartName {
    fn start(self) -> Start {
        match self {
            Self::White => Start::White,
            Self::Octaves => Start::Octaves,
            Self::Natural => Start::Natural,
        }
    }
}

pub fn calibrate_teacher(json: bool, args: &CalibrateArgs) -> Result<()> {
    check_pack_name(&args.output)?;
    let signer = args.sign.signer(&args.output)?;
    let &CalibrateArgs { batch, steps, smoothness, classes, seed, .. } = args;
    let usual = usual_calibration(&Network::read_pack(&args.teacher)?, steps, seed);
    let pull = Pull {
        smoothness: smoothness.unwrap_or(usual.pull.smoothness),
        classes: classes.unwrap_or(usual.pull.classes),
        ..usual.pull
    };
    let start = args.start.map_or(usual.start, StartName::start);
    let calibration = Calibration { batch: batch.unwrap_or(usual.batch), start, pull, ..usual };
    let was_signed = open_pack(&args.teacher)?.signature().is_some();
    let outcome = calibrate(&args.teacher, &args.output, &calibration, args.images)?;
    match signer {
        Some(signer) => signer.sign_file(&args.output)?,
        None if was_signed => log::warn!("{} is not signed, as the teacher was: --sign does it", args.output.display()),
        None => {}
    }
    print(json, &outcome, || {
        format!(
            "{} images in {:.0} s, {}: {output}\n\
             Next: distill run {output} -o blocks.ndp",
            outcome.images,
            outcome.seconds,
            outcome.distance,
            output = args.output.display(),
        )
    })
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
    /// The images to train on
    #[arg(long, value_enum, default_value_t = NoiseSource::Calibrated)]
    noise: NoiseSource,
    /// Gradient steps
    #[arg(long, default_value_t = Tuning::STEPS, value_name = "N")]
    steps: usize,
    /// Images per step
    #[arg(long, default_value_t = Tuning::new(0).training.batch, value_name = "N")]
    batch: usize,
    /// Peak learning rate of Adam, which follows a cosine to zero
    #[arg(long, default_value_t = Tuning::new(0).training.rate, value_name = "RATE")]
    rate: f32,
    /// Divides the logits before the softmaxes are compared
    #[arg(long, default_value_t = Tuning::new(0).temperature, value_name = "T")]
    temperature: f32,
    /// Weight of the relative error of each block's output
    #[arg(long, default_value_t = Tuning::new(0).features, value_name = "W")]
    features: f32,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Start over, even if an earlier run of the same was cut off
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    sign: SignOptions,
}

pub fn finetune_student(json: bool, args: &FinetuneArgs) -> Result<()> {
    let FinetuneArgs { teacher, students, output, .. } = args;
    check_output(output, students.iter().chain([teacher]))?;
    let signer = args.sign.signer(output)?;
    let student = read_student(teacher, students)?;
    let training = Training { batch: args.batch, rate: args.rate, ..Tuning::new(args.steps).training };
    let tuning = Tuning { training, temperature: args.temperature, features: args.features, seed: args.seed };
    let whole = Network::read_pack(teacher)?;
    let before = on_noise(teacher, &whole, &student)?;
    let start = Instant::now();
    let task = FineTune { teacher, student: &student, source: args.noise, tuning: &tuning };
    let keep = Keep { output, fresh: args.fresh };
    let (network, loss) = finetune_on_noise(task, keep)?;
    let seconds = start.elapsed().as_secs_f64();
    let after = on_noise(teacher, &whole, &network)?;
    let kept = loss.is_none() || after.follows(&before);
    warn(if kept { &after } else { &before });
    if !kept {
        log::warn!(
            "the fine-tune did not bring the student nearer to its teacher: {} is the student as it was; a lower --rate may help",
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
            "{} steps in {seconds:.0} s, last cross-entropy {loss:.4}: {}\nbefore: {}\nafter{}: {}",
            args.steps,
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
    #[arg(long, default_value_t = 0.5, value_name = "K")]
    width: f32,
    /// How much work goes into it
    #[arg(long, value_enum, default_value_t = Preset::Short)]
    preset: Preset,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Start over, even if an earlier run of the same was cut off
    #[arg(long)]
    fresh: bool,
}

pub fn baseline_student(json: bool, args: &BaselineArgs) -> Result<()> {
    let &BaselineArgs { method, preset, width, seed, .. } = args;
    check_output(&args.output, [&args.teacher].into_iter())?;
    let start = Instant::now();
    let options = BaselineOptions { method, preset, width: Width::new(width)?, seed };
    let keep = Keep { output: &args.output, fresh: args.fresh };
    let network = baseline(&args.teacher, options, keep)?;
    export(&network, &args.output)?;
    keep.clear()?;
    let (parameters, seconds) = (network.parameters(), start.elapsed().as_secs_f64());
    let summary = json!({"file": args.output, "parameters": parameters, "seconds": seconds});
    print(json, &summary, || format!("{parameters} parameters, {seconds:.0} s: {}", args.output.display()))
}
