//! The commands of `distill`: what the arguments say, and what to print.

mod data_free;

use std::{
    alloc::System,
    fmt::Write as _,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use distill_core::{CountingAllocator, Device, Encoding, Manifest, Shape};
use distill_device::{WorkOptions, check_distinct, open_pack, print, start_log, write_file};
use distill_host::{
    export::{self, recompose},
    images::{self, CROP_FRACTION, Filter, Preparation},
    import::{ImportOptions, Normalisation, Split, import, safetensors},
    measure::{Evaluation, evaluate},
    network::Network,
    quickstart::quickstart,
    show::{self, Format, Inspection, PlanTable, inspect, read_blocks},
};
use serde::Serialize;
use serde_json::json;

use self::data_free::{
    BaselineArgs, CalibrateArgs, FinetuneArgs, ReportCommand, baseline_file, calibrate_file, finetune_files,
    report_data_free,
};

/// Make a trained network smaller, block by block, without data
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object on stdout; progress stays on stderr
    #[arg(long, global = true)]
    json: bool,
    /// Say more (-v: information, -vv: details)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Distil a built-in ResNet-20 at three widths and show what came out
    #[command(after_help = "Example:\n  distill quickstart --dir demo")]
    Quickstart {
        /// Folder to write to
        #[arg(long, default_value = "distill-quickstart", value_name = "D")]
        dir: PathBuf,
    },
    /// Data sets
    Data {
        #[command(subcommand)]
        command: DataCommand,
    },
    /// Turn a trained model into a teacher pack
    #[command(after_help = "Example:\n  distill import resnet20.th -o teacher.ndp")]
    Import(ImportArgs),
    /// Show the blocks of a network
    #[command(
        after_help = "Examples:\n  distill inspect teacher.ndp\n  distill inspect teacher.ndp --budget 8MiB --width 0.5 --steps 150\n  distill inspect teacher.ndp --draw teacher.svg"
    )]
    Inspect(Box<InspectArgs>),
    /// Put noise images into a teacher pack that look like data to the teacher, for --noise calibrated; no data is used
    #[command(after_help = "Example:\n  distill calibrate teacher.ndp -o teacher.ndp")]
    Calibrate(CalibrateArgs),
    /// Measure accuracy on labelled images
    #[command(
        after_help = "Examples:\n  distill evaluate student.ndp --data cifar10\n  distill evaluate student.ndp --data imagenet/val --crop-fraction 0.875 --filter bicubic"
    )]
    Evaluate(EvaluateArgs),
    /// Put students back together with their teacher
    #[command(after_help = "Example:\n  distill recompose teacher.ndp student.ndp -o student.onnx")]
    Recompose {
        /// Teacher pack
        teacher: PathBuf,
        /// Student packs of that teacher; a later one wins
        #[arg(required = true)]
        students: Vec<PathBuf>,
        /// File to write: .ndp, .safetensors or .onnx
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Let a student learn from its teacher once more, as a whole network, on noise
    #[command(after_help = "Example:\n  distill finetune teacher.ndp blocks.ndp -o student.ndp --noise calibrated")]
    Finetune(FinetuneArgs),
    /// Teach a student end to end without data, by the methods that neighbourhood distillation is compared with
    #[command(after_help = "Example:\n  distill baseline zskd teacher.ndp -o student.ndp --width 0.5")]
    Baseline(BaselineArgs),
    /// Fill a table of what was measured, and go on with one
    Report {
        #[command(subcommand)]
        command: ReportCommand,
    },
}

#[derive(Subcommand)]
enum DataCommand {
    /// Download and verify a data set
    #[command(after_help = "Example:\n  distill data fetch cifar10")]
    Fetch {
        /// The data set: cifar10
        name: String,
        /// Folder to put it in [default: the user's cache folder]
        #[arg(long, value_name = "D")]
        dir: Option<PathBuf>,
        /// Archive to take it from instead: a URL or a path
        #[arg(long, value_name = "SOURCE")]
        from: Option<String>,
    },
}

#[derive(Args)]
struct ImportArgs {
    /// .onnx, .th, .pth, .pt or .safetensors
    file: PathBuf,
    /// Architecture that the tensors must be of, such as resnet20 [default: told from their names]
    #[arg(long, value_name = "A")]
    arch: Option<String>,
    /// How pixels in 0..1 are normalised: imagenet, cifar10, efficientnet-lite or M,M,M/S,S,S [default: what the file or
    /// its architecture says, else imagenet]
    #[arg(long, value_name = "N")]
    normalise: Option<String>,
    /// Shape of an image, such as 3x224x224 [default: what the file says, or usual for its architecture]
    #[arg(long, value_name = "CxHxW")]
    input: Option<String>,
    /// How large a neighbourhood is: unit, layer or a number of layers
    #[arg(long, value_name = "S", default_value_t = Split::Unit)]
    split: Split,
    /// Store the weights in half precision
    #[arg(long)]
    half: bool,
    /// Teacher pack to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Args)]
#[command(mut_group("WorkOptions", |options| options.requires("budget")))]
struct InspectArgs {
    /// .ndp, .onnx, or .safetensors written by recompose
    file: PathBuf,
    /// Also draw the blocks: .svg, or .dot for Graphviz
    #[arg(long, value_name = "PICTURE", conflicts_with = "budget")]
    draw: Option<PathBuf>,
    /// With a budget: how a run with these options would stay inside it
    #[command(flatten)]
    work: WorkOptions,
}

#[derive(Args)]
struct EvaluateArgs {
    /// .ndp, or .safetensors written by recompose
    file: PathBuf,
    /// cifar10 (fetched before), builtin (its first 1,000 test images), or a folder
    ///
    /// A folder holds CIFAR-10's binary files; or a sub-folder of .jpg and .png files for each class (in byte order of
    /// their names, unless every name is one of the network's classes); or files named by class, such as
    /// 0007_n01518878.jpg. An orientation in their EXIF data is ignored.
    #[arg(long, value_name = "DATA")]
    data: String,
    /// Share of a picture's shorter side that is seen; a picture of the network's own size is taken whole
    #[arg(long, value_name = "F", default_value_t = CROP_FRACTION)]
    crop_fraction: f64,
    /// How pictures of another size are made to fit
    #[arg(long, value_enum, value_name = "FILTER", default_value_t)]
    filter: Filter,
    /// How pixels in 0..1 are normalised: imagenet, cifar10, efficientnet-lite or M,M,M/S,S,S [default: what the network says]
    #[arg(long, value_name = "N")]
    normalise: Option<String>,
    /// Only the first N images
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Also write the predicted class of each image, one a line
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
}

/// Parses the arguments and runs the command.
pub fn run(heap: &CountingAllocator<System>) -> Result<()> {
    let cli = Cli::parse();
    start_log(cli.verbose);
    let device = Device::Cpu;
    let json = cli.json;
    match cli.command {
        Command::Quickstart { dir } => {
            let outcome = quickstart(&dir, &device, heap)?;
            print(json, &outcome, || outcome.table())
        }
        Command::Data { command: DataCommand::Fetch { name, dir, from } } => {
            fetch_data(json, &name, dir, from.as_deref())
        }
        Command::Import(args) => import_file(json, &args),
        Command::Inspect(args) => inspect_file(json, &args),
        Command::Calibrate(args) => calibrate_file(json, &args),
        Command::Evaluate(args) => evaluate_file(json, &args, &device),
        Command::Finetune(args) => finetune_files(json, &args),
        Command::Baseline(args) => baseline_file(json, &args),
        Command::Report { command: ReportCommand::DataFree(args) } => report_data_free(json, &args, heap),
        Command::Recompose { teacher, students, output } => recompose_files(json, &teacher, &students, &output),
    }
}

fn fetch_data(json: bool, name: &str, dir: Option<PathBuf>, from: Option<&str>) -> Result<()> {
    if name != "cifar10" {
        bail!("unknown data set {name} (known: cifar10)");
    }
    let dir = dir.map_or_else(images::cifar10_folder, Ok)?;
    let fetched = images::fetch_cifar10(&dir, from)?;
    print(json, &fetched, || match &fetched.source {
        Some(source) => format!("CIFAR-10 from {source} is in {}", dir.display()),
        None => format!("CIFAR-10 is already in {}", dir.display()),
    })
}

fn import_file(json: bool, args: &ImportArgs) -> Result<()> {
    check_distinct(&args.output, [args.file.as_path()])?;
    let normalisation = args.normalise.as_deref().map(Normalisation::parse).transpose()?;
    let options = ImportOptions {
        architecture: args.arch.clone(),
        normalisation,
        input: args.input.as_deref().map(image_shape).transpose()?,
        split: args.split,
    };
    let network = import(&args.file, &options)?;
    network.write_pack(&args.output, if args.half { Encoding::F16 } else { Encoding::F32 })?;
    let inspection = inspect(&network.manifest, &network.blocks);
    print(json, &inspection, || {
        format!(
            "{}: {} blocks to distil, {} parameters, {} MACs, mean {:?}, deviation {:?}\nwritten: {}",
            inspection.architecture,
            network.neighbourhoods().count(),
            inspection.parameters,
            inspection.macs,
            network.manifest.mean,
            network.manifest.std,
            args.output.display()
        )
    })
}

fn inspect_file(json: bool, InspectArgs { file, draw, work }: &InspectArgs) -> Result<()> {
    if work.budget.is_some() {
        ensure!(ending(file) == "ndp", "cannot plan a run over {}: a run takes a teacher pack (.ndp)", file.display());
        let plan = PlanTable::new(file, &work.settings()?)?;
        return print(json, &plan, || plan.table());
    }
    let draw = draw.as_deref();
    let format = draw.map(Format::of).transpose()?;
    draw.map_or(Ok(()), |picture| check_distinct(picture, [file.as_path()]))?;
    let (manifest, blocks) = if ending(file) == "ndp" {
        read_blocks(file)?
    } else {
        let Network { manifest, blocks } = read_network(file)?;
        (manifest, blocks)
    };
    let mut inspection = inspect(&manifest, &blocks);
    if ending(file) == "ndp" {
        inspection = inspection.with_calibrated(open_pack(file)?.calibrated().copied());
    }
    if let (Some(path), Some(format)) = (draw, format) {
        write_file(path, show::draw(&inspection, &blocks, format)?.as_bytes())?;
    }
    let summary = DrawnInspection { inspection: &inspection, picture: draw };
    print(json, &summary, || match draw {
        Some(path) => format!("{}\ndrawn: {}", inspection.table(), path.display()),
        None => inspection.table(),
    })
}

/// The object `inspect --json` prints.
#[derive(Serialize)]
struct DrawnInspection<'a> {
    #[serde(flatten)]
    inspection: &'a Inspection,
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<&'a Path>,
}

fn evaluate_file(json: bool, args: &EvaluateArgs, device: &Device) -> Result<()> {
    let mut network = read_network(&args.file)?;
    if let Some(text) = &args.normalise {
        let Normalisation { mean, std } = Normalisation::parse(text)?;
        network = Network::new(Manifest { mean, std, ..network.manifest }, network.blocks)?;
    }
    let preparation = Preparation::new(args.crop_fraction, args.filter)?;
    let images = images::open(&args.data, &network, preparation)?;
    let evaluation = evaluate(&network, &*images, args.limit.map_or(usize::MAX, NonZeroUsize::get), device)?;
    if let Some(path) = &args.predictions {
        let mut lines = String::new();
        evaluation.predictions.iter().try_for_each(|class| writeln!(lines, "{class}"))?;
        write_file(path, lines.as_bytes())?;
    }
    print(json, &evaluation, || {
        let Evaluation { accuracy, correct, top5, top5_correct, total, parameters, macs, .. } = evaluation;
        // Among ten classes the label is too often one of five.
        let top5 = if network.logits() > 10 { format!(", top-5 {top5:.2} % ({top5_correct})") } else { String::new() };
        format!("accuracy {accuracy:.2} % ({correct} of {total}){top5}, {parameters} parameters, {macs} MACs")
    })
}

fn recompose_files(json: bool, teacher: &Path, students: &[PathBuf], output: &Path) -> Result<()> {
    check_distinct(output, students.iter().map(PathBuf::as_path).chain([teacher]))?;
    export::check_ending(output)?;
    let network = recompose(teacher, students)?;
    let difference = export::export(&network, output)?;
    let (parameters, macs) = (network.parameters(), network.macs());
    let summary = json!({"file": output, "parameters": parameters, "macs": macs, "largest_difference": difference});
    print(json, &summary, || {
        let read = if ending(output) == "ndp" {
            String::new()
        } else {
            format!("\nread again, its logits differ by at most {difference:.1e} of the largest")
        };
        format!("{parameters} parameters, {macs} MACs: {}{read}", output.display())
    })
}

fn read_network(path: &Path) -> Result<Network> {
    match ending(path) {
        "safetensors" => safetensors::read(path)?.with_context(|| {
            format!("{} does not describe its blocks: turn it into a pack with `distill import`", path.display())
        }),
        "ndp" => Network::read_pack(path),
        "onnx" => import(path, &ImportOptions::default()),
        other => bail!(
            "cannot read {}: unknown ending {other:?} (known: ndp, onnx, and safetensors written by recompose)",
            path.display()
        ),
    }
}

/// `3x224x224`.
fn image_shape(text: &str) -> Result<Shape> {
    let extents: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
    match extents.as_deref() {
        Ok(&[channels, height, width]) => Ok(Shape::new(channels, height, width)),
        _ => bail!("{text} is no shape of an image, such as 3x224x224"),
    }
}

fn ending(path: &Path) -> &str {
    path.extension().and_then(|ending| ending.to_str()).unwrap_or_default()
}
