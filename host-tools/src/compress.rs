//! A trained model's file becomes a smaller one in one call: import, calibrate, distil, fine-tune, recompose, compare.
//!
//! The stages are those of the separate commands. Each leaves its file in a work folder, under a name that follows from
//! everything that determines it: a run that was cut off goes on there, and another target reuses what it shares. Whether a
//! fine-tune stays is decided by agreement with the teacher on noise that nothing learns from.

mod effort;
mod outcome;
mod target;
mod work;

use std::{
    alloc::System,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use bytesize::ByteSize;
use distill_core::{
    Aim, Budget, CountingAllocator, Device, Encoding, MEASURED_INPUTS, Pack, ReadAt, Settings, SourceKind, Training,
    Tuning, Width,
};
use distill_device::{Job, check_distinct, open_pack, run_job};

use self::{effort::Amounts, work::Work};
pub use self::{
    effort::Effort,
    outcome::{Compressed, Sizes, Stage},
    target::{Amount, Target},
};
use crate::{
    export::{self, check_ending, recompose},
    images::{self, LabelledImages, Preparation},
    import::{ImportOptions, import},
    learn::{NoiseSource, calibrate, finetune_on_noise, usual_calibration},
    measure::{Comparison, Sample, compare, evaluate, milliseconds},
    network::{Network, ending},
};

/// Rates that a fine-tune may have, the usual one first.
const RATES: [f32; 2] = [1e-3, 1e-4];
/// Share of a fine-tune's steps after which its rates are compared.
const TRIAL: usize = 10;

/// What to compress, into what.
#[derive(Clone, Debug)]
pub struct Compression {
    /// A model's file, or a teacher pack.
    pub model: PathBuf,
    /// The student's file: .ndp, .safetensors or .onnx.
    pub output: PathBuf,
    /// How the model is read; not for a pack.
    pub import: ImportOptions,
    /// How small the student is to be.
    pub target: Target,
    /// Channel counts are multiples of it.
    pub round_to: usize,
    /// How long it may take.
    pub effort: Effort,
    /// Most heap for distilling the blocks; `None`: no limit.
    pub budget: Option<ByteSize>,
    /// Labelled images on which both networks are measured in the end, as `distill evaluate` takes them.
    pub data: Option<String>,
    /// Folder for the stages' files.
    pub work: PathBuf,
    /// Seed of all random numbers.
    pub seed: u64,
}

/// Compresses a model. `heap` is the program's global allocator.
///
/// # Errors
/// Those of the stages; what is wrong with the output, the images or the target is told before any long work.
pub fn compress(task: &Compression, heap: &CountingAllocator<System>) -> Result<Compressed> {
    check_ending(&task.output)?;
    check_distinct(&task.output, [task.model.as_path()])?;
    distill_device::NewFile::create(&task.output)?;
    let work = Work::open(&task.work)?;
    let mut job = Stages { task, heap, work, stages: Vec::new() };
    let teacher = job.teacher()?;
    let network = Network::read_pack(&teacher)?;
    let images = task.data.as_deref().map(|data| images::open(data, &network, Preparation::default())).transpose()?;
    let width = task.target.width(&network, task.round_to)?;
    let amounts = Amounts::new(task.effort, &network);
    let (teacher, source) = job.noise(teacher, &network, &amounts)?;
    let settings = job.settings(width, source, &amounts, &open_pack(&teacher)?);
    let blocks = job.blocks(&teacher, source, &settings)?;
    let solved = recompose(&teacher, &[blocks])?;
    let noise = open_pack(&teacher)?.noise_images()?;
    let sample = noise.as_ref().map_or(Sample::Octaves, Sample::Calibrated);
    let before = compare(&network, &solved, sample)?;
    let (student, comparison, tuned) = match amounts.tuning.filter(|_| noise.is_some() && network.classifies()) {
        Some(tuning) => {
            job.tuned(&teacher, &network, Judged { student: solved, comparison: before }, sample, tuning)?
        }
        None => (solved, before, None),
    };
    export::export(&student, &task.output)?;
    job.report(Finished { network, student, comparison, tuned, images })
}

/// A student, and how closely it follows its teacher.
struct Judged {
    student: Network,
    comparison: Comparison,
}

/// What is left to report.
struct Finished {
    network: Network,
    student: Network,
    comparison: Comparison,
    tuned: Option<f32>,
    images: Option<Box<dyn LabelledImages>>,
}

struct Stages<'a> {
    task: &'a Compression,
    heap: &'a CountingAllocator<System>,
    work: Work,
    stages: Vec<Stage>,
}

impl Stages<'_> {
    /// Runs a stage that writes `path`, unless a sound file of it is there.
    fn stage(&mut self, name: &'static str, path: &Path, make: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let found = self.work.holds(path)?;
        if found {
            eprintln!("{name}: found in {}", path.display());
        } else {
            eprintln!("{name} …");
            make(self)?;
        }
        self.stages.push(Stage { name, found, seconds: start.elapsed().as_secs_f64() });
        Ok(())
    }

    /// The teacher's pack.
    fn teacher(&mut self) -> Result<PathBuf> {
        let Compression { model, import: options, .. } = self.task;
        if ending(model) == "ndp" {
            ensure!(
                *options == ImportOptions::default(),
                "a pack is imported already: leave the options of the import out"
            );
            return Ok(model.clone());
        }
        let bytes = std::fs::read(model).with_context(|| format!("cannot open {}", model.display()))?;
        let path = self.work.file("teacher", &(work::digest(&bytes), format!("{options:?}")))?;
        self.stage("import", &path, |_| import(model, options)?.write_pack(&path, Encoding::F32))?;
        Ok(path)
    }

    /// The settings of a run over the teacher's pack.
    fn settings<R: ReadAt>(&self, width: Width, source: SourceKind, amounts: &Amounts, pack: &Pack<R>) -> Settings {
        let Compression { round_to, budget, seed, .. } = self.task;
        let mut settings = match source {
            SourceKind::Calibrated => Settings::calibrated(width, amounts.steps),
            _ => Settings::new(width, amounts.steps),
        };
        if let Some(calibrated) = pack.calibrated().filter(|_| source == SourceKind::Calibrated) {
            let own = (calibrated.images as usize).saturating_sub(MEASURED_INPUTS).max(1);
            settings.recipe.images = settings.recipe.images.min(amounts.inputs).max(own);
        }
        settings.recipe.round_to = *round_to;
        let budget = Budget { bytes: budget.map_or(u64::MAX, |size| size.as_u64()), used: 0 };
        Settings { seed: *seed, budget, ..settings }
    }

    /// The teacher's pack with calibrated noise, or the pack as it is where noise cannot be calibrated.
    fn noise(&mut self, teacher: PathBuf, network: &Network, amounts: &Amounts) -> Result<(PathBuf, SourceKind)> {
        let pack = open_pack(&teacher)?;
        if pack.calibrated().is_some() {
            eprintln!("calibrate: {} holds noise images", teacher.display());
            return Ok((teacher, SourceKind::Calibrated));
        }
        let calibration = usual_calibration(network, effort::CALIBRATION_STEPS, self.task.seed);
        if calibration.pull.aim() == Aim::Nothing {
            log::warn!(
                "the network has neither batch norms nor classes that noise could match: distilling from white noise"
            );
            return Ok((teacher, SourceKind::Standard));
        }
        let count = amounts.images.next_multiple_of(calibration.batch);
        let path = self.work.file("noise", &(pack.fingerprint(), calibration, count))?;
        self.stage("calibrate", &path, |_| calibrate(&teacher, &path, &calibration, count).map(|_| ()))?;
        Ok((path, SourceKind::Calibrated))
    }

    /// The distilled blocks.
    fn blocks(&mut self, teacher: &Path, source: SourceKind, settings: &Settings) -> Result<PathBuf> {
        let pack = open_pack(teacher)?;
        let path = self.work.file("blocks", &(pack.fingerprint(), pack.noise_checksum(), source, settings))?;
        self.stage("distil", &path, |stages| {
            let job = Job { teacher, student: &path, source, resume: true };
            run_job(job, settings, &Device::Cpu, stages.heap).map(|_| ())
        })?;
        Ok(path)
    }

    /// The student after a fine-tune at the best of [`RATES`], or as it was if that does not bring it nearer to its teacher
    /// on held-out noise; and the rate.
    fn tuned(
        &mut self,
        teacher: &Path,
        network: &Network,
        solved: Judged,
        sample: Sample<'_>,
        tuning: Tuning,
    ) -> Result<(Network, Comparison, Option<f32>)> {
        if solved.comparison.output_error == 0.0 {
            return Ok((solved.student, solved.comparison, None));
        }
        let at = |rate: f32, steps: usize| {
            let training = Training { rate, steps, ..tuning.training };
            Tuning { training, ..tuning }
        };
        let mut trials = Vec::new();
        for rate in RATES {
            let steps = tuning.training.steps / TRIAL;
            trials.push((
                rate,
                self.fine_tune("try a rate", teacher, network, &solved.student, sample, at(rate, steps))?,
            ));
        }
        let (rate, _) = trials
            .into_iter()
            .reduce(|best, next| if next.1.follows(&best.1) { next } else { best })
            .context("a fine-tune has rates")?;
        let tuned =
            self.fine_tune("fine-tune", teacher, network, &solved.student, sample, at(rate, tuning.training.steps))?;
        if tuned.follows(&solved) {
            return Ok((tuned.student, tuned.comparison, Some(rate)));
        }
        eprintln!("the fine-tune does not bring the student nearer to its teacher on held-out noise: it is not kept");
        Ok((solved.student, solved.comparison, None))
    }

    fn fine_tune(
        &mut self,
        name: &'static str,
        teacher: &Path,
        network: &Network,
        student: &Network,
        sample: Sample<'_>,
        tuning: Tuning,
    ) -> Result<Judged> {
        let noise = open_pack(teacher)?.noise_checksum();
        let path = self.work.file("tuned", &(work::digest_network(student)?, noise, tuning))?;
        self.stage(name, &path, |_| {
            let (tuned, _) = finetune_on_noise(teacher, student, NoiseSource::Calibrated, &tuning)?;
            tuned.write_pack(&path, Encoding::F32)
        })?;
        let student = Network::read_pack(&path)?;
        let comparison = compare(network, &student, sample)?;
        eprintln!("{name} at {}: {}", tuning.training.rate, comparison.line());
        Ok(Judged { student, comparison })
    }

    fn report(self, finished: Finished) -> Result<Compressed> {
        let Finished { network, student, comparison, tuned, images } = finished;
        let accuracy = |network: &Network| -> Result<Option<f64>> {
            let Some(images) = &images else { return Ok(None) };
            Ok(Some(evaluate(network, &**images, usize::MAX, &Device::Cpu)?.accuracy))
        };
        let sizes = |network: &Network, path: &Path| -> Result<Sizes> {
            Ok(Sizes {
                parameters: network.parameters(),
                macs: network.macs(),
                bytes: path.metadata().with_context(|| format!("cannot read {}", path.display()))?.len(),
                milliseconds: milliseconds(network),
                accuracy: accuracy(network)?,
            })
        };
        let folded = network.folded()?;
        Ok(Compressed {
            teacher: sizes(&folded, &self.task.model)?,
            student: sizes(&student, &self.task.output)?,
            file: self.task.output.clone(),
            work: self.task.work.clone(),
            fine_tuned_at: tuned,
            comparison,
            stages: self.stages,
        })
    }
}

impl Judged {
    /// Whether this student follows the teacher more closely than another: in its class more often or, if as often, with
    /// less error.
    fn follows(&self, other: &Self) -> bool {
        let [ours, theirs] = [self, other].map(|judged| &judged.comparison);
        match (ours.agreement, theirs.agreement) {
            (Some(a), Some(b)) if a != b => a > b,
            _ => ours.output_error < theirs.output_error,
        }
    }
}
