//! `compare`, and its line in other commands.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use distill_core::SourceKind;
use distill_device::{open_pack, print};
use distill_host::{
    images::{self, CROP_FRACTION, Filter, Preparation},
    measure::{Comparison, Sample, compare},
    network::{Network, is_pack},
    show::table,
};

use super::files::{ReadOptions, read_network};

#[derive(Args)]
pub struct CompareArgs {
    /// The teacher: its pack (.ndp), or a model that `distill import` reads
    teacher: PathBuf,
    /// The student: likewise
    student: PathBuf,
    /// Compare on pictures instead of noise: a folder of .jpg and .png files, or cifar10, or builtin
    #[arg(long, value_name = "DIR")]
    images: Option<String>,
    /// Share of a picture's shorter side that is used; a picture of the network's own size is used whole
    #[arg(long, value_name = "F", default_value_t = CROP_FRACTION)]
    crop_fraction: f64,
    /// How pictures of another size are resampled
    #[arg(long, value_enum, value_name = "FILTER", default_value_t)]
    filter: Filter,
    /// How both files are read, if they are no packs
    #[command(flatten)]
    read: ReadOptions,
}

pub fn compare_files(json: bool, args: &CompareArgs) -> Result<()> {
    let files = [&args.teacher, &args.student];
    let (packs, none) = (files.iter().all(|file| is_pack(file)), ReadOptions::default());
    // Beside a pack, the options are the other file's.
    let read = |file: &PathBuf| read_network(file, if packs || !is_pack(file) { &args.read } else { &none });
    let (teacher, student) = (read(&args.teacher)?, read(&args.student)?);
    let comparison = match &args.images {
        Some(data) => {
            let preparation = Preparation::new(args.crop_fraction, args.filter)?;
            let images = images::open_unlabelled(data, &teacher, preparation)?;
            compare(&teacher, &student, Sample::Pictures(&*images, usize::MAX))?
        }
        None => on_noise(&args.teacher, &teacher, &student)?,
    };
    warn(&comparison);
    print(json, &comparison, || blocks(&comparison) + &comparison.line())
}

/// Compares a student with the teacher whose pack is at `path`, as `compare` does without pictures.
pub fn on_noise(path: &Path, teacher: &Network, student: &Network) -> Result<Comparison> {
    let noise = noise_of(path)?;
    compare(teacher, student, noise.as_ref().map_or(Sample::Octaves, Sample::Calibrated))
}

/// Compares a student with the teacher whose pack is at `path`, on the few images that are quickest.
pub fn glance(path: &Path, teacher: &Network, student: &Network) -> Result<Comparison> {
    let noise = noise_of(path)?;
    let comparison = compare(teacher, student, noise.as_ref().map_or(Sample::Octaves, Sample::HeldOut))?;
    // 1/f noise is not what a student of images has seen.
    if noise.is_some() || student.manifest.made_from.is_none_or(SourceKind::is_without_data) {
        warn(&comparison);
    }
    Ok(comparison)
}

/// Says what is wrong with a student.
pub fn warn(comparison: &Comparison) {
    if let Some(warning) = comparison.warning() {
        log::warn!("{warning}");
    }
}

fn noise_of(path: &Path) -> Result<Option<distill_core::NoiseImages>> {
    if is_pack(path) { Ok(open_pack(path)?.noise_images()?) } else { Ok(None) }
}

fn blocks(comparison: &Comparison) -> String {
    if comparison.blocks.is_empty() {
        return String::new();
    }
    let rows = comparison
        .blocks
        .iter()
        .map(|block| [block.name.clone(), format!("{:.3}", block.block_error), format!("{:.3}", block.running_error)]);
    format!("{}\n", table(["block", "error alone", "error so far"], &[1, 2], rows))
}
