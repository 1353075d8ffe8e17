//! The command-line options, and their translation to the core's settings.

mod named;
mod parse;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bytesize::ByteSize;
use clap::Args;
use distill_core::{
    Budget, MEASURED_INPUTS, Pattern, Recipe, Ridge, Role, Selection, Settings, SourceKind, Sparsity, Training, Width,
};

use self::parse::{parse_blocks, parse_ridge, read_sparsities, thousands};
pub use self::{
    named::{ActivationName, DeviceName, NoiseName, OptimizerName, PresetName, ScheduleName, SelectionName},
    parse::{parse_pattern, parse_share, read_widths},
};

use crate::{
    file::open_pack,
    signing::{SignOptions, TrustOptions},
    terminal::say,
};

/// Gradient steps of the paper's preset, and of ours.
const PAPER_STEPS: usize = 200_000;
const USUAL_STEPS: usize = 600;
/// Those of the paper's preset with a sparsity: as many while weights go as afterwards.
const PAPER_SPARSE_STEPS: usize = 40_000;
/// Images of a run that removes weights and takes no steps.
pub const SPARSE_IMAGES: usize = 2048;

/// Options of `distill-device run`.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// Teacher pack, made by `distill import`
    pub teacher: PathBuf,
    /// Student pack to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// How the blocks are distilled
    #[command(flatten)]
    pub work: WorkOptions,
    /// Compute device
    #[arg(long, value_enum, default_value_t = DeviceName::Cpu)]
    pub device: DeviceName,
    /// Start over, even if an earlier run of the same was cut off; without it, its blocks are kept
    #[arg(long, conflicts_with = "resume")]
    pub fresh: bool,
    /// Whose signature the teacher must have
    #[command(flatten)]
    pub trust: TrustOptions,
    /// File that keeps the counter of the last teacher that was accepted: none below it is
    #[arg(long, value_name = "FILE", requires = "require_signed_by")]
    pub counter_file: Option<PathBuf>,
    /// How the student is signed
    #[command(flatten)]
    pub sign: SignOptions,
    /// Resume a run that was cut off, which is what happens anyway
    #[arg(long, hide = true)]
    pub resume: bool,
}

/// Options that determine a run and its memory budget.
#[derive(Args, Clone, Debug)]
pub struct WorkOptions {
    /// Bottleneck multiplier k: the share of inner channels each block keeps, 0.5 or 50% [default: 0.5; with a sparsity 1]
    #[arg(long, value_name = "K", value_parser = parse_share)]
    pub width: Option<f32>,
    /// Different widths for some blocks: a JSON object such as {"layer1.0": 0.75}
    #[arg(long, value_name = "FILE")]
    pub widths: Option<PathBuf>,
    /// Keep channel counts that are multiples of N, where the width changes them: the nearest, at least N [default: 1]
    #[arg(long, value_name = "N")]
    pub round_to: Option<usize>,
    /// Remove N layers from each block: dense convolutions that keep their input's shape, except the last one
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub fewer_layers: usize,
    /// Replace the activations inside each block
    #[arg(long, value_enum, value_name = "A")]
    pub activation: Option<ActivationName>,
    /// Source of the blocks' inputs [default: calibrated if the pack holds such images; else propagated if every
    /// neighbourhood has batch norms; else standard]
    #[arg(long, value_enum)]
    pub noise: Option<NoiseName>,
    /// Learn from the teacher's activations on images, instead of noise: cifar10 (its training images), or a folder of
    /// pictures
    #[arg(long, value_name = "DATA", conflicts_with = "noise")]
    pub inputs: Option<String>,
    /// Share of the images to learn from; the others are never looked at. Other commands hold out the same
    #[arg(long, default_value = "0.9", value_name = "SHARE", value_parser = parse_share, requires = "inputs")]
    pub train_split: f32,
    /// Feed each block the previous students' outputs, to compensate for their errors (only and by default for
    /// calibrated noise and images)
    #[arg(long, overrides_with = "independent")]
    pub sequential: bool,
    /// Feed each block the teacher's own activations (the default for other noise)
    #[arg(long)]
    pub independent: bool,
    /// Images to learn from: each solve uses them all. Propagated and calibrated noise keeps them in a cache, rounded
    /// up to a multiple of 64; if the pack holds fewer calibrated images, altered copies fill the rest
    /// [default: 512; for calibrated noise and images 1024, with a sparsity 2048, with gradient steps 4096]
    #[arg(long, value_name = "N")]
    pub images: Option<usize>,
    /// How to choose the channels to keep [default: residual for calibrated noise and images, else norm]
    #[arg(long, value_enum, value_name = "BY")]
    pub select: Option<SelectionName>,
    /// Solve each block's last convolution in closed form (the default)
    #[arg(long, overrides_with = "no_solve")]
    pub solve: bool,
    /// Start the gradient steps from the pruned teacher
    #[arg(long)]
    pub no_solve: bool,
    /// Strength of the ridge that holds the solve near the teacher's weights, relative to the mean square of the
    /// convolution's inputs; `auto` picks the best of six on a held-out eighth of the images; sparse layers then
    /// take 1e-4 [default: auto for calibrated noise, else 1e-4]
    #[arg(long, value_parser = parse_ridge, value_name = "STRENGTH")]
    pub ridge: Option<Ridge>,
    /// Also optimise the layers before that convolution, by at most N iterations of variable projection [default: 10
    /// for calibrated noise without gradient steps, else 0]
    #[arg(long, value_name = "N")]
    pub projections: Option<usize>,
    /// A whole recipe; options beside it change it
    #[arg(long, value_enum, value_name = "P")]
    pub preset: Option<PresetName>,
    /// Share of the weights of each convolution to remove, 0.8 or 80%: those that cost the solve least; without a solve the
    /// smallest, over the first half of the steps
    #[arg(long, value_name = "S", value_parser = parse_share)]
    pub sparsity: Option<f32>,
    /// Different shares for some convolutions: a JSON object such as {"layer1.0.conv1.weight": 0.9}, where 0 keeps all. Those that it does not name take --sparsity, else they stay
    /// dense. `distill allocate` writes such a file
    #[arg(long, value_name = "FILE")]
    pub sparsities: Option<PathBuf>,
    /// Where weights are removed: weights (anywhere), kernels (all taps of an input and an output channel together), or N:M (all but N of
    /// every M neighbouring input channels, such as 2:4, which takes no --sparsity; a last group with fewer loses fewer) [default: weights]
    #[arg(long, value_name = "P", value_parser = parse_pattern)]
    pub pattern: Option<Pattern>,
    /// Gradient steps per block [default: 0]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Inputs per gradient step [default: 64]
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Update rule of the gradient steps [default: adam]
    #[arg(long, value_enum)]
    pub optimizer: Option<OptimizerName>,
    /// Peak learning rate [default: 1e-3 for adam, 3e-2 for sgd]
    #[arg(long, value_name = "RATE")]
    pub rate: Option<f32>,
    /// Learning-rate schedule [default: cosine]
    #[arg(long, value_enum)]
    pub schedule: Option<ScheduleName>,
    /// L2 regularisation of the gradient steps
    #[arg(long, default_value_t = 0.0, value_name = "L2")]
    pub weight_decay: f32,
    /// Stop early: keep the student with the lowest held-out error, stop after 3 checks without a better one
    #[arg(long)]
    pub stop: bool,
    /// Also match the outputs of the teacher's next N blocks
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub look_ahead: usize,
    /// Weights of these outputs beside the block's own, such as 0.5,0.25 [default: 1 for each that is left out]
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "look_ahead", allow_negative_numbers = true)]
    pub alpha: Vec<f32>,
    /// Maximum heap, such as 8MiB: the work is divided to fit, the student stays the same [default: no limit]
    #[arg(long, value_name = "SIZE")]
    pub budget: Option<ByteSize>,
    /// Neighbourhoods to distil, such as 0-3,7 [default: all]
    #[arg(long, value_name = "LIST")]
    pub blocks: Option<String>,
    /// Seed of all random numbers: the same seed produces the same bytes
    #[arg(long, default_value_t = 0, value_name = "S")]
    pub seed: u64,
}

/// The source of a run's inputs, and why it was taken if nobody asked for it.
#[derive(Clone, Debug)]
pub struct ChosenSource {
    /// The source.
    pub kind: SourceKind,
    reason: Option<String>,
}

impl ChosenSource {
    /// Says on stderr which source was taken, unless it was asked for.
    pub fn say(&self) {
        if let Some(reason) = &self.reason {
            say(&format!("noise: {} ({reason})", self.kind));
        }
    }
}

impl WorkOptions {
    /// Whether an option is given that determines the students' shapes.
    pub fn shapes(&self) -> bool {
        let values = [self.width.is_some(), self.round_to.is_some(), self.widths.is_some(), self.blocks.is_some()];
        values.contains(&true) || self.fewer_layers > 0 || self.activation.is_some()
    }

    /// The source of the blocks' inputs: the one asked for, else the best that the pack of `teacher` allows.
    ///
    /// # Errors
    /// As [`open_pack`].
    pub fn source(&self, teacher: &Path) -> Result<ChosenSource> {
        let asked = |kind| Ok(ChosenSource { kind, reason: None });
        let chosen = |kind, reason| Ok(ChosenSource { kind, reason: Some(reason) });
        match self.noise {
            _ if self.inputs.is_some() => return asked(SourceKind::Recorded),
            Some(NoiseName::Standard) => return asked(SourceKind::Standard),
            Some(NoiseName::Propagated) => return asked(SourceKind::Propagated),
            Some(NoiseName::Calibrated) => return asked(SourceKind::Calibrated),
            None => {}
        }
        let mut pack = open_pack(teacher)?;
        let images = pack.calibrated().map_or(0, |calibrated| calibrated.images as usize);
        if images > MEASURED_INPUTS {
            return chosen(SourceKind::Calibrated, format!("{} images in the pack", thousands(images)));
        }
        for index in 0..pack.blocks() {
            let outline = pack.outline(index).with_context(|| format!("cannot read {}", teacher.display()))?;
            if outline.role == Role::Neighbourhood && !outline.has_statistics {
                let reason = format!("block {} has no batch norm, which any other noise needs", outline.name);
                return chosen(SourceKind::Standard, reason);
            }
        }
        let lack = if images == 0 {
            "no calibrated images in the pack".to_owned()
        } else {
            format!("only {images} calibrated images in the pack")
        };
        chosen(SourceKind::Propagated, format!("{lack}: `distill calibrate` makes them, for better students"))
    }

    fn sparsity(&self) -> Result<Option<Sparsity>> {
        ensure!(self.sparsity != Some(0.0), "a sparsity of 0 removes nothing: leave --sparsity out");
        Ok(match (self.pattern, self.sparsity) {
            (Some(Pattern::OfEach { kept, of }), None) => Some(Sparsity::of_each(kept, of)?),
            (Some(Pattern::OfEach { .. }), Some(_)) => {
                bail!("a pattern such as 2:4 says the sparsity itself: leave --sparsity out")
            }
            (Some(pattern), None) if self.sparsities.is_some() => Some(Sparsity::new(0.0, pattern)?),
            (Some(_), None) => bail!("say how much goes with --sparsity, or --sparsities"),
            (pattern, share) => {
                share.map(|share| Sparsity::new(share, pattern.unwrap_or(Pattern::Weights))).transpose()?
            }
        })
    }

    /// Translates the options to settings, for inputs from this source.
    ///
    /// # Errors
    /// A value is out of range, or a list of blocks cannot be parsed.
    pub fn settings(&self, source: SourceKind) -> Result<Settings> {
        let (sparsity, sparsities) =
            (self.sparsity()?, self.sparsities.as_deref().map(read_sparsities).transpose()?.unwrap_or_default());
        let is_sparse =
            sparsity.is_some_and(|sparsity| sparsity.share() > 0.0) || sparsities.iter().any(|(_, share)| *share > 0.0);
        let width = Width::new(self.width.unwrap_or(if is_sparse { 1.0 } else { 0.5 }))?;
        let steps = |usual: usize| self.steps.unwrap_or(usual);
        let mut usual = match (self.preset, source) {
            (Some(PresetName::Paper), _) => {
                Settings::paper(width, steps(if is_sparse { PAPER_SPARSE_STEPS } else { PAPER_STEPS }), source)
            }
            (preset, SourceKind::Calibrated | SourceKind::Recorded) => {
                Settings::calibrated(width, steps(preset.map_or(0, |_| USUAL_STEPS)))
            }
            (preset, _) => Settings::new(width, steps(preset.map_or(0, |_| USUAL_STEPS))),
        };
        let training = &mut usual.recipe.training;
        if let Some(optimizer) = self.optimizer {
            // The optimiser that is the preset's keeps the preset's rate.
            if optimizer.update() != training.update {
                training.rate = optimizer.update().default_rate();
            }
            training.update = optimizer.update();
        }
        if let Some(schedule) = self.schedule {
            training.schedule = schedule.schedule();
        }
        let training = Training {
            batch: self.batch.unwrap_or(training.batch),
            rate: self.rate.unwrap_or(training.rate),
            weight_decay: self.weight_decay,
            stop: self.stop,
            ..*training
        };
        // Without steps, more images make up for what the zeros cost.
        let solves_sparse = is_sparse && usual.sequential && training.steps == 0 && !self.no_solve;
        let usual_images = if solves_sparse { SPARSE_IMAGES } else { usual.recipe.images };
        let recipe = Recipe {
            width,
            round_to: self.round_to.unwrap_or(usual.recipe.round_to),
            fewer_layers: self.fewer_layers,
            activation: self.activation.map(ActivationName::activation),
            selection: match self.select {
                Some(SelectionName::Norm) => Selection::Norm,
                Some(SelectionName::Residual) => Selection::Residual,
                None => usual.recipe.selection,
            },
            images: self.images.unwrap_or(usual_images),
            solve: self.solve || (usual.recipe.solve && !self.no_solve),
            ridge: self.ridge.unwrap_or(usual.recipe.ridge),
            projections: self.projections.unwrap_or(usual.recipe.projections),
            sparsity,
            sparsities,
            training,
        };
        let blocks = self.blocks.as_deref().map(parse_blocks).transpose()?.unwrap_or_default();
        let budget = Budget { bytes: self.budget.map_or(u64::MAX, |size| size.as_u64()), used: 0 };
        let widths = self.widths.as_deref().map(read_widths).transpose()?.unwrap_or_default();
        let settings = Settings {
            recipe,
            widths,
            sequential: self.sequential || (usual.sequential && !self.independent),
            look_ahead: self.look_ahead,
            alpha: self.alpha.clone(),
            blocks,
            seed: self.seed,
            budget,
        };
        settings.check(source)?;
        if is_sparse && !settings.recipe.solve && settings.recipe.training.steps == 0 {
            log::warn!("without a solve and without --steps, weights are removed and nothing makes up for them");
        }
        ensure!(
            settings.look_ahead == 0 || settings.recipe.training.steps > 0,
            "only gradient steps look ahead: add --preset usual, or --steps"
        );
        Ok(settings)
    }
}
