//! How much work each stage does: fixed amounts for a small network, less of everything for a larger one.

use clap::ValueEnum;
use distill_core::{Training, Tuning};

use crate::network::Network;

/// How long a compression may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Effort {
    /// Few noise images, solved blocks
    Quick,
    /// Six times the noise images, gradient steps, a fine-tune
    Usual,
    /// Four times as many images again, and six times the steps of the fine-tune
    Best,
}

/// Gradient steps on each batch of noise images.
pub const CALIBRATION_STEPS: usize = 75;

/// Networks of at most as many multiply-accumulates, a ResNet-20's, get the full amounts.
const FULL_MACS: f64 = 41e6;
/// Fewer noise images than these teach nothing.
const LEAST_IMAGES: usize = 256;
/// Fewer gradient steps than these do not help after a solve.
const LEAST_STEPS: usize = 200;
/// Inputs of a solve, up to which variants of the noise images are added.
const INPUTS: usize = 1024;
/// Images in a step of a fine-tune, and in one of a network that affords too few of those. Of a ResNet-20 at half its size,
/// 2,000 steps of 64 keep 92.0 % of held-out training images, as many steps of 128 keep 91.7 %.
const BATCHES: [usize; 2] = [64, 32];

/// Images and steps of every stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Amounts {
    /// Noise images.
    pub images: usize,
    /// Inputs of a solve that variants may make up.
    pub inputs: usize,
    /// Gradient steps on each block after its solve.
    pub steps: usize,
    /// The fine-tune, if any.
    pub tuning: Option<Tuning>,
}

impl Amounts {
    /// The amounts for a network; the fine-tune has this seed.
    pub fn new(effort: Effort, seed: u64, network: &Network) -> Self {
        let (images, steps, tuned) = match effort {
            Effort::Quick => (512, 0, 0),
            Effort::Usual => (3072, 600, 2000),
            Effort::Best => (12_288, 600, 12_000),
        };
        let share = (FULL_MACS / network.macs().max(1) as f64).min(1.0);
        let affordable = |full: usize| (full as f64 * share) as usize;
        let enough = |steps: &usize| *steps >= LEAST_STEPS;
        // As many images in smaller batches are more steps.
        let tunings = BATCHES.map(|batch| (affordable(tuned * BATCHES[0] / batch), batch));
        let tuning = tunings.into_iter().find(|(steps, _)| enough(steps)).map(|(steps, batch)| {
            let usual = Tuning::new(steps);
            Tuning { training: Training { batch, ..usual.training }, seed, ..usual }
        });
        Self {
            images: affordable(images).max(LEAST_IMAGES),
            inputs: affordable(INPUTS),
            steps: Some(affordable(steps)).filter(enough).unwrap_or(0),
            tuning,
        }
    }
}
