//! The commands that train networks from random weights: `baseline` and `train`.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use distill_core::{Block, Tuning, Width};
use distill_device::{parse_share, print};
use distill_host::{
    export::export,
    images::{Part, class_names},
    import::architecture,
    learn::{Baseline, BaselineOptions, Keep, Preset, Teach, Watched, baseline, from_scratch, teach},
    network::{Network, ending},
};
use serde_json::json;

use super::{
    files::{ReadOptions, check_output, read_network},
    training::{DataOptions, TuningOptions, accuracy, labelled},
};

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
/// Steps of `train` unless told otherwise.
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
    let accuracy = measure.map(|measure| measure(&network)).transpose();
    let accuracy = accuracy.context("the training ended in a network that cannot be used: try a lower --rate")?;
    export(&network, output)?;
    keep.clear()?;
    Ok((network, accuracy))
}

fn held_out_accuracy(accuracy: Option<f64>) -> String {
    accuracy.map_or_else(String::new, |accuracy| format!(", {accuracy:.2} % of the held-out images right"))
}
