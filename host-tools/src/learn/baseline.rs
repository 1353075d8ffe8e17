//! What neighbourhood distillation is compared with: students that learn end to end, from random weights, without data.

use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use distill_core::{
    Block, Calibration, Calibrator, Lessons, NoiseImages, Op, Pixels, Pull, Purpose, Schedule, Start, Stream, Training,
    Tuning, Update, Width, learn, shrink,
};
use distill_device::Progress;
use serde::{Deserialize, Serialize};

use crate::network::Network;

/// A method of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Baseline {
    /// Knowledge distillation on images of Gaussian noise
    GnKd,
    /// Zero-Shot Knowledge Distillation: on noise moved to what the teacher takes for its classes (Nayak et al. 2019)
    Zskd,
}

/// How much work goes into a baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// As its authors did: days on a CPU
    Paper,
    /// Minutes
    Short,
}

/// The share of classes' similarity in the concentrations of the Dirichlet distributions: half of the impressions each.
const CONCENTRATIONS: [f32; 2] = [1.0, 0.1];

impl Preset {
    /// Shao et al. 2020, section 2 of its settings: 96,000 steps of 128 images with momentum 0.9, a rate of 0.1 divided by ten after each
    /// third, L2 1e-4; for the temperature it gives a range, and 2.5 where it fine-tunes.
    fn noise(self) -> Tuning {
        let (steps, update, schedule, rate, weight_decay) = match self {
            Self::Paper => (96_000, Update::MOMENTUM, Schedule::Step, 0.1, 1e-4),
            Self::Short => (400, Update::Adam, Schedule::Cosine, 1e-3, 0.0),
        };
        let training = Training { steps, batch: 128, update, schedule, rate, weight_decay, stop: false };
        Tuning { training, temperature: 2.5, features: 0.0, seed: 0 }
    }

    /// Nayak et al. 2019 on CIFAR-10: 40,000 impressions of 1,500 steps each, temperature 20, then Adam at 1e-3.
    fn impressions(self) -> (usize, Pull, Tuning) {
        let (count, steps) = match self {
            Self::Paper => (40_000, 1500),
            Self::Short => (1000, 100),
        };
        // The shorter way takes larger steps.
        let rate = if self == Self::Paper { 0.01 } else { 0.05 };
        let usual = self.noise();
        let training = Training::adam(usual.training.steps, usual.training.batch);
        (count, Pull { rate, ..Pull::impressions(steps) }, Tuning { training, temperature: 20.0, ..usual })
    }
}

/// A student of the teacher in `path` at `width`, taught by a baseline.
///
/// # Errors
/// The teacher's pack, a teacher that does not classify, or has no linear last layer for [`Baseline::Zskd`], or training that diverges.
pub fn baseline(path: &Path, method: Baseline, preset: Preset, width: Width, seed: u64) -> Result<Network> {
    let teacher = Network::read_pack(path)?;
    teacher.check_classifies()?;
    let pixels = teacher.manifest.pixels();
    let (images, tuning) = match method {
        Baseline::GnKd => (None, preset.noise()),
        Baseline::Zskd => {
            let (count, pull, tuning) = preset.impressions();
            (Some(impressions(&teacher, &pixels, count, pull, seed)?), tuning)
        }
    };
    let lessons = images.as_ref().map_or(Lessons::White, |images| Lessons::Images {
        images,
        pixels: &pixels,
        seen: images.len(),
    });
    let student = untaught(&teacher.blocks, width, seed)?;
    let mut progress = Progress::new("teaching", Some(tuning.training.steps as u64), "{pos}/{len} steps")?;
    let mut step = 0;
    let blocks = learn(&teacher.blocks, &student, lessons, &Tuning { seed, ..tuning }, |_| {
        step += 1;
        progress.set(step);
    });
    Network::new(teacher.manifest, blocks.context("the student's weights are not finite any more")?)
}

/// A student of width `width` that knows nothing of its teacher but its shape: kernels of He et al. 2015, batch norms that do nothing
/// yet. It has the teacher's batch norms.
///
/// # Errors
/// As [`Block::new`].
pub fn untaught(teacher: &[Block], width: Width, seed: u64) -> Result<Vec<Block>> {
    let mut stream = Stream::new(seed, Purpose::Weights, 0);
    let mut forget = |block: &Block| -> Result<Block> {
        let block = shrink(block, width)?;
        let mut weights = block.weights().to_vec();
        for (index, node) in block.nodes().iter().enumerate() {
            for (slot, &place) in node.weights.iter().enumerate() {
                let weight = &mut weights[usize::from(place)];
                let inputs: usize = weight.dims.iter().skip(1).map(|&extent| extent as usize).product();
                match (&block.nodes()[index].op, slot) {
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
    teacher.iter().map(&mut forget).collect()
}

fn impressions(teacher: &Network, pixels: &Pixels, count: usize, pull: Pull, seed: u64) -> Result<NoiseImages> {
    let calibration = Calibration { batch: 100, start: Start::White, seed, pull };
    let mut calibrator = Calibrator::new(&teacher.blocks);
    let batches = count.div_ceil(calibration.batch);
    let mut progress = Progress::new("making impressions", Some((batches * pull.steps) as u64), "{pos}/{len} steps")?;
    let mut all: Option<NoiseImages> = None;
    for batch in 0..batches {
        let concentration = CONCENTRATIONS[batch * CONCENTRATIONS.len() / batches];
        let mut step = batch * pull.steps;
        let made = calibrator.impressions(batch, &calibration, concentration, pixels, |_| {
            progress.set(step as u64);
            step += 1;
        });
        let made = made.context("the teacher's last layer is not linear: its classes have no weights to compare")?;
        match &mut all {
            Some(all) => all.append(made),
            None => all = Some(made),
        }
    }
    all.context("no impressions were asked for")
}
