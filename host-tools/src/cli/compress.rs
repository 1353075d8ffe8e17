//! `compress`: from a model's file to a smaller one.

use std::{alloc::System, path::PathBuf};

use anyhow::Result;
use bytesize::ByteSize;
use clap::Args;
use distill_core::{CountingAllocator, Width};
use distill_device::{parse_share, print};
use distill_host::{
    compress::{Compression, Effort, Target, compress},
    search::Amount,
};

use super::files::ReadOptions;

/// The width without a target.
const WIDTH: f32 = 0.75;

#[derive(Args)]
pub struct CompressArgs {
    /// A trained model (.onnx, .pth, .safetensors and others that `distill import` reads), or a teacher pack (.ndp)
    model: PathBuf,
    /// Student to write: .onnx, .safetensors or .ndp
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    target: TargetArgs,
    /// Keep channel counts that are multiples of N, which some runtimes are faster with
    #[arg(long, default_value_t = 1, value_name = "N")]
    round_to: usize,
    /// How long it may take
    #[arg(long, value_enum, default_value_t = Effort::Usual)]
    effort: Effort,
    /// Most heap while the blocks are distilled, such as 64MiB
    #[arg(long, value_name = "SIZE")]
    budget: Option<ByteSize>,
    /// Labelled images to measure both networks on in the end, as `distill evaluate` takes them: nothing learns from them
    #[arg(long, value_name = "DATA")]
    data: Option<String>,
    /// Folder of the stages' files: a run that was cut off goes on there, another target reuses the noise
    #[arg(long, default_value = "distill-work", value_name = "D")]
    work: PathBuf,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    #[command(flatten)]
    read: ReadOptions,
}

/// How small the student is to be [default: a width of 0.75].
#[derive(Args)]
#[group(multiple = false)]
struct TargetArgs {
    /// Share of the inner channels that each block keeps [default: 0.75]
    #[arg(long, value_name = "K", value_parser = parse_share)]
    width: Option<f32>,
    /// Most parameters, as a share or a number: 50%, 0.5, 135000 or 135k
    #[arg(long, value_name = "P")]
    params: Option<Amount>,
    /// Most multiply-accumulates for an image, as a share or a number
    #[arg(long, value_name = "P")]
    macs: Option<Amount>,
}

impl TargetArgs {
    fn target(&self) -> Result<Target> {
        Ok(match (self.params, self.macs) {
            (Some(amount), _) => Target::Parameters(amount),
            (_, Some(amount)) => Target::Macs(amount),
            _ => Target::Width(Width::new(self.width.unwrap_or(WIDTH))?),
        })
    }
}

pub fn compress_model(json: bool, args: &CompressArgs, heap: &CountingAllocator<System>) -> Result<()> {
    let CompressArgs { round_to, effort, budget, seed, .. } = *args;
    let compressed = compress(
        &Compression {
            model: args.model.clone(),
            output: args.output.clone(),
            import: args.read.options()?,
            target: args.target.target()?,
            round_to,
            effort,
            budget,
            data: args.data.clone(),
            work: args.work.clone(),
            seed,
        },
        heap,
    )?;
    if let Some(warning) = compressed.warning() {
        log::warn!("{warning}");
    }
    print(json, &compressed, || compressed.table())
}
