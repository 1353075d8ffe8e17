//! `finetune`.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use distill_core::{Training, Tuning};
use distill_device::{SignOptions, print};
use distill_host::{
    export::export,
    images::{Images, Split},
    learn::{
        FineTune, Keep, LearnFrom, NoiseSource, TUNING_RATE, Watched, finetune_student as fine_tune, from_scratch,
        read_student,
    },
    measure::{Comparison, Sample, compare},
    network::Network,
};
use serde::Serialize;
use serde_json::json;

use super::{
    compare::{on_noise, warn},
    files::check_output,
    training::{DataOptions, TuningOptions, accuracy, labelled},
};

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
    #[arg(long, value_name = "L", allow_negative_numbers = true, requires = "data")]
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
