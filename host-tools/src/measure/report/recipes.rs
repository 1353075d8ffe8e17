//! The settings of each method, at a share of the usual work.

use anyhow::Result;
use distill_core::{Calibration, NOISE_BATCH, Pattern, Pull, Settings, Sparsity, Training, Tuning, Width};
use distill_device::SPARSE_IMAGES;
use serde_json::{Map, Value, json};

use super::{
    kind::{Kind, Size},
    method::Method,
};
use crate::learn::{CALIBRATED_IMAGES, CALIBRATION_STEPS, Preset, TUNING_RATE, from_scratch};

/// Gradient steps per block on calibrated noise, and on recorded activations.
const DISTILL_STEPS: usize = 600;
const RECORDED_STEPS: usize = 1000;
/// Recorded inputs of a block.
const RECORDED_IMAGES: usize = 16_384;
/// Blocks that are looked ahead at, as in the paper.
const AHEAD: usize = 2;

/// The settings of each method.
pub struct Recipes {
    /// Share of the usual work, for a trial; without data it does not affect baselines.
    pub effort: f32,
    /// The paper's amounts of work with data, or ours.
    pub preset: Preset,
    /// How much work goes into baselines without data.
    pub baselines: Preset,
    /// The teacher's usual calibration.
    pub usual: Calibration,
}

impl Recipes {
    /// A share of the usual number of steps or images, at least one.
    fn share(&self, usual: usize) -> usize {
        ((usual as f32 * self.effort) as usize).max(1)
    }

    /// How noise images are made.
    pub fn calibration(&self, seed: u64) -> Calibration {
        let pull = Pull { steps: self.share(CALIBRATION_STEPS), ..self.usual.pull };
        Calibration { seed, pull, ..self.usual }
    }

    /// Their number.
    pub fn images(&self) -> usize {
        self.share(CALIBRATED_IMAGES).max(256)
    }

    /// How blocks are distilled.
    ///
    /// # Errors
    /// A width or a sparsity out of range.
    pub fn settings(&self, method: Method, size: Size, seed: u64) -> Result<Settings> {
        let (source, width) = (method.source(), Width::new(size.width)?);
        let mut settings = match method {
            Method::Magnitude => Settings::new(width, 0),
            Method::Solved => Settings::calibrated(width, 0),
            Method::Distilled => Settings::calibrated(width, self.share(DISTILL_STEPS)),
            Method::Ramp if self.preset == Preset::Paper => Settings::paper(width, self.share(40_000), source),
            Method::Nd | Method::NdAhead if self.preset == Preset::Paper => {
                Settings::paper(width, self.share(200_000), source)
            }
            Method::Nd | Method::NdAhead | Method::Ramp => {
                let usual = Settings::calibrated(width, self.share(RECORDED_STEPS));
                let recipe = distill_core::Recipe { images: RECORDED_IMAGES, ..usual.recipe };
                Settings { recipe, ..usual }
            }
            _ => Settings::new(width, self.share(150)),
        };
        if method == Method::Standard {
            settings.recipe.solve = false;
            settings.recipe.training.rate = 3e-3;
        }
        if matches!(method, Method::Magnitude | Method::Ramp) {
            settings.recipe.solve = false;
        }
        if size.sparsity > 0.0 {
            settings.recipe.sparsity = Some(Sparsity::new(size.sparsity, Pattern::Weights)?);
        }
        if method == Method::Solved && size.sparsity > 0.0 {
            settings.recipe.images = SPARSE_IMAGES;
        }
        if method == Method::NdAhead {
            settings.look_ahead = AHEAD;
        }
        settings.recipe.images = self.share(settings.recipe.images).max(NOISE_BATCH);
        Ok(Settings { seed, ..settings })
    }

    /// How whole students are trained.
    pub fn tuning(&self, method: Method, seed: u64) -> Tuning {
        let tuning = match (method.baseline(), method) {
            (Some(baseline), _) if baseline.takes_data() => {
                let usual = self.preset.tuning(baseline);
                Tuning { training: from_scratch(self.share(usual.training.steps)), ..usual }
            }
            (Some(baseline), _) => self.baselines.tuning(baseline),
            (None, Method::FineTuned) => Tuning::new(self.share(Tuning::STEPS)),
            (None, _) if self.preset == Preset::Paper => {
                let training = Training { rate: TUNING_RATE, warm_up: 0, ..from_scratch(self.share(50_000)) };
                Tuning { training, features: 0.0, ..Tuning::new(0) }
            }
            (None, _) => {
                let usual = Tuning::with_data(self.share(Tuning::STEPS_WITH_DATA));
                // Blocks of which nothing was distilled are not held to their teachers'.
                Tuning { features: if method == Method::MagnitudeFt { 0.0 } else { usual.features }, ..usual }
            }
        };
        Tuning { seed, ..tuning }
    }

    /// All settings of a report's methods: it can only be continued with the same ones.
    pub fn described(&self, kind: Kind) -> Result<Value> {
        let whole = Size { width: 1.0, sparsity: 0.0 };
        let mut described = Map::new();
        described.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        if kind.methods().iter().any(|method| method.takes_noise()) {
            described.insert("images".to_owned(), json!(self.images()));
            described.insert("calibration".to_owned(), json!(self.calibration(0)));
        }
        for &method in kind.methods() {
            let is_trained_whole =
                method.before().is_some() || method.baseline().is_some_and(|baseline| baseline.takes_data());
            let settings = match (is_trained_whole, method.baseline()) {
                (true, _) => json!(self.tuning(method, 0)),
                (false, None) => json!(self.settings(method, whole, 0)?),
                // Those are told by the name of their preset.
                (false, Some(_)) => continue,
            };
            described.insert(method.name(), settings);
        }
        Ok(Value::Object(described))
    }
}
