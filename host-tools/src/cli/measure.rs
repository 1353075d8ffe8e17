//! The commands that measure networks, and fetch the images for it: `data fetch`, `evaluate` and `report`.

use std::{alloc::System, fmt::Write as _, num::NonZeroUsize, path::PathBuf};

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use distill_core::{CountingAllocator, Device};
use distill_device::{TrustOptions, check_writable, parse_share, print, write_file};
use distill_host::{
    images::{self, CROP_FRACTION, Filter, LabelledImages, Preparation, cifar10_folder, fetch_cifar10, open_lessons},
    measure::{Comparison, Evaluation, Kind, ReportOptions, Sample, compare, evaluate, fill},
};
use serde::Serialize;

use super::{
    compare::warn,
    files::{ReadOptions, read_network},
};

#[derive(Subcommand)]
pub enum DataCommand {
    /// Download and verify a data set
    #[command(after_help = "Example:\n  distill data fetch cifar10")]
    Fetch(FetchArgs),
}

#[derive(Args)]
pub struct FetchArgs {
    /// The data set: cifar10
    name: String,
    /// Folder to put it in [default: the user's cache folder]
    #[arg(long, value_name = "D")]
    dir: Option<PathBuf>,
    /// Archive to take it from instead: a URL or a path
    #[arg(long, value_name = "SOURCE")]
    from: Option<String>,
}

pub fn fetch_data(json: bool, FetchArgs { name, dir, from }: &FetchArgs) -> Result<()> {
    ensure!(name == "cifar10", "unknown data set {name} (known: cifar10)");
    let dir = dir.clone().map_or_else(cifar10_folder, Ok)?;
    let fetched = fetch_cifar10(&dir, from.as_deref())?;
    print(json, &fetched, || match &fetched.source {
        Some(source) => format!("CIFAR-10 from {source} is in {}", dir.display()),
        None => format!("CIFAR-10 is already in {}", dir.display()),
    })
}

#[derive(Args)]
pub struct EvaluateArgs {
    /// A pack (.ndp), or a model that `distill import` reads
    file: PathBuf,
    /// cifar10 (fetched before), builtin (its first 1,000 test images), or a folder
    ///
    /// A folder holds CIFAR-10's binary files; or a sub-folder of .jpg and .png files for each class (named as the
    /// network names it, or by its index; else taken in byte order of their names); or files named by class, such as
    /// 0007_n01518878.jpg. An orientation in their EXIF data is ignored.
    #[arg(long, value_name = "DATA")]
    data: String,
    /// Share of a picture's shorter side that is used; a picture of the network's own size is used whole
    #[arg(long, value_name = "F", default_value_t = CROP_FRACTION)]
    crop_fraction: f64,
    /// How pictures of another size are resampled
    #[arg(long, value_enum, value_name = "FILTER", default_value_t)]
    filter: Filter,
    #[command(flatten)]
    read: ReadOptions,
    /// Only the images that `run`, `finetune` and `train` hold out from learning; of CIFAR-10, training images
    #[arg(long)]
    held_out: bool,
    /// Share of the images that these commands learn from
    #[arg(long, default_value = "0.9", value_name = "SHARE", value_parser = parse_share, requires = "held_out")]
    train_split: f32,
    /// Only the first N images
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Also compare the network with its teacher on these images, as `distill compare` does
    #[arg(long, value_name = "FILE")]
    teacher: Option<PathBuf>,
    /// Also write the predicted class of each image, one per line
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustOptions,
}

pub fn evaluate_file(json: bool, args: &EvaluateArgs) -> Result<()> {
    args.predictions.as_ref().map_or(Ok(()), |path| check_writable(path, [args.file.as_path()]))?;
    args.trust.check([&args.file].into_iter().chain(&args.teacher).map(PathBuf::as_path))?;
    let network = read_network(&args.file, &args.read)?;
    let preparation = Preparation::new(args.crop_fraction, args.filter)?;
    let images: Box<dyn LabelledImages> = match args.held_out {
        true => Box::new(open_lessons(&args.data, &network, preparation, args.train_split)?.held_out),
        false => images::open(&args.data, &network, preparation)?,
    };
    ensure!(!images.is_empty(), "no image is held out: name a smaller share with --train-split");
    let limit = args.limit.map_or(usize::MAX, NonZeroUsize::get);
    let evaluation = evaluate(&network, &*images, limit, &Device::Cpu)?;
    let with =
        |teacher: &PathBuf| compare(&read_network(teacher, &args.read)?, &network, Sample::Pictures(&*images, limit));
    let comparison = args.teacher.as_ref().map(with).transpose()?;
    comparison.iter().for_each(warn);
    if let Some(path) = &args.predictions {
        let mut lines = String::new();
        evaluation.predictions.iter().try_for_each(|class| writeln!(lines, "{class}"))?;
        write_file(path, lines.as_bytes())?;
    }
    if let Some(doubt) = evaluation.doubt(network.logits()) {
        log::warn!("{doubt}");
    }
    print(json, &Measured { evaluation: &evaluation, comparison: comparison.as_ref() }, || {
        let Evaluation { accuracy, correct, top5, top5_correct, total, parameters, macs, .. } = evaluation;
        let compared = comparison.as_ref().map_or_else(String::new, |comparison| format!("\n{}", comparison.line()));
        // With ten classes or fewer, top-5 says little.
        let top5 = if network.logits() > 10 { format!(", top-5 {top5:.2} % ({top5_correct})") } else { String::new() };
        format!("accuracy {accuracy:.2} % ({correct} of {total}){top5}, {parameters} parameters, {macs} MACs{compared}")
    })
}

/// The object `evaluate --json` prints.
#[derive(Serialize)]
struct Measured<'a> {
    #[serde(flatten)]
    evaluation: &'a Evaluation,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<&'a Comparison>,
}

#[derive(Subcommand)]
pub enum ReportCommand {
    /// Accuracy of every method without data, at several widths: Markdown, JSON and a plot, updated after each student
    #[command(
        name = "data-free",
        after_help = "Example:\n  distill report data-free teacher.ndp -o docs/results --data cifar10"
    )]
    DataFree(ReportOptions),
    /// Accuracy over parameters of students with data (the paper's table 1): distilled, fine-tuned, and the baselines
    #[command(
        name = "parameter-reduction",
        after_help = "Example:\n  distill report parameter-reduction teacher.ndp -o docs/results --widths 0.75,0.5"
    )]
    ParameterReduction(ReportOptions),
    /// What looking ahead adds before and after the fine-tune (table 5)
    #[command(name = "look-ahead", after_help = "Example:\n  distill report look-ahead teacher.ndp -o docs/results")]
    LookAhead(ReportOptions),
    /// Where the time goes, and when each training is as good as knowledge distillation (table 6)
    #[command(name = "timing", after_help = "Example:\n  distill report timing teacher.ndp -o docs/results")]
    Timing(ReportOptions),
    /// Accuracy and bytes of sparse students by how their weights go (table 3a)
    #[command(
        name = "sparsity",
        after_help = "Example:\n  distill report sparsity teacher.ndp -o docs/results --sparsities 0.5,0.7,0.8,0.9"
    )]
    Sparsity(ReportOptions),
}

pub fn make_report(json: bool, command: &ReportCommand, heap: &CountingAllocator<System>) -> Result<()> {
    let (kind, options) = match command {
        ReportCommand::DataFree(options) => (Kind::DataFree, options),
        ReportCommand::ParameterReduction(options) => (Kind::ParameterReduction, options),
        ReportCommand::LookAhead(options) => (Kind::LookAhead, options),
        ReportCommand::Timing(options) => (Kind::Timing, options),
        ReportCommand::Sparsity(options) => (Kind::Sparsity, options),
    };
    let report = fill(kind, options, heap)?;
    let text = report.markdown()?;
    print(json, &report, || text)
}
