//! The settings of a run.

use alloc::{string::String, vec::Vec};
use core::fmt;

use serde::Serialize;

use crate::{
    block::Statistics,
    inputs::{CacheSize, MEASURED_INPUTS, NOISE_BATCH, Sides, VALIDATED_INPUTS},
    recipe::{Pattern, Recipe, Ridge, Schedule, Selection, SourceKind, Training, Update, Width},
};

/// Maximum noise images, and inputs per solve or step; bounds the cost of an untrusted number.
pub const MAX_INPUTS: usize = 1 << 16;
const MAX_STEPS: usize = 1 << 30;
const MAX_AHEAD: usize = 64;

/// What to distil, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// The recipe for each neighbourhood.
    pub recipe: Recipe,
    /// Different widths for some neighbourhoods, by name.
    pub widths: Vec<(String, Width)>,
    /// Whether a neighbourhood's inputs are the outputs of the students before it, and its targets the teacher's own
    /// outputs: it then compensates for their errors ("sequential correction"). Only for sources propagated with
    /// running statistics: students have no batch norms, so current statistics would not apply to them.
    pub sequential: bool,
    /// Number of the teacher's next blocks whose outputs a neighbourhood's training matches, too (eq. 4, 5).
    pub look_ahead: usize,
    /// α_j, the weight of each of these outputs beside that of the block's own; 1 beyond its end.
    pub alpha: Vec<f32>,
    /// Numbers of the neighbourhoods to distil, from 0; empty for all.
    pub blocks: Vec<usize>,
    /// Seed of all random numbers of the run.
    pub seed: u64,
    /// Memory budget. It changes how the work is divided, but not the result.
    #[serde(skip)]
    pub budget: Budget,
}

/// The memory budget of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Maximum heap use at any time, in bytes.
    pub bytes: u64,
    /// Bytes of it that the surrounding program uses.
    pub used: u64,
}

impl Budget {
    /// No limit.
    pub const UNLIMITED: Self = Self { bytes: u64::MAX, used: 0 };
}

/// A setting outside its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// The setting.
    pub setting: &'static str,
    /// Its range.
    pub range: &'static str,
}

impl Settings {
    /// Defaults for propagated noise: a solve over 512 images, then `steps` steps of Adam (batch 64, cosine from 1e-3).
    pub fn new(width: Width, steps: usize) -> Self {
        let recipe = Recipe {
            width,
            round_to: 1,
            fewer_layers: 0,
            activation: None,
            selection: Selection::Norm,
            images: 512,
            solve: true,
            ridge: Ridge::USUAL,
            projections: 0,
            sparsity: None,
            sparsities: Vec::new(),
            training: Training::adam(steps, 64),
        };
        Self {
            recipe,
            widths: Vec::new(),
            sequential: false,
            look_ahead: 0,
            alpha: Vec::new(),
            blocks: Vec::new(),
            seed: 0,
            budget: Budget::UNLIMITED,
        }
    }

    /// Defaults for calibrated noise, in a sequential run: channels by residual, the ridge on held-out inputs, and
    /// 1,024 images with 10 projections or, with gradient steps, 4,096 images without: steps make projections
    /// superfluous and use more images than a solve.
    pub fn calibrated(width: Width, steps: usize) -> Self {
        let usual = Self::new(width, steps);
        let (images, projections) = if steps == 0 { (1024, 10) } else { (4096, 0) };
        let recipe =
            Recipe { selection: Selection::Residual, images, ridge: Ridge::HeldOut, projections, ..usual.recipe };
        Self { recipe, sequential: true, ..usual }
    }

    /// The paper's settings (Shao et al. 2020): from the pruned teacher, `steps` (200,000) steps of momentum at 1e-3 on
    /// batches of 128, each block on its own; of a data set, 45,056 images.
    pub fn paper(width: Width, steps: usize, source: SourceKind) -> Self {
        let usual = Self::new(width, steps);
        let (update, schedule) = (Update::MOMENTUM, Schedule::Constant);
        let training = Training { update, schedule, rate: 1e-3, ..Training::adam(steps, 128) };
        let images = if source == SourceKind::Recorded { 45_056 } else { usual.recipe.images };
        Self { recipe: Recipe { solve: false, images, training, ..usual.recipe }, ..usual }
    }

    /// Number of inputs that neither solve nor training uses.
    pub(crate) fn held_out(&self) -> usize {
        MEASURED_INPUTS + if self.recipe.training.stop { VALIDATED_INPUTS } else { 0 }
    }

    /// The size of a run's cache, in whole batches: held-out images must not share statistics with others.
    pub(crate) fn cache_size(&self) -> CacheSize {
        let sides = if self.sequential { Sides::Both } else { Sides::Teacher };
        let images = self.recipe.images.next_multiple_of(NOISE_BATCH) + self.held_out();
        CacheSize { images, batch: NOISE_BATCH, sides }
    }

    /// The recipe for the neighbourhood of this name.
    pub fn recipe_of(&self, name: &str) -> Recipe {
        let own = self.widths.iter().find(|(other, _)| other == name);
        Recipe { width: own.map_or(self.recipe.width, |&(_, width)| width), ..self.recipe.clone() }
    }

    /// Whether a layer may have this share of zeros.
    fn takes(&self, share: f32) -> bool {
        let fixed = self.recipe.sparsity.is_some_and(|usual| matches!(usual.pattern, Pattern::OfEach { .. }));
        share == 0.0 || (!fixed && (0.0..1.0).contains(&share))
    }

    /// Checks every setting, for inputs of this kind.
    ///
    /// # Errors
    /// [`SettingsError`] for the first setting outside its range.
    pub fn check(&self, source: SourceKind) -> Result<(), SettingsError> {
        let Training { steps, batch, rate, weight_decay, .. } = self.recipe.training;
        let inputs = 1..=MAX_INPUTS;
        let checks = [
            (inputs.contains(&self.recipe.images), "number of images", "from 1 to 65536"),
            (
                !self.sequential || (source.is_cached() && source.statistics() == Statistics::Running),
                "source of a sequential run",
                "one that does not use batch statistics, such as calibrated noise",
            ),
            (inputs.contains(&self.recipe.round_to), "multiple of the channel counts", "from 1 to 65536"),
            (
                self.recipe.sparsities.iter().all(|(_, share)| self.takes(*share)),
                "sparsity of a layer",
                "at least 0 and below 1; with an N:M pattern only 0, which keeps all of it",
            ),
            (
                self.recipe.solve || !self.recipe.is_sparse() || !self.recipe.training.stop,
                "early stop of a run without a solve",
                "left out with a sparsity, which is not reached before the end",
            ),
            (self.recipe.ridge.is_sound(), "strength of the ridge", "a number above 0"),
            (self.look_ahead <= MAX_AHEAD, "number of blocks to look ahead at", "at most 64"),
            (
                self.alpha.len() <= self.look_ahead
                    && self.alpha.iter().all(|alpha| alpha.is_finite() && *alpha >= 0.0),
                "weights of the blocks ahead",
                "numbers of at least 0, at most one for each of these blocks",
            ),
            (inputs.contains(&batch), "batch", "from 1 to 65536"),
            (steps <= MAX_STEPS, "number of steps", "at most 2^30"),
            (rate.is_finite() && rate > 0.0, "learning rate", "a number above 0"),
            (weight_decay.is_finite() && weight_decay >= 0.0, "weight decay", "a number of at least 0"),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            Some((_, setting, range)) => Err(SettingsError { setting, range }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} must be {}", self.setting, self.range)
    }
}

impl core::error::Error for SettingsError {}
