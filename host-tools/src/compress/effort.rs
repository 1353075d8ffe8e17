//! How much work each stage does: as much as the network's size leaves room for.

use clap::ValueEnum;
use distill_core::{Training, Tuning};

use crate::network::Network;

/// How long a compression may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Effort {
    /// A minute or two for a network of CIFAR-10's size: few noise images, solved blocks
    Quick,
    /// Some minutes: more noise images, gradient steps, a fine-tune
    Usual,
    /// As long as it pays: an hour
    Best,
}

/// Gradient steps on each batch of noise images.
pub const CALIBRATION_STEPS: usize = 75;

/// Limits of the number of noise images.
const IMAGES: [u64; 2] = [256, 12_288];
/// Fewer gradient steps than these are no help after a solve.
const LEAST_STEPS: u64 = 200;
/// Gradient steps on a block, and images in each.
const BLOCK_STEPS: [u64; 2] = [600, 64];
/// Most steps of a fine-tune.
const MOST_TUNED: u64 = 9_000;
/// Images in a step of a fine-tune: of a small network, and of one that affords fewer than [`LEAST_STEPS`] of those.
const TUNED_AT_ONCE: [u64; 2] = [128, 32];

/// What the forward passes over a solve's inputs may cost, in multiply-accumulates: 1,024 of a ResNet-20's.
const SOLVED: u64 = 42_000_000_000;

/// Images and steps of every stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Amounts {
    /// Noise images.
    pub images: usize,
    /// Inputs of a solve, up to which variants of the noise images are added.
    pub inputs: usize,
    /// Gradient steps on each block.
    pub steps: usize,
    /// The fine-tune, if any.
    pub tuning: Option<Tuning>,
}

/// What a stage may cost, in multiply-accumulates of the teacher's forward pass.
struct Costs {
    calibrate: u64,
    steps: u64,
    tune: u64,
}

impl Effort {
    /// Set by a ResNet-20 (41 M): 512 images; 3,072 images and 2,000 steps of a fine-tune; 12,288 images and 9,000 steps.
    fn costs(self) -> Costs {
        const T: u64 = 1_000_000_000_000;
        match self {
            Self::Quick => Costs { calibrate: 8 * T / 5, steps: 0, tune: 0 },
            Self::Usual => Costs { calibrate: 47 * T / 5, steps: 8 * T / 5, tune: 52 * T / 5 },
            Self::Best => Costs { calibrate: 40 * T, steps: 8 * T, tune: 47 * T },
        }
    }
}

impl Amounts {
    /// The amounts for a network.
    pub fn new(effort: Effort, network: &Network) -> Self {
        let (costs, macs) = (effort.costs(), network.macs().max(1));
        let images = costs.calibrate / (macs * CALIBRATION_STEPS as u64);
        let [most, batch] = BLOCK_STEPS;
        let steps = (costs.steps / (macs * batch)).min(most);
        let affordable = |batch: u64| costs.tune / (macs * batch);
        let [batch, few] = TUNED_AT_ONCE;
        let batch = if affordable(batch) >= LEAST_STEPS { batch } else { few };
        let usual = Tuning::new(affordable(batch).min(MOST_TUNED) as usize);
        let tuning = Tuning { training: Training { batch: batch as usize, ..usual.training }, ..usual };
        Self {
            images: images.clamp(IMAGES[0], IMAGES[1]) as usize,
            inputs: (SOLVED / macs) as usize,
            steps: if steps < LEAST_STEPS { 0 } else { steps as usize },
            tuning: (affordable(batch) >= LEAST_STEPS).then_some(tuning),
        }
    }
}
