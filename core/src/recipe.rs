//! What is asked for, as plain data: nothing here computes.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::block::{Statistics, op::Activation};

/// What is done to a neighbourhood. Each stage can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// Bottleneck multiplier `k`.
    pub width: Width,
    /// Layers left out.
    pub fewer_layers: usize,
    /// What takes the place of the activations inside; `None` leaves them.
    pub activation: Option<Activation>,
    /// How the channels to keep are chosen.
    pub selection: Selection,
    /// Images to learn from, which all go into a solve. Of a source that is cached they are kept, rounded up to whole batches of
    /// [`NOISE_BATCH`](crate::NOISE_BATCH).
    pub images: usize,
    /// Whether the last convolution is solved in closed form.
    pub solve: bool,
    /// How strongly the solve holds on to the teacher's weights.
    pub ridge: Ridge,
    /// Most iterations on the layers before the solved convolution, each followed by its solve (variable projection).
    pub projections: usize,
    /// Gradient steps after it.
    pub training: Training,
}

/// How the channels that a student keeps are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Selection {
    /// The largest ‖w_in‖·‖w_out‖: no inputs are needed.
    Norm,
    /// Of the channels that the solved convolution reads those that it can least do without, on the inputs of the solve; of others the
    /// largest norms. Without a solve, and where a student differs in more than its width, all go by norm.
    Residual,
}

/// The bottleneck multiplier: above 0, at most 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Width(f32);

/// A number that is no [`Width`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WidthError(pub f32);

impl Width {
    /// Every channel kept.
    pub const FULL: Self = Self(1.0);

    /// # Errors
    /// [`WidthError`] unless `0 < k ≤ 1`.
    pub fn new(k: f32) -> Result<Self, WidthError> {
        if k > 0.0 && k <= 1.0 { Ok(Self(k)) } else { Err(WidthError(k)) }
    }

    /// The multiplier.
    pub fn k(self) -> f32 {
        self.0
    }

    /// Channels kept of `channels`: `⌊k·C⌋`, at least 1.
    pub fn of(self, channels: usize) -> usize {
        // The small term keeps 0.29 · 100 at 29.
        ((self.0 * channels as f32 + 1e-3) as usize).clamp(1, channels)
    }
}

/// How strongly a solve holds on to the weights that a convolution has: λ relative to the mean of the Gram matrix's diagonal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ridge {
    /// This strength.
    Strength(f64),
    /// Of [`Ridge::STRENGTHS`] the one whose solution for seven of eight inputs does best on the others: of 128 in a row the last 16.
    /// Variants of the same noise image may lie on both sides.
    HeldOut,
}

impl Ridge {
    /// Our probe's choice, flat from 1e-5 to 1e-3.
    pub(crate) const STRENGTH: f64 = 1e-4;
    /// That as a rule.
    pub const USUAL: Self = Self::Strength(Self::STRENGTH);

    /// Whether it is a number above 0, or chosen.
    pub(crate) fn is_sound(self) -> bool {
        !matches!(self, Self::Strength(strength) if !(strength.is_finite() && strength > 0.0))
    }
    /// What is tried on held-out inputs.
    pub const STRENGTHS: [f64; 6] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];
}

pub(crate) const ADAM_BETA_1: f32 = 0.9;
pub(crate) const ADAM_BETA_2: f32 = 0.999;
pub(crate) const ADAM_EPSILON: f32 = 1e-8;

/// Which update a step applies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Update {
    /// Kingma & Ba 2015, with β₁ 0.9, β₂ 0.999, ε 1e-8.
    Adam,
    /// `v ← μ·v + g; w ← w − η·v` (PyTorch's form, no Nesterov).
    Momentum {
        /// μ.
        momentum: f32,
    },
}

impl Update {
    /// Momentum of the paper.
    pub const MOMENTUM: Self = Self::Momentum { momentum: 0.9 };

    /// Peak learning rate after a solve, where none is asked for: the best on held-out noise that no block diverges with.
    pub const fn default_rate(self) -> f32 {
        match self {
            Self::Adam => 1e-3,
            Self::Momentum { .. } => 3e-2,
        }
    }
}

/// How the learning rate changes over a block's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Schedule {
    /// From the peak to zero along half a cosine.
    Cosine,
    /// Divided by ten after each third of the steps (the paper's ÷10 every 32k of 96k).
    Step,
}

/// How weights are trained: how long, by which rule, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Training {
    /// Gradient steps; 0 leaves the start as it is.
    pub steps: usize,
    /// Inputs a step.
    pub batch: usize,
    /// Update rule.
    pub update: Update,
    /// Learning-rate schedule over the steps.
    pub schedule: Schedule,
    /// Peak learning rate.
    pub rate: f32,
    /// L2 strength.
    pub weight_decay: f32,
    /// Whether held-out noise may end the steps early and chooses the best student on the way.
    pub stop: bool,
}

impl Training {
    /// Steps of Adam down a cosine from its usual rate, without L2.
    pub const fn adam(steps: usize, batch: usize) -> Self {
        let (update, schedule) = (Update::Adam, Schedule::Cosine);
        Self { steps, batch, update, schedule, rate: update.default_rate(), weight_decay: 0.0, stop: false }
    }

    /// Whether nothing moves any more: a student that is its teacher.
    pub(crate) fn is_over(&self, loss: f32) -> bool {
        loss == 0.0 && self.weight_decay == 0.0
    }
}

impl Schedule {
    /// Learning rate of `step` (from 0) of `steps`.
    pub fn rate(self, peak: f32, step: usize, steps: usize) -> f32 {
        let progress = step as f32 / steps.max(1) as f32;
        match self {
            Self::Cosine => peak * 0.5 * (1.0 + libm::cosf(core::f32::consts::PI * progress)),
            Self::Step => peak * libm::powf(0.1, libm::floorf(3.0 * progress)),
        }
    }
}
/// What the inputs of a run are. Noise comes before everything that data took part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SourceKind {
    /// `N(0, 1)`, drawn anew for each batch: straight into every neighbourhood (the paper's G-ND), or into a whole network (G-ND+FT, GN-KD).
    Standard,
    /// Noise images pushed through the teacher's blocks with current batch statistics
    /// (Raikwar & Mishra 2022), kept in a cache.
    Propagated,
    /// [`NoiseImages`](crate::NoiseImages), matched to the teacher's running statistics or its classes, and variants of them,
    /// pushed through the teacher with those statistics, kept in a cache.
    Calibrated,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standard => "standard",
            Self::Propagated => "propagated",
            Self::Calibrated => "calibrated",
        })
    }
}

impl SourceKind {
    /// Whether activations of the teacher are kept in a cache.
    pub fn is_cached(self) -> bool {
        self != Self::Standard
    }

    /// Whether no image of the teacher's data, nor a label, took part.
    pub fn is_without_data(self) -> bool {
        self <= Self::Calibrated
    }

    /// The statistics that the teacher's batch norms work with while a cache is pushed through them.
    pub fn statistics(self) -> Statistics {
        if self == Self::Propagated { Statistics::Current } else { Statistics::Running }
    }
}

/// What noise images begin as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// `N(0, 1)` in every pixel.
    White,
    /// White noise of every octave, of equal strength: a spectrum that falls like natural images' (1/f).
    Octaves,
}

/// How noise images are made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Images that share their statistics.
    pub batch: usize,
    /// What they begin as.
    pub start: Start,
    /// Every random number follows from it.
    pub seed: u64,
    /// What they are moved towards, and how far.
    pub pull: Pull,
}

impl Calibration {
    /// Images that share their statistics, where memory allows.
    pub const BATCH: usize = 128;

    /// Batches of 128 from [`Start::Octaves`] by `steps` steps of [`Pull::calibration`].
    pub const fn new(steps: usize, seed: u64) -> Self {
        Self { batch: Self::BATCH, start: Start::Octaves, seed, pull: Pull::calibration(steps) }
    }
}

/// What images are moved towards, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pull {
    /// Steps of Adam on the pixels of a batch.
    pub steps: usize,
    /// Their peak learning rate, down a cosine to zero.
    pub rate: f32,
    /// Weight of the mismatch of the statistics.
    pub statistics: f32,
    /// Weight of the mean squared difference of neighbouring pixels.
    pub smoothness: f32,
    /// Weight of the cross-entropy between what the teacher says and what it should.
    pub classes: f32,
    /// The teacher's logits are divided by it.
    pub temperature: f32,
}

impl Pull {
    /// Towards the running statistics, and a little towards smoothness and a class.
    pub const fn calibration(steps: usize) -> Self {
        Self { steps, rate: 0.1, statistics: 1.0, smoothness: 0.05, classes: 0.1, temperature: 1.0 }
    }

    /// Towards what the teacher should say, and nothing else (class impressions; Nayak et al. 2019).
    pub const fn impressions(steps: usize) -> Self {
        Self { steps, rate: 0.01, statistics: 0.0, smoothness: 0.0, classes: 1.0, temperature: 20.0 }
    }
}

impl fmt::Display for WidthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "width {} is not above 0 and at most 1", self.0)
    }
}

impl core::error::Error for WidthError {}
