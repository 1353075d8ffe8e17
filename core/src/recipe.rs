//! The parameters of distillation, as plain data without computation.

use alloc::{string::String, vec::Vec};
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::block::{Statistics, op::Activation};

/// How a neighbourhood is distilled. Each stage can be switched off.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// Bottleneck multiplier `k`.
    pub width: Width,
    /// Where the width changes a number of channels, it becomes a multiple of this; from 1. See [`Width::of_units`].
    pub round_to: usize,
    /// Number of layers to remove.
    pub fewer_layers: usize,
    /// Replacement for the activations inside; `None` keeps them.
    pub activation: Option<Activation>,
    /// How to choose the channels to keep.
    pub selection: Selection,
    /// Images to learn from, all used by a solve; cached sources round up to whole
    /// [`NOISE_BATCH`](crate::NOISE_BATCH)es.
    pub images: usize,
    /// Whether to solve the last convolution in closed form.
    pub solve: bool,
    /// Regularisation of the solve towards the teacher's weights.
    pub ridge: Ridge,
    /// Maximum iterations on the layers before the solved convolution, each with its own solve (variable projection).
    pub projections: usize,
    /// Which weights of the dense convolutions to remove; `None` keeps all. With a solve these are the ones that cost least (optimal brain
    /// surgeon), and go after it; without, the smallest, which go in the course of the first half of the gradient steps.
    pub sparsity: Option<Sparsity>,
    /// Other shares for some of them, by the name of the kernel; 0 keeps all of its weights.
    pub sparsities: Vec<(String, f32)>,
    /// Gradient steps after it.
    pub training: Training,
}

impl Recipe {
    /// The same without gradient steps.
    pub(crate) fn without_steps(&self) -> Self {
        Self { training: Training { steps: 0, ..self.training }, ..self.clone() }
    }

    /// What is removed of the kernel with this name.
    pub(crate) fn sparsity_of(&self, kernel: &str) -> Option<Sparsity> {
        let pattern = self.sparsity.map_or(Pattern::Weights, |usual| usual.pattern);
        let own = self.sparsities.iter().find(|(name, _)| name == kernel);
        let sparsity = own.map_or(self.sparsity, |(_, share)| Sparsity::new(*share, pattern).ok());
        sparsity.filter(|sparsity| sparsity.share > 0.0)
    }

    /// Whether weights are to be removed.
    pub fn is_sparse(&self) -> bool {
        let shares = self.sparsities.iter().map(|(_, share)| *share);
        shares.chain(self.sparsity.map(Sparsity::share)).any(|share| share > 0.0)
    }

    /// Heap bytes of a copy.
    pub(crate) fn heap_bytes(&self) -> usize {
        let entries = self.sparsities.iter().map(|entry| size_of_val(entry) + entry.0.len());
        entries.sum()
    }
}

/// How to choose the channels that a student keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Selection {
    /// The largest ‖w_in‖·‖w_out‖; needs no inputs.
    Norm,
    /// Of the channels that the solved convolution reads, those whose removal would raise its residual most; of all
    /// others, the largest norms. Without a solve, or if the student differs in more than its width, all are chosen by
    /// norm.
    Residual,
}

/// How many weights of each layer are zero, and where. A kernel's zeros stay zero in all that learns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sparsity {
    /// Share of the weights, at least 0 and below 1.
    share: f32,
    /// Where they may be.
    pub pattern: Pattern,
}

/// Where the zeros of a kernel `[C_out, C_in, K_h, K_w]` may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Pattern {
    /// Anywhere.
    Weights,
    /// All taps between an input and an output channel together.
    Kernels,
    /// In each tap, all but `kept` of every `of` neighbouring input channels (2:4, …).
    OfEach {
        /// How many stay.
        kept: u8,
        /// Of how many.
        of: u8,
    },
}

/// A sparsity outside its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SparsityError;

impl Sparsity {
    /// # Errors
    /// [`SparsityError`] unless `0 ≤ share < 1`.
    pub fn new(share: f32, pattern: Pattern) -> Result<Self, SparsityError> {
        if (0.0..1.0).contains(&share) { Ok(Self { share, pattern }) } else { Err(SparsityError) }
    }

    /// `kept` weights of every `of` input channels.
    ///
    /// # Errors
    /// [`SparsityError`] unless `0 < kept < of`.
    pub fn of_each(kept: u8, of: u8) -> Result<Self, SparsityError> {
        let share = 1.0 - f32::from(kept) / f32::from(of);
        if (1..of).contains(&kept) { Self::new(share, Pattern::OfEach { kept, of }) } else { Err(SparsityError) }
    }

    /// Share of the weights that are zero.
    pub fn share(self) -> f32 {
        self.share
    }

    /// How many of `count` weights are zero.
    pub(crate) fn removed(self, count: usize) -> usize {
        (libm::round(f64::from(self.share) * count as f64) as usize).min(count)
    }
}

/// The bottleneck multiplier: above 0, at most 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Width(f32);

/// A number outside the range of [`Width`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WidthError(pub f32);

impl Width {
    /// Keeps every channel.
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
        // The small term compensates for rounding: 0.29 · 100 must be 29.
        ((self.0 * channels as f32 + 1e-3) as usize).clamp(1, channels)
    }

    /// [`of`](Self::of), rounded to the nearest multiple of `unit` (up from halfway): at least `unit`, but at most
    /// `channels`. A width of 1 keeps all, whatever the unit.
    pub fn of_units(self, channels: usize, unit: usize) -> usize {
        let (kept, unit) = (self.of(channels), unit.max(1));
        if kept == channels {
            return channels;
        }
        ((kept + unit / 2) / unit * unit).max(unit).min(channels)
    }
}

/// Regularisation of a solve towards a convolution's weights: λ relative to the mean of the Gram matrix's diagonal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ridge {
    /// This strength.
    Strength(f64),
    /// The strength among [`Ridge::STRENGTHS`] whose solution on 7/8 of the inputs has the least error on the rest, the
    /// last 16 of every 128. Variants of one noise image may be on both sides of the split.
    HeldOut,
}

impl Ridge {
    /// The best in our experiment, whose error is flat from 1e-5 to 1e-3.
    pub(crate) const STRENGTH: f64 = 1e-4;
    /// The default.
    pub const USUAL: Self = Self::Strength(Self::STRENGTH);

    /// Whether it is a finite number above 0, or chosen on held-out inputs.
    pub(crate) fn is_sound(self) -> bool {
        !matches!(self, Self::Strength(strength) if !(strength.is_finite() && strength > 0.0))
    }
    /// The strengths tried on held-out inputs.
    pub const STRENGTHS: [f64; 6] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];
}

pub(crate) const ADAM_BETA_1: f32 = 0.9;
pub(crate) const ADAM_BETA_2: f32 = 0.999;
pub(crate) const ADAM_EPSILON: f32 = 1e-8;

/// The update rule of a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Update {
    /// Adam (Kingma & Ba 2015) with β₁ 0.9, β₂ 0.999, ε 1e-8.
    Adam,
    /// `v ← μ·v + g; w ← w − η·v` (PyTorch's form, no Nesterov).
    Momentum {
        /// μ.
        momentum: f32,
    },
}

impl Update {
    /// The paper's momentum.
    pub const MOMENTUM: Self = Self::Momentum { momentum: 0.9 };

    /// Default peak learning rate after a solve: the best on held-out noise at which no block diverges.
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
    /// The same for every step.
    Constant,
}

/// How weights are trained: duration, update rule and learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Training {
    /// Number of gradient steps; 0 disables training.
    pub steps: usize,
    /// Inputs per step.
    pub batch: usize,
    /// Update rule.
    pub update: Update,
    /// Learning-rate schedule over the steps.
    pub schedule: Schedule,
    /// Peak learning rate.
    pub rate: f32,
    /// Steps over which the rate rises from a tenth of its schedule's to all of it.
    pub warm_up: usize,
    /// L2 strength.
    pub weight_decay: f32,
    /// Whether to stop early on held-out noise and keep the best student.
    pub stop: bool,
}

impl Training {
    /// `steps` steps of Adam with a cosine schedule from its default rate, without L2.
    pub const fn adam(steps: usize, batch: usize) -> Self {
        let (update, schedule) = (Update::Adam, Schedule::Cosine);
        let rate = update.default_rate();
        Self { steps, batch, update, schedule, rate, warm_up: 0, weight_decay: 0.0, stop: false }
    }

    /// Learning rate of `step`, from 0.
    pub fn rate_of(&self, step: usize) -> f32 {
        let rate = self.schedule.rate(self.rate, step, self.steps);
        if step >= self.warm_up { rate } else { rate * (0.1 + 0.9 * step as f32 / self.warm_up as f32) }
    }
}

impl Schedule {
    /// Learning rate of `step` (from 0) of `steps`.
    pub fn rate(self, peak: f32, step: usize, steps: usize) -> f32 {
        let progress = step as f32 / steps.max(1) as f32;
        match self {
            Self::Cosine => peak * 0.5 * (1.0 + libm::cosf(core::f32::consts::PI * progress)),
            Self::Step => peak * libm::powf(0.1, libm::floorf(3.0 * progress)),
            Self::Constant => peak,
        }
    }
}
/// The kind of a run's inputs. The order matters: kinds without data come before those that use data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SourceKind {
    /// `N(0, 1)`, drawn anew for each batch: for every neighbourhood (the paper's G-ND) or a network (G-ND+FT, GN-KD).
    Standard,
    /// Noise images propagated through the teacher with current batch statistics (Raikwar & Mishra 2022), and cached.
    Propagated,
    /// [`NoiseImages`](crate::NoiseImages), matched to the teacher's running statistics or its classes, and variants of
    /// them, propagated through the teacher with those statistics, and cached.
    Calibrated,
    /// Images of a data set, varied, propagated likewise: the teacher's activations as the paper records them (ND).
    Recorded,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standard => "standard",
            Self::Propagated => "propagated",
            Self::Calibrated => "calibrated",
            Self::Recorded => "recorded",
        })
    }
}

impl SourceKind {
    /// Whether the teacher's activations are kept in a cache.
    pub fn is_cached(self) -> bool {
        self != Self::Standard
    }

    /// Whether neither images nor labels of the teacher's data were used.
    pub fn is_without_data(self) -> bool {
        self <= Self::Calibrated
    }

    /// The statistics of the teacher's batch norms while the cache is propagated.
    pub fn statistics(self) -> Statistics {
        if self == Self::Propagated { Statistics::Current } else { Statistics::Running }
    }
}

/// The initial values of noise images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// `N(0, 1)` in every pixel.
    White,
    /// The sum of white noise of every octave with equal variance: its spectrum falls like natural images' (1/f).
    Octaves,
    /// The same, most of it common to all channels: natural images are mostly grey, too.
    Natural,
}

/// How noise images are made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Images per batch, which are matched together.
    pub batch: usize,
    /// Their initial values.
    pub start: Start,
    /// Seed of all random numbers.
    pub seed: u64,
    /// The objective and its optimisation.
    pub pull: Pull,
}

impl Calibration {
    /// Default images per batch, if memory allows.
    pub const BATCH: usize = 128;

    /// Batches of 128 from [`Start::Octaves`] by `steps` steps of [`Pull::calibration`].
    pub const fn new(steps: usize, seed: u64) -> Self {
        Self { batch: Self::BATCH, start: Start::Octaves, seed, pull: Pull::calibration(steps) }
    }
}

/// The objective of noise images, and its optimisation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pull {
    /// Steps of Adam on the pixels of a batch.
    pub steps: usize,
    /// Peak learning rate of a cosine schedule.
    pub rate: f32,
    /// Weight of the statistics' mismatch; 0 for a teacher without batch norms.
    pub statistics: f32,
    /// Weight of the mean squared difference of neighbouring pixels.
    pub smoothness: f32,
    /// Weight of the cross-entropy between the teacher's output and the target classes; 0 for a teacher that does not
    /// classify.
    pub classes: f32,
    /// Divisor of the teacher's logits.
    pub temperature: f32,
}

/// What noise images mainly match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aim {
    /// The running statistics of the teacher's batch norms.
    Statistics,
    /// A class each, as the teacher sees it.
    Classes,
    /// Nothing: they are noise, smoothed if asked.
    Nothing,
}

impl Pull {
    /// Matches the running statistics, with small weights on smoothness and a class.
    pub const fn calibration(steps: usize) -> Self {
        Self { steps, rate: 0.1, statistics: 1.0, smoothness: 0.05, classes: 0.1, temperature: 1.0 }
    }

    /// For a teacher without statistics: each image is pulled towards a class, and strongly to smoothness. A temperature
    /// keeps the classes pulling once the teacher is sure.
    pub const fn towards_classes(steps: usize) -> Self {
        Self { steps, rate: 0.1, statistics: 0.0, smoothness: 10.0, classes: 1.0, temperature: 4.0 }
    }

    /// For a teacher with neither statistics nor classes: the images stay as they begin.
    pub const fn none(steps: usize) -> Self {
        Self { steps, rate: 0.1, statistics: 0.0, smoothness: 0.0, classes: 0.0, temperature: 1.0 }
    }

    /// What the images mainly match.
    pub fn aim(&self) -> Aim {
        match self {
            _ if self.statistics > 0.0 => Aim::Statistics,
            _ if self.classes > 0.0 => Aim::Classes,
            _ => Aim::Nothing,
        }
    }

    /// Matches only the class probabilities (class impressions; Nayak et al. 2019).
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

impl fmt::Display for SparsityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sparsity is at least 0 and below 1; of every M weights, N:M keeps from 1 to M - 1")
    }
}

impl core::error::Error for SparsityError {}
