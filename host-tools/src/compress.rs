//! A trained model's file becomes a smaller one in one call: import, calibrate, distil, fine-tune, recompose, compare.
//!
//! The stages are those of the separate commands. Each leaves its file in a work folder, under a name that follows from
//! everything that determines it: a run that was cut off goes on there, and another target reuses what it shares. Whether a
//! fine-tune stays is decided by agreement with the teacher on noise that nothing learns from.

mod effort;
mod outcome;
mod target;
mod tune;
mod work;

use std::{
    alloc::System,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use bytesize::ByteSize;
use distill_core::{
    Aim, Budget, Calibrated, CountingAllocator, Device, Encoding, MEASURED_INPUTS, Pack, ReadAt, Settings, SourceKind,
};
use distill_device::{
    Job, NOTHING_TO_DISTIL, NewFile, Resumable, check_changes, check_distinct, open_pack, open_source, run_job, say,
};

use self::{
    effort::Amounts,
    target::Widths,
    tune::{Judged, Tuner},
    work::Work,
};
pub use self::{
    effort::Effort,
    outcome::{Compressed, Sizes, Stage},
    target::Target,
};
use crate::{
    export::{self, check_ending, recompose},
    images::{self, LabelledImages, Preparation},
    import::{ImportOptions, import},
    learn::{calibrate, usual_calibration},
    measure::{Sample, evaluate, milliseconds},
    network::{Network, is_pack},
};

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
    NewFile::create(&task.output)?;
    let work = Work::open(&task.work)?;
    let mut job = Stages { task, heap, work, stages: Vec::new() };
    let teacher = job.teacher()?;
    let network = Network::read_pack(&teacher)?;
    ensure!(network.neighbourhoods().next().is_some(), "cannot compress {}: {NOTHING_TO_DISTIL}", task.model.display());
    let images = task.data.as_deref().map(|data| images::open(data, &network, Preparation::default())).transpose()?;
    let widths = task.target.widths(&network, task.round_to)?;
    let amounts = Amounts::new(task.effort, task.seed, &network);
    let shapes = widths.apply(Settings::new(widths.all, amounts.steps), task.round_to);
    shapes.check(SourceKind::Standard)?;
    check_changes(&mut open_pack(&teacher)?, &shapes)
        .with_context(|| format!("cannot compress {}", task.model.display()))?;
    let (teacher, source) = job.noise(teacher, &network, &amounts)?;
    let settings = job.settings(&widths, source, &amounts, &open_pack(&teacher)?);
    let blocks = job.blocks(&teacher, source, &settings)?;
    let solved = recompose(&teacher, &[blocks])?.folded()?;
    let noise = open_pack(&teacher)?.noise_images()?;
    let sample = noise.as_ref().map_or(Sample::Octaves, Sample::Calibrated);
    let solved = Judged::new(&network, solved, sample)?;
    let (judged, rate) = match amounts.tuning.filter(|_| noise.is_some() && network.classifies()) {
        Some(tuning) => Tuner { teacher: &teacher, network: &network, sample, tuning }.tuned(solved, &mut job)?,
        None => (solved, None),
    };
    export::export(&judged.student, &task.output)?;
    job.report(&network, judged, rate, images.as_deref(), teacher)
}

/// The stages so far.
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
            say(&format!("{name}: found in {}", path.display()));
        } else {
            say(&format!("{name} …"));
            let work = &self.task.work;
            let line = format!("finished stages are in {}; the same command resumes after them", work.display());
            let _resumable = Resumable::new(work.clone(), line);
            make(self)?;
        }
        self.stages.push(Stage { name, found, seconds: start.elapsed().as_secs_f64() });
        Ok(())
    }

    /// The teacher's pack. The model is read each time: weights may be in files beside it.
    fn teacher(&mut self) -> Result<PathBuf> {
        let Compression { model, import: options, .. } = self.task;
        if is_pack(model) {
            ensure!(
                *options == ImportOptions::default(),
                "a pack is imported already: leave the options of the import out"
            );
            return Ok(model.clone());
        }
        let network = import(model, options)?;
        let path = self.work.file("teacher", &network.digest()?)?;
        self.stage("import", &path, |_| network.write_pack(&path, Encoding::F32))?;
        Ok(path)
    }

    /// The settings of a run over the teacher's pack.
    fn settings<R: ReadAt>(&self, widths: &Widths, source: SourceKind, amounts: &Amounts, pack: &Pack<R>) -> Settings {
        let Compression { round_to, budget, seed, .. } = self.task;
        let mut settings = match source {
            SourceKind::Calibrated => Settings::calibrated(widths.all, amounts.steps),
            _ => Settings::new(widths.all, amounts.steps),
        };
        if let Some(calibrated) = pack.calibrated().filter(|_| source == SourceKind::Calibrated) {
            let own = (calibrated.images as usize).saturating_sub(MEASURED_INPUTS).max(1);
            settings.recipe.images = settings.recipe.images.min(amounts.inputs).max(own);
        }
        let budget = Budget { bytes: budget.map_or(u64::MAX, |size| size.as_u64()), used: 0 };
        widths.apply(Settings { seed: *seed, budget, ..settings }, *round_to)
    }

    /// The teacher's pack with calibrated noise, or the pack as it is where noise cannot be calibrated.
    fn noise(&mut self, teacher: PathBuf, network: &Network, amounts: &Amounts) -> Result<(PathBuf, SourceKind)> {
        let pack = open_pack(&teacher)?;
        if let Some(Calibrated { images, .. }) = pack.calibrated() {
            say(&format!("calibrate: {} holds {images} noise images", teacher.display()));
            if (*images as usize) < amounts.images {
                log::warn!("this effort would make {}: `distill calibrate` adds some", amounts.images);
            }
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
            let source = open_source(source, teacher, None)?;
            let job = Job { teacher, student: &path, source, fresh: false, trust: None, signer: None };
            run_job(job, settings, &Device::Cpu, stages.heap).map(|_| ())
        })?;
        Ok(path)
    }

    /// Measures both networks.
    fn report(
        self,
        network: &Network,
        Judged { student, comparison }: Judged,
        rate: Option<f32>,
        images: Option<&dyn LabelledImages>,
        pack: PathBuf,
    ) -> Result<Compressed> {
        let accuracy = |network: &Network| -> Result<Option<f64>> {
            let Some(images) = images else { return Ok(None) };
            Ok(Some(evaluate(network, images, usize::MAX, &Device::Cpu)?.accuracy))
        };
        let sizes = |network: &Network, path: &Path| -> Result<Sizes> {
            let (parameters, bytes) = (
                network.parameters(),
                path.metadata().with_context(|| format!("cannot read {}", path.display()))?.len(),
            );
            // A file of less than a byte for each has its weights beside it.
            let is_outside = bytes < parameters as u64;
            Ok(Sizes {
                parameters,
                macs: network.macs(),
                bytes: if is_outside { (parameters * size_of::<f32>()) as u64 } else { bytes },
                milliseconds: milliseconds(network),
                accuracy: accuracy(network)?,
            })
        };
        Ok(Compressed {
            teacher: sizes(&network.folded()?, &self.task.model)?,
            student: sizes(&student, &self.task.output)?,
            file: self.task.output.clone(),
            pack,
            work: self.task.work.clone(),
            fine_tuned_at: rate,
            comparison,
            stages: self.stages,
        })
    }
}
