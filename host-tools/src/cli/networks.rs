//! The commands that read and write networks: `import`, `inspect` and `recompose`.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use distill_core::{Encoding, SourceKind};
use distill_device::{
    NOTHING_TO_DISTIL, SignOptions, TrustOptions, WorkOptions, check_distinct, check_pack_name, check_writable,
    open_pack, open_source, print, write_file,
};
use distill_host::{
    export::{self, recompose},
    import::import,
    learn::open_recorded,
    network::{Network, ending, is_pack, read_blocks},
    show::{Format, Inspection, PlanTable, SizeTable, draw, inspect},
};
use serde::Serialize;
use serde_json::json;

use super::{
    compare::glance,
    files::{ReadOptions, check_output, read_network},
};

#[derive(Args)]
pub struct ImportArgs {
    /// .onnx, .safetensors or a PyTorch checkpoint, whatever its ending (.pth .pt .th .ckpt .bin .pth.tar …)
    file: PathBuf,
    #[command(flatten)]
    read: ReadOptions,
    /// Store the weights in half precision
    #[arg(long)]
    half: bool,
    /// Teacher pack to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    sign: SignOptions,
}

pub fn import_file(json: bool, args: &ImportArgs) -> Result<()> {
    check_writable(&args.output, [args.file.as_path()])?;
    check_pack_name(&args.output)?;
    let signer = args.sign.signer(&args.output)?;
    let network = import(&args.file, &args.read.options()?)?;
    network.write_pack(&args.output, if args.half { Encoding::F16 } else { Encoding::F32 })?;
    signer.map_or(Ok(()), |signer| signer.sign_file(&args.output))?;
    if network.neighbourhoods().next().is_none() {
        log::warn!("{}: {NOTHING_TO_DISTIL}", args.file.display());
    }
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

/// Options of `inspect` that need no budget: its own, and those that determine the students' shapes.
const WITHOUT_BUDGET: [&str; 14] = [
    "file",
    "draw",
    "budget",
    "width",
    "widths",
    "round_to",
    "blocks",
    "fewer_layers",
    "activation",
    "arch",
    "normalise",
    "input",
    "require_signed_by",
    "split",
];

#[derive(Args)]
#[command(mut_args(|arg| match WITHOUT_BUDGET.contains(&arg.get_id().as_str()) {
    true => arg,
    false => arg.requires("budget"),
}))]
pub struct InspectArgs {
    /// A pack (.ndp), or a model that `distill import` reads
    file: PathBuf,
    #[command(flatten)]
    read: ReadOptions,
    /// Also draw the blocks: .svg, or .dot for Graphviz
    #[arg(long, value_name = "PICTURE", conflicts_with = "budget")]
    draw: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustOptions,
    /// With a width or another option of the students' shapes: their sizes and speed; with a budget: how a run would stay
    /// inside it
    #[command(flatten)]
    work: WorkOptions,
}

/// The object `inspect --json` prints.
#[derive(Serialize)]
struct DrawnInspection<'a> {
    #[serde(flatten)]
    inspection: &'a Inspection,
    #[serde(skip_serializing_if = "Option::is_none")]
    student: Option<&'a SizeTable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<&'a Path>,
}

pub fn inspect_file(json: bool, InspectArgs { file, read, draw: picture, trust, work }: &InspectArgs) -> Result<()> {
    trust.check([file.as_path()].into_iter())?;
    let is_pack = is_pack(file);
    if work.budget.is_some() {
        ensure!(is_pack, "cannot plan a run over {}: a run takes a teacher pack (.ndp)", file.display());
        let chosen = work.source(file)?;
        let settings = work.settings(chosen.kind)?;
        chosen.say();
        let source = match &work.inputs {
            Some(images) => open_recorded(images, work.train_split, &mut open_pack(file)?)?,
            None => open_source(chosen.kind, file, None)?,
        };
        let plan = PlanTable::new(file, source, &settings)?;
        return print(json, &plan, || plan.table());
    }
    let picture = picture.as_deref();
    let format = picture.map(Format::of).transpose()?;
    picture.map_or(Ok(()), |picture| check_distinct(picture, [file.as_path()]))?;
    let (manifest, blocks) = match is_pack {
        true => read_blocks(file)?,
        false => read_network(file, read).map(|Network { manifest, blocks }| (manifest, blocks))?,
    };
    let inspection = inspect(&manifest, &blocks);
    let inspection = match is_pack {
        true => inspection.of_pack(&open_pack(file)?),
        false => inspection,
    };
    if let (Some(path), Some(format)) = (picture, format) {
        write_file(path, draw(&inspection, &blocks, format)?.as_bytes())?;
    }
    let student = match work.shapes() {
        // The students' shapes do not depend on their inputs.
        true => Some(SizeTable::new(&Network::whole(manifest, blocks)?, &work.settings(SourceKind::Standard)?)?),
        false => None,
    };
    print(json, &DrawnInspection { inspection: &inspection, student: student.as_ref(), picture }, || {
        let table = student.as_ref().map_or_else(|| inspection.table(), SizeTable::table);
        let drawn = picture.map_or_else(String::new, |path| format!("\ndrawn: {}", path.display()));
        format!("{table}{drawn}")
    })
}

#[derive(Args)]
pub struct RecomposeArgs {
    /// Teacher pack
    teacher: PathBuf,
    /// Student packs of that teacher; a later one takes precedence
    #[arg(required = true)]
    students: Vec<PathBuf>,
    /// File to write: .ndp, .safetensors or .onnx
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    trust: TrustOptions,
    #[command(flatten)]
    sign: SignOptions,
}

pub fn recompose_files(json: bool, args: &RecomposeArgs) -> Result<()> {
    let RecomposeArgs { teacher, students, output, trust, sign } = args;
    let packs = || students.iter().chain([teacher]);
    check_output(output, packs())?;
    let signer = sign.signer(output)?;
    trust.check(packs().map(PathBuf::as_path))?;
    let network = recompose(teacher, students)?;
    let difference = export::export(&network, output)?;
    signer.map_or(Ok(()), |signer| signer.sign_file(output))?;
    let comparison = glance(teacher, &Network::read_pack(teacher)?, &network)?;
    let (parameters, macs) = (network.parameters(), network.macs());
    let summary = json!({
        "file": output, "parameters": parameters, "macs": macs, "largest_difference": difference, "comparison": comparison,
    });
    print(json, &summary, || {
        let check = match ending(output) {
            "ndp" => String::new(),
            _ => format!("\nread back, its logits differ by at most {difference:.1e} of the largest"),
        };
        format!("{parameters} parameters, {macs} MACs: {}{check}\n{}", output.display(), comparison.line())
    })
}
