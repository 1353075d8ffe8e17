//! `allocate`.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Result;
use clap::Args;
use distill_core::{Pattern, Sparsity};
use distill_device::{check_writable, parse_pattern, parse_share, print, write_file};
use distill_host::{
    search::{Allocation, Layer, allocate},
    show::table,
};

#[derive(Args)]
pub struct AllocateArgs {
    /// Teacher pack with calibrated noise
    teacher: PathBuf,
    /// File to write, for `distill run --sparsities`
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Share of the weights of all convolutions together to remove, 0.8 or 80%
    #[arg(long, value_name = "S", value_parser = parse_share)]
    sparsity: f32,
    /// Where weights will be removed: weights (anywhere) or kernels (all taps of an input and an output channel together)
    #[arg(long, default_value = "weights", value_name = "P", value_parser = parse_pattern)]
    pattern: Pattern,
    /// Noise images on which layers are cut
    #[arg(long, default_value_t = 512, value_name = "N")]
    images: usize,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
}

pub fn allocate_sparsities(json: bool, args: &AllocateArgs) -> Result<()> {
    check_writable(&args.output, [args.teacher.as_path()])?;
    let allocation = allocate(&args.teacher, Sparsity::new(args.sparsity, args.pattern)?, args.images, args.seed)?;
    let shares: BTreeMap<&str, f64> =
        allocation.layers.iter().map(|layer| (&*layer.name, rounded(layer.share))).collect();
    write_file(&args.output, format!("{}\n", serde_json::to_string_pretty(&shares)?).as_bytes())?;
    print(json, &allocation, || {
        let more = if args.pattern == Pattern::Kernels { " --pattern kernels" } else { "" };
        format!(
            "{}\nNext: distill run {} -o blocks.ndp --sparsities {}{more}",
            lines(&allocation),
            args.teacher.display(),
            args.output.display()
        )
    })
}

/// For a file that people edit.
fn rounded(share: f64) -> f64 {
    (share * 1e4).round() / 1e4
}

fn lines(allocation: &Allocation) -> String {
    let titles = ["convolution", "weights", "removed", "error if alone"];
    let row = |layer: &Layer| {
        let removed = format!("{:.1} %", 100.0 * layer.share);
        [layer.name.clone(), layer.weights.to_string(), removed, format!("{:.3}", layer.output_error)]
    };
    let all = format!("{:.1} %", 100.0 * allocation.sparsity);
    let weights: usize = allocation.layers.iter().map(|layer| layer.weights).sum();
    let total = ["total".to_owned(), weights.to_string(), all, String::new()];
    table(titles, &[1, 2, 3], allocation.layers.iter().map(row).chain([total])).to_string()
}
