//! `candidates` and `search`.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use distill_core::{MAX_INPUTS, Settings, Width};
use distill_device::{check_writable, print, write_file};
use distill_host::{
    export::{check_ending, export},
    search::{Amount, Bound, Candidates, Found, FoundBlock, search},
    show::table,
};

use super::{compare::warn, files::check_output};

#[derive(Args)]
pub struct CandidatesArgs {
    /// Teacher pack with calibrated noise
    teacher: PathBuf,
    /// Folder to fill; candidates of the same making that are there are kept
    #[arg(short, long, id = "updated", value_name = "FOLDER")]
    output: PathBuf,
    /// Bottleneck multipliers of the candidates
    #[arg(long, value_delimiter = ',', value_name = "LIST", default_value = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9")]
    widths: Vec<f32>,
    /// Noise images to learn from [default: 1024, with gradient steps 4096]
    #[arg(long, value_name = "N")]
    images: Option<usize>,
    /// Iterations of variable projection [default: 10, with gradient steps 0]
    #[arg(long, value_name = "N")]
    projections: Option<usize>,
    /// Gradient steps per block
    #[arg(long, default_value_t = 0, value_name = "N")]
    steps: usize,
    /// Keep channel counts that are multiples of N
    #[arg(long, default_value_t = 1, value_name = "N")]
    round_to: usize,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
}

pub fn make_candidates(json: bool, args: &CandidatesArgs) -> Result<()> {
    let mut settings = Settings::calibrated(Width::FULL, args.steps);
    settings.seed = args.seed;
    settings.recipe.round_to = args.round_to;
    settings.recipe.images = args.images.unwrap_or(settings.recipe.images).min(MAX_INPUTS + 1);
    settings.recipe.projections = args.projections.unwrap_or(settings.recipe.projections);
    let filled = Candidates::open(&args.output, &args.teacher)?.fill(&args.widths, &settings)?;
    print(json, &filled, || {
        format!(
            "{} candidates made in {:.0} s, {} were there\nNext: distill search {} {} --params 50% -o student.ndp",
            filled.made,
            filled.seconds,
            filled.found,
            args.output.display(),
            args.teacher.display()
        )
    })
}

#[derive(Args)]
pub struct SearchArgs {
    /// Folder of candidates
    folder: PathBuf,
    /// Teacher pack that they were made from
    teacher: PathBuf,
    /// File to write the student to: .ndp, .safetensors or .onnx
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Most parameters, such as 50% of the teacher's or 135k
    #[arg(long, value_name = "N", conflicts_with = "macs", required_unless_present = "macs")]
    params: Option<Amount>,
    /// Most multiply-accumulates for an image, likewise
    #[arg(long, value_name = "N")]
    macs: Option<Amount>,
    /// File to write the blocks' widths to, for `distill run --widths`
    #[arg(long, id = "widths_file", value_name = "FILE")]
    widths: Option<PathBuf>,
}

pub fn search_student(json: bool, args: &SearchArgs) -> Result<()> {
    check_ending(&args.output)?;
    check_output(&args.output, [&args.teacher].into_iter())?;
    if let Some(widths) = &args.widths {
        check_writable(widths, [args.teacher.as_path(), args.output.as_path()])?;
    }
    let folder = args.folder.canonicalize().unwrap_or_else(|_| args.folder.clone());
    for output in [Some(&args.output), args.widths.as_ref()].into_iter().flatten() {
        let place = output.canonicalize().ok().or_else(|| output.parent()?.canonicalize().ok());
        ensure!(
            place.is_none_or(|place| !place.starts_with(&folder)),
            "{} would be among the candidates: write it elsewhere",
            output.display()
        );
    }
    let bounds = [args.params.map(Bound::Parameters), args.macs.map(Bound::Macs)];
    let Some(bound) = bounds.into_iter().flatten().next() else { return Ok(()) };
    let (student, found) = search(&args.folder, &args.teacher, bound)?;
    export(&student, &args.output)?;
    if let Some(path) = &args.widths {
        let widths: BTreeMap<&str, f32> = found.blocks.iter().map(|block| (&*block.name, block.width)).collect();
        write_file(path, &serde_json::to_vec_pretty(&widths)?)?;
    }
    warn(&found.comparison);
    print(json, &found, || {
        let next = args.widths.as_ref().map_or_else(String::new, |widths| {
            format!("\nNext: distill run {} -o blocks.ndp --widths {}", args.teacher.display(), widths.display())
        });
        format!(
            "{}\n{} parameters, {} MACs: {}\n{}{next}",
            lines(&found),
            found.parameters,
            found.macs,
            args.output.display(),
            found.comparison.line()
        )
    })
}

fn lines(found: &Found) -> String {
    let row = |block: &FoundBlock| [block.name.clone(), block.width.to_string(), format!("{:.3}", block.output_error)];
    let total = ["foretold of all".to_owned(), String::new(), format!("{:.3}", found.foretold)];
    let titles = ["block", "width", "error of the output"];
    table(titles, &[1, 2], found.blocks.iter().map(row).chain([total])).to_string()
}
