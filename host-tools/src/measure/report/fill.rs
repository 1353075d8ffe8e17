//! Fills a report student by student, so that it can be continued after a cut.

use std::{
    alloc::System,
    fmt::Write as _,
    fs,
    io::ErrorKind,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use distill_core::{CountingAllocator, Device, Pattern, Sparsity, Width};
use distill_device::{VERSION, open_pack};
use serde_json::Value;

use super::{
    kind::{Kind, Size},
    maker::Maker,
    method::Method,
    recipes::Recipes,
    table::Report,
};
use crate::{
    images::{self, Images, LabelledImages, Preparation, Split, TRAIN_SPLIT, open_lessons},
    learn::{CALIBRATION_STEPS, Preset, usual_calibration},
    measure::evaluate,
    network::Network,
};

/// What a report should hold, and where.
#[derive(Args, Clone, Debug)]
pub struct ReportOptions {
    /// Teacher pack, whose batch norms are not folded
    teacher: PathBuf,
    /// Folder to write to; a report that is already there is completed
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// Test images, as `distill evaluate` takes them
    #[arg(long, value_name = "DATA", default_value = "cifar10")]
    data: String,
    /// Images that students with data learn from, as `distill finetune` takes them
    #[arg(long, value_name = "DATA", default_value = "cifar10")]
    training: String,
    /// Folder for intermediate packs, which several reports may share
    #[arg(long, value_name = "FOLDER", default_value = "distill-report")]
    work: PathBuf,
    /// Bottleneck multipliers [default: the paper's; with sparsities 1]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    widths: Vec<f32>,
    /// Shares of zeros, of `report sparsity` [default: the paper's]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    sparsities: Vec<f32>,
    /// Number of seeds, from 0 [default: 3; with data 1]
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// Only the first N test images
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Add baselines without data, and how much work goes into them [default: none]
    #[arg(long, value_enum, value_name = "PRESET")]
    baselines: Option<Preset>,
    /// How much work goes into students with data
    #[arg(long, value_enum, default_value_t = Preset::Short, value_name = "PRESET")]
    preset: Preset,
    /// Only these columns, such as nd,nd-ft,kd [default: all]
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = parse_method)]
    only: Vec<Method>,
    /// Share of the usual images and steps, for a trial; it does not affect baselines without data
    #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
    effort: f32,
}

fn parse_method(name: &str) -> Result<Method> {
    serde_json::from_value(Value::from(name)).context("no column has this name: the report's .json names them")
}

impl ReportOptions {
    fn limit(&self) -> usize {
        self.limit.map_or(usize::MAX, NonZeroUsize::get)
    }

    fn seeds(&self, kind: Kind) -> u64 {
        self.seeds.unwrap_or(if kind.takes_data() { 1 } else { 3 })
    }
}

/// Fills a report, and writes it to the folder after each student.
///
/// # Errors
/// A teacher without batch norms, data that cannot be read, a file, or a report in the folder of another teacher, data set or
/// settings.
pub fn fill(kind: Kind, options: &ReportOptions, heap: &CountingAllocator<System>) -> Result<Report> {
    let sizes = sizes(kind, options)?;
    ensure!(options.effort > 0.0 && options.effort <= 1.0, "the effort must be above 0 and at most 1");
    check_columns(kind, options)?;
    let teacher = Network::read_pack(&options.teacher)?;
    let test = &*images::open(&options.data, &teacher, Preparation::default())?;
    let split = kind.takes_data().then(|| training_images(options, &teacher)).transpose()?;
    let folder = &options.output;
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let recipes = Recipes {
        effort: options.effort,
        preset: options.preset,
        baselines: options.baselines.unwrap_or(Preset::Short),
        usual: usual_calibration(&teacher, CALIBRATION_STEPS, 0),
    };
    let mut report = read_or_start(kind, options, &teacher, test, recipes.described(kind)?)?;
    report.baselines = report.baselines.or(options.baselines);
    report.command = command(options, &report)?;
    // Students of another teacher or of other settings must not be reused; those of another report of the same may.
    let all =
        [Kind::DataFree, Kind::ParameterReduction, Kind::LookAhead, Kind::Sparsity].map(|kind| recipes.described(kind));
    let all = all.into_iter().collect::<Result<Vec<_>>>()?;
    let learned = split.as_ref().map(|split| split.learned.checksum()).transpose()?;
    let settings = (VERSION, &report.teacher, all, report.images, report.labels, learned, recipes.baselines);
    let settings = serde_json::to_string(&settings)?;
    let work = options.work.join(format!("{:08x}", crc32fast::hash(settings.as_bytes())));
    for seed in 0..options.seeds(kind) {
        let (split, limit) = (split.as_ref(), options.limit());
        let (path, teacher, recipes, work) = (&*options.teacher, &teacher, &recipes, &*work);
        let maker = Maker { path, teacher, recipes, seed, split, test, limit, heap, work };
        // A cut may have come between a student's place in the report and the end of its training's state.
        for cell in report.cells.iter().filter(|cell| cell.seed == seed) {
            maker.clear(cell.method, cell.size)?;
        }
        let missing = missing(&report, &sizes, seed, options);
        if missing.is_empty() {
            continue;
        }
        fs::create_dir_all(work).with_context(|| format!("cannot make the folder {}", work.display()))?;
        if missing.iter().any(|(_, method)| method.takes_noise()) {
            let noise = maker.calibrate()?;
            if !report.noise.iter().any(|noise| noise.seed == seed) {
                report.noise.push(noise);
                report.write(folder)?;
            }
        }
        for (size, method) in missing {
            report.cells.push(maker.cell(method, size)?);
            report.write(folder)?;
            maker.clear(method, size)?;
        }
    }
    report.write(folder)?;
    Ok(report)
}

/// The students' sizes that were asked for.
fn sizes(kind: Kind, options: &ReportOptions) -> Result<Vec<Size>> {
    let (asked, other, other_name) = match kind {
        Kind::Sparsity => (&options.sparsities, &options.widths, "--widths"),
        _ => (&options.widths, &options.sparsities, "--sparsities"),
    };
    ensure!(other.is_empty(), "this report has no {other_name}");
    let rows = if asked.is_empty() { kind.rows() } else { asked };
    for &row in rows {
        match kind {
            Kind::Sparsity => {
                ensure!(row > 0.0 && Sparsity::new(row, Pattern::Weights).is_ok(), "a sparsity is above 0 and below 1")
            }
            _ => drop(Width::new(row)?),
        }
    }
    Ok(rows.iter().map(|&row| kind.size(row)).collect())
}

/// Labelled images to learn from.
fn training_images(options: &ReportOptions, teacher: &Network) -> Result<Split> {
    let (training, test) = (Path::new(&options.training), Path::new(&options.data));
    let is_cifar = options.training == "cifar10" || images::cifar10::test_file(training).is_some();
    if let (false, Ok(training), Ok(test)) = (is_cifar, training.canonicalize(), test.canonicalize()) {
        ensure!(
            !training.starts_with(&test) && !test.starts_with(&training),
            "students must not learn from the test images: name others with --training"
        );
    }
    open_lessons(&options.training, teacher, Preparation::default(), TRAIN_SPLIT)
}

/// The report in the folder, which must be of the same kind, or an empty one.
fn read_or_start(
    kind: Kind,
    options: &ReportOptions,
    teacher: &Network,
    test: &dyn LabelledImages,
    recipes: Value,
) -> Result<Report> {
    let path = options.output.join(format!("{}.json", kind.name()));
    let fingerprint = open_pack(&options.teacher)?.fingerprint().to_string();
    let mut labels: Vec<u8> = test.labels().iter().flat_map(|label| label.to_le_bytes()).collect();
    labels.extend(test.checksum()?.to_le_bytes());
    let labels = crc32fast::hash(&labels);
    let cannot_read = || format!("cannot read {}", path.display());
    let report: Report = match fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).with_context(|| format!("{}: name another folder", cannot_read()))?
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let evaluation = evaluate(teacher, test, options.limit(), &Device::Cpu)?;
            return Ok(Report {
                kind,
                command: String::new(),
                source: teacher.manifest.source.clone(),
                teacher: fingerprint,
                teacher_accuracy: evaluation.accuracy,
                teacher_parameters: evaluation.parameters,
                images: evaluation.total,
                labels,
                effort: options.effort,
                preset: options.preset,
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
        report.kind == kind
            && report.teacher == fingerprint
            && report.labels == labels
            && report.effort == options.effort
            && report.images == options.limit().min(test.labels().len())
            && same_baselines,
        "{shown} is of another teacher, effort, data set, number of images or kind of baselines: name another folder"
    );
    ensure!(report.recipes == recipes, "{shown} was made with other settings or another version: name another folder");
    Ok(report)
}

/// Checks that the columns that were asked for are the report's.
fn check_columns(kind: Kind, options: &ReportOptions) -> Result<()> {
    for method in &options.only {
        let name = method.name();
        let known: Vec<String> = kind.methods().iter().map(|method| method.name()).collect();
        ensure!(kind.methods().contains(method), "this report has no column {name}, only {}", known.join(", "));
        let without_data = method.baseline().is_some_and(|baseline| !baseline.takes_data());
        ensure!(!without_data || options.baselines.is_some(), "the column {name} needs --baselines");
    }
    Ok(())
}

/// The students of a seed that the report does not have yet.
fn missing(report: &Report, sizes: &[Size], seed: u64, options: &ReportOptions) -> Vec<(Size, Method)> {
    let is_wanted = |method: &&Method| {
        let without_data = method.baseline().is_some_and(|baseline| !baseline.takes_data());
        // A student that was fine-tuned stands beside what it was before.
        let named = |only: &Method| only == *method || only.before() == Some(**method);
        let is_named = options.only.is_empty() || options.only.iter().any(named);
        is_named && (options.baselines.is_some() || !without_data)
    };
    let is_missing = |&(size, method): &(Size, Method)| {
        !report.cells.iter().any(|cell| cell.method == method && cell.size == size && cell.seed == seed)
    };
    let methods = || report.kind.methods().iter().filter(is_wanted);
    let students = sizes.iter().flat_map(|&size| methods().map(move |&method| (size, method)));
    students.filter(is_missing).collect()
}

/// The command that makes the whole report. It names files without their folders, which are those of one machine.
fn command(options: &ReportOptions, report: &Report) -> Result<String> {
    let teacher = options.teacher.file_name().unwrap_or_default().to_string_lossy();
    let asked = sizes(report.kind, options)?.into_iter().map(|size| report.kind.row(size));
    let mut rows: Vec<f32> = asked.chain(report.rows()).collect();
    rows.sort_by(|a, b| b.total_cmp(a));
    rows.dedup();
    let rows: Vec<String> = rows.iter().map(f32::to_string).collect();
    let shares = if report.kind == Kind::Sparsity { "sparsities" } else { "widths" };
    let seeds = report.cells.iter().map(|cell| cell.seed + 1).fold(options.seeds(report.kind), u64::max);
    let mut command = format!(
        "distill report {} {teacher} -o {} --data {} --{shares} {} --seeds {seeds}",
        report.kind.name(),
        options.output.display(),
        options.data,
        rows.join(",")
    );
    if report.kind.takes_data() && options.training != "cifar10" {
        write!(command, " --training {}", options.training)?;
    }
    let presets = [("baselines", report.baselines), ("preset", Some(report.preset).filter(|p| *p != Preset::Short))];
    for (option, preset) in presets {
        if let Some(preset) = preset.and_then(|preset| preset.to_possible_value()) {
            write!(command, " --{option} {}", preset.get_name())?;
        }
    }
    if !options.only.is_empty() {
        // Columns of earlier runs stay.
        let is_there =
            |method: &&Method| options.only.contains(method) || report.cells.iter().any(|cell| cell.method == **method);
        let only: Vec<String> = report.kind.methods().iter().filter(is_there).map(|method| method.name()).collect();
        write!(command, " --only {}", only.join(","))?;
    }
    if options.effort != 1.0 {
        write!(command, " --effort {}", options.effort)?;
    }
    if let Some(limit) = options.limit {
        write!(command, " --limit {limit}")?;
    }
    Ok(command)
}
