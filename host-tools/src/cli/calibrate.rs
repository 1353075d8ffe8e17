//! `calibrate`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use distill_core::{Calibration, Pull, Start};
use distill_device::{SignOptions, check_pack_name, open_pack, print};
use distill_host::{
    learn::{CALIBRATED_IMAGES, CALIBRATION_STEPS, calibrate, usual_calibration},
    network::Network,
};

#[derive(Args)]
pub struct CalibrateArgs {
    /// Teacher pack. With batch norms, images are pulled towards their statistics, otherwise towards classes
    teacher: PathBuf,
    /// Pack to write: the teacher with the images, in its own place if you like. Images of the same calibration that it
    /// already holds are kept
    #[arg(short, long, id = "updated", value_name = "FILE")]
    output: PathBuf,
    /// Number of images, rounded up to whole batches
    #[arg(long, default_value_t = CALIBRATED_IMAGES, value_name = "N")]
    images: usize,
    /// Images whose statistics are matched together [default: 128, or fewer if they are large]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Gradient steps on the pixels of a batch
    #[arg(long, default_value_t = CALIBRATION_STEPS, value_name = "N")]
    steps: usize,
    /// Weight of the difference between neighbouring pixels [default: 0.05; 10 without batch norms]
    #[arg(long, value_name = "W")]
    smoothness: Option<f32>,
    /// Weight of the cross-entropy with a random class for each image [default: 0.1; 1 without batch norms; 0 if the
    /// output is not one number for each class]
    #[arg(long, value_name = "W")]
    classes: Option<f32>,
    /// What the images start from [default: octaves; natural without batch norms]
    #[arg(long, value_enum)]
    start: Option<StartName>,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    #[command(flatten)]
    sign: SignOptions,
}

/// `--start`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum StartName {
    /// N(0,1) in every pixel
    White,
    /// Noise of every octave, with a spectrum as steep as natural images' (1/f)
    Octaves,
    /// The same, most of it common to all channels
    Natural,
}

impl StartName {
    fn start(self) -> Start {
        match self {
            Self::White => Start::White,
            Self::Octaves => Start::Octaves,
            Self::Natural => Start::Natural,
        }
    }
}

pub fn calibrate_teacher(json: bool, args: &CalibrateArgs) -> Result<()> {
    check_pack_name(&args.output)?;
    let signer = args.sign.signer(&args.output)?;
    let &CalibrateArgs { batch, steps, smoothness, classes, seed, .. } = args;
    let usual = usual_calibration(&Network::read_pack(&args.teacher)?, steps, seed);
    let pull = Pull {
        smoothness: smoothness.unwrap_or(usual.pull.smoothness),
        classes: classes.unwrap_or(usual.pull.classes),
        ..usual.pull
    };
    let start = args.start.map_or(usual.start, StartName::start);
    let calibration = Calibration { batch: batch.unwrap_or(usual.batch), start, pull, ..usual };
    let was_signed = open_pack(&args.teacher)?.signature().is_some();
    let outcome = calibrate(&args.teacher, &args.output, &calibration, args.images)?;
    match signer {
        Some(signer) => signer.sign_file(&args.output)?,
        None if was_signed => log::warn!("{} is not signed, as the teacher was: --sign does it", args.output.display()),
        None => {}
    }
    print(json, &outcome, || {
        format!(
            "{} images in {:.0} s, {}: {output}\n\
             Next: distill run {output} -o blocks.ndp",
            outcome.images,
            outcome.seconds,
            outcome.distance,
            output = args.output.display(),
        )
    })
}
