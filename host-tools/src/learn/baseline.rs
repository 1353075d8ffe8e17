//! The baselines that neighbourhood distillation is compared with: students trained end to end from random weights, with
//! data or without.

use std::path::Path;

use anyhow::{Context, Error, Result, ensure};
use clap::ValueEnum;
use distill_core::{
    Block, Calibration, Calibrator, Course, Engine, Lessons, Manifest, NoiseImages, NoiseLessons, Op, Pull, Purpose,
    Schedule, SourceKind, Start as Origin, Stream, Training, Tuning, Update, WhiteLessons, Width, shrink,
};
use distill_device::Progress;
use serde::{Deserialize, Serialize};

use super::{
    check_step,
    finetune::check_tuning,
    shown::Shown,
    whole::{Start, Watched, train_whole},
};
use crate::{
    images::{Images, LabelledImages, Part},
    network::Network,
};

/// A baseline from the literature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Baseline {
    /// Knowledge distillation on images of Gaussian noise
    GnKd,
    /// Zero-Shot Knowledge Distillation: on images optimised towards sampled outputs of the teacher (Nayak et al. 2019)
    Zskd,
    /// Knowledge distillation on images and their classes (Hinton et al. 2015)
    Kd,
    /// Training on images and their classes, without a teacher
    Ce,
}

impl Baseline {
    /// Whether it learns from images of a data set.
    pub fn takes_data(self) -> bool {
        matches!(self, Self::Kd | Self::Ce)
    }
}

/// How much work goes into a baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// As in the original paper: days on a CPU
    Paper,
    /// Minutes
    Short,
}

/// A student to train by a baseline.
#[derive(Clone, Copy, Debug)]
pub struct BaselineOptions<'a> {
    /// How it is trained.
    pub method: Baseline,
    /// Number and making of ZSKD's images.
    pub preset: Preset,
    /// Share of the inner channels that it keeps.
    pub width: Width,
    /// Labelled images, for the methods that take data.
    pub images: Option<&'a Part>,
    /// Steps, loss and seed.
    pub tuning: Tuning,
}

/// Scales of the classes' similarity in the concentrations of the Dirichlet distributions, each for half of the impressions.
const CONCENTRATIONS: [f32; 2] = [1.0, 0.1];

/// A training from random weights as the paper's (Shao et al. 2020): 128 images a step, momentum 0.9, a rate that rises to 0.1
/// over the first 400 of 96,000 steps and is divided by ten after each third, L2 1e-4.
pub fn from_scratch(steps: usize) -> Training {
    let (update, schedule) = (Update::MOMENTUM, Schedule::Step);
    Training {
        update,
        schedule,
        rate: 0.1,
        warm_up: 400.min(steps / 10),
        weight_decay: 1e-4,
        ..Training::adam(steps, 128)
    }
}

impl Preset {
    /// Paper: 96,000 steps as [`from_scratch`]; a range of temperatures, and 2.5 where it fine-tunes. ZSKD's is 20, with Adam
    /// at 1e-3. Short: 400 steps without data; 4,000 with, which take about as long as a usual fine-tune.
    pub fn tuning(self, method: Baseline) -> Tuning {
        let steps = match self {
            Self::Paper => 96_000,
            Self::Short if method.takes_data() => 4000,
            Self::Short => 400,
        };
        let (training, temperature) = match (method, self) {
            (Baseline::Zskd, _) => (Training::adam(steps, 128), 20.0),
            (Baseline::GnKd, Self::Short) => (Training::adam(steps, 128), 2.5),
            _ => (from_scratch(steps), 2.5),
        };
        Tuning { training, temperature, features: 0.0, ..Tuning::new(steps) }
    }

    /// Number of ZSKD's images, and how they are made; the paper's are those for CIFAR-10.
    fn impressions(self, seed: u64) -> (usize, Calibration) {
        let (count, pull) = match self {
            Self::Paper => (40_000, Pull { rate: 0.01, ..Pull::impressions(1500) }),
            // Fewer steps must be larger.
            Self::Short => (1000, Pull { rate: 0.05, ..Pull::impressions(100) }),
        };
        (count, Calibration { batch: 100, start: Origin::White, seed, pull })
    }
}

/// A student of the teacher in `path`, trained by a baseline.
///
/// # Errors
/// The teacher's pack, a teacher that does not classify, or whose last layer is not linear ([`Baseline::Zskd`]), a method
/// whose images are missing, a number out of range, and those of [`train_whole`].
pub fn baseline(path: &Path, options: BaselineOptions<'_>, watched: Watched<'_>) -> Result<Network> {
    let BaselineOptions { method, preset, width, images: part, tuning } = options;
    let teacher = Network::read_pack(path)?;
    teacher.check_classifies()?;
    check_tuning(&tuning)?;
    check_step(&teacher.blocks, tuning.training.batch)?;
    ensure!(!method.takes_data() || part.is_some(), "this baseline learns from images: name them with --data");
    ensure!(method.takes_data() || part.is_none(), "this baseline takes no data: leave --data out");
    let content = part.map(|part| Ok::<_, Error>((part.checksum()?, part.labels()))).transpose()?;
    let settings =
        ("baseline", teacher.digest()?, preset.impressions(tuning.seed), width, format!("{method:?}"), content, tuning);
    let pixels = teacher.manifest.pixels();
    let (images, noise, shown);
    let (lessons, source): (&dyn Lessons, _) = match (method, part) {
        (Baseline::Zskd, _) => {
            let (count, calibration) = preset.impressions(tuning.seed);
            images = impressions(&teacher, count, &calibration)?;
            noise = NoiseLessons { images: &images, pixels: &pixels, seen: images.len() };
            (&noise, SourceKind::Calibrated)
        }
        (_, Some(part)) => {
            shown = Shown::new(part, &teacher);
            (&shown, SourceKind::Recorded)
        }
        _ => (&WhiteLessons(teacher.input()), SourceKind::Standard),
    };
    let start = Start::AsIs(untaught(&teacher.blocks, width, tuning.seed)?);
    let blocks = if method == Baseline::Ce { &[][..] } else { &teacher.blocks };
    let course = Course { teacher: blocks, lessons, tuning: &tuning, engine: &Engine::default() };
    let (blocks, _) = train_whole(course, start, &teacher.manifest, watched, &settings)?;
    let made_from = teacher.manifest.made_from.max(Some(source));
    Network::new(Manifest { made_from, ..teacher.manifest }, blocks)
}

/// A randomly initialised student: the teacher's blocks at `width`, kernels as in He et al. 2015, batch norms at their start.
pub fn untaught(teacher: &[Block], width: Width, seed: u64) -> Result<Vec<Block>> {
    let mut stream = Stream::new(seed, Purpose::Weights, 0);
    let mut initialise = |block: &Block| -> Result<Block> {
        let block = shrink(block, width)?;
        let mut weights = block.weights().to_vec();
        for node in block.nodes() {
            for (slot, &place) in node.weights.iter().enumerate() {
                let weight = &mut weights[usize::from(place)];
                let inputs: usize = weight.dims.iter().skip(1).map(|&extent| extent as usize).product();
                match (&node.op, slot) {
                    // Scale and variance.
                    (Op::BatchNorm(_), 0 | 3) => weight.data.fill(1.0),
                    (_, 0) => {
                        let deviation = (2.0 / inputs as f32).sqrt();
                        stream.fill(&mut weight.data);
                        weight.data.iter_mut().for_each(|value| *value *= deviation);
                    }
                    _ => weight.data.fill(0.0),
                }
            }
        }
        Ok(block.with_weights(weights)?)
    };
    teacher.iter().map(&mut initialise).collect()
}

/// ZSKD's images, in whole batches.
fn impressions(teacher: &Network, count: usize, calibration: &Calibration) -> Result<NoiseImages> {
    let (pixels, steps) = (teacher.manifest.pixels(), calibration.pull.steps);
    let mut calibrator = Calibrator::new(&teacher.blocks);
    let batches = count.div_ceil(calibration.batch);
    let mut progress = Progress::new("making impressions", Some((batches * steps) as u64), "{pos}/{len} steps")?;
    let mut all: Option<NoiseImages> = None;
    for batch in 0..batches {
        let concentration = CONCENTRATIONS[batch * CONCENTRATIONS.len() / batches];
        let mut step = batch * steps;
        let made = calibrator.impressions(batch, calibration, concentration, &pixels, |_| {
            progress.set(step as u64);
            step += 1;
        });
        let made = made.context("the teacher's last layer is not linear: it has no class weights to compare")?;
        match &mut all {
            Some(all) => all.append(made),
            None => all = Some(made),
        }
    }
    all.context("no impressions were asked for")
}
