//! The baselines that neighbourhood distillation is compared with: students trained end to end without data, from random
//! weights.

use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use distill_core::{
    Block, Calibration, Calibrator, Course, Engine, Lessons, Manifest, NoiseImages, Op, Pull, Purpose, Schedule,
    SourceKind, Start, Stream, Training, Tuning, Update, Width, learn, shrink,
};
use distill_device::Progress;
use serde::{Deserialize, Serialize};

use super::{
    check_step,
    checkpoint::{Checkpoint, Keep},
};
use crate::network::Network;

/// A baseline from the literature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Baseline {
    /// Knowledge distillation on images of Gaussian noise
    GnKd,
    /// Zero-Shot Knowledge Distillation: on images optimised towards sampled outputs of the teacher (Nayak et al. 2019)
    Zskd,
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
pub struct BaselineOptions {
    /// How it is trained.
    pub method: Baseline,
    /// For how long.
    pub preset: Preset,
    /// Share of the inner channels that it keeps.
    pub width: Width,
    /// Every random number follows from it.
    pub seed: u64,
}

/// Scales of the classes' similarity in the concentrations of the Dirichlet distributions, each for half of the impressions.
const CONCENTRATIONS: [f32; 2] = [1.0, 0.1];

impl Preset {
    /// Paper: Shao et al. 2020, section 2 of its settings: 96,000 steps of 128 images with momentum 0.9, a rate of 0.1 divided
    /// by ten after each third, L2 1e-4; a range of temperatures, and 2.5 where it fine-tunes. ZSKD's is 20, with Adam at 1e-3.
    fn tuning(self, method: Baseline) -> Tuning {
        let steps = if self == Self::Paper { 96_000 } else { 400 };
        let adam = Training::adam(steps, 128);
        let (update, schedule) = (Update::MOMENTUM, Schedule::Step);
        let momentum = Training { update, schedule, rate: 0.1, weight_decay: 1e-4, ..adam };
        let (training, temperature) = match (method, self) {
            (Baseline::GnKd, Self::Paper) => (momentum, 2.5),
            (Baseline::GnKd, Self::Short) => (adam, 2.5),
            (Baseline::Zskd, _) => (adam, 20.0),
        };
        Tuning { training, temperature, features: 0.0, seed: 0 }
    }

    /// Number of ZSKD's images, and how they are made; the paper's are those for CIFAR-10.
    fn impressions(self, seed: u64) -> (usize, Calibration) {
        let (count, pull) = match self {
            Self::Paper => (40_000, Pull { rate: 0.01, ..Pull::impressions(1500) }),
            // Fewer steps must be larger.
            Self::Short => (1000, Pull { rate: 0.05, ..Pull::impressions(100) }),
        };
        (count, Calibration { batch: 100, start: Start::White, seed, pull })
    }
}

/// A student of the teacher in `path`, trained by a baseline.
///
/// # Errors
/// The teacher's pack, a teacher that does not classify, or whose last layer is not linear ([`Baseline::Zskd`]), training
/// that diverges, or something else in the place of its state.
pub fn baseline(path: &Path, options: BaselineOptions, keep: Keep<'_>) -> Result<Network> {
    let BaselineOptions { method, preset, width, seed } = options;
    let teacher = Network::read_pack(path)?;
    teacher.check_classifies()?;
    let tuning = Tuning { seed, ..preset.tuning(method) };
    check_step(&teacher.blocks, tuning.training.batch)?;
    let settings = ("baseline", teacher.digest()?, preset.impressions(seed), width, method == Baseline::Zskd, tuning);
    let mut checkpoint = Checkpoint::new(keep, &settings)?;
    let from = checkpoint.resume()?;
    let images = match method {
        Baseline::GnKd => None,
        Baseline::Zskd => {
            let (count, calibration) = preset.impressions(seed);
            Some(impressions(&teacher, count, &calibration)?)
        }
    };
    let pixels = teacher.manifest.pixels();
    let lessons = images.as_ref().map_or(Lessons::White, |images| Lessons::Images {
        images,
        pixels: &pixels,
        seen: images.len(),
    });
    let student = untaught(&teacher.blocks, width, seed)?;
    let steps = tuning.training.steps;
    let mut progress = Progress::new("training", Some(steps as u64), "{pos}/{len} steps")?;
    let course = Course { teacher: &teacher.blocks, lessons, tuning: &tuning, engine: &Engine::default() };
    let blocks = learn(course, student, from, |step| {
        progress.set(step.number as u64);
        if step.number < steps {
            checkpoint.keep(step);
        }
    });
    let source = if images.is_some() { SourceKind::Calibrated } else { SourceKind::Standard };
    let made_from = teacher.manifest.made_from.max(Some(source));
    let manifest = Manifest { made_from, ..teacher.manifest };
    Network::new(manifest, blocks.context("try the other preset")?)
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
