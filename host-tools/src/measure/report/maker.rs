//! Makes the students of a report, and measures them.

use std::{
    alloc::System,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use distill_core::{CountingAllocator, Device, Encoding, Role, SourceKind, Width, prune};
use distill_device::{Job, open_pack, open_source, run_job, say, write_file};

use super::{
    kind::Size,
    method::Method,
    recipes::Recipes,
    table::{Calibrated, Cell, Point},
};
use crate::{
    export::recompose,
    images::{LabelledImages, Split},
    learn::{
        BaselineOptions, FineTune, Keep, LearnFrom, MetricFiles, NoiseSource, Watched, baseline, calibrate,
        finetune_student, read_metrics, recorded,
    },
    measure::{Sample, compare, evaluate},
    network::Network,
};

/// Held-out images on which interface errors are measured.
const COMPARED: usize = 512;

/// Makes the students of one seed.
pub struct Maker<'a> {
    /// The teacher's pack, and the network in it.
    pub path: &'a Path,
    pub teacher: &'a Network,
    pub recipes: &'a Recipes,
    pub seed: u64,
    /// Images to learn from, for the methods that do.
    pub split: Option<&'a Split>,
    /// Test images.
    pub test: &'a dyn LabelledImages,
    pub limit: usize,
    pub heap: &'a CountingAllocator<System>,
    /// Folder for what is made on the way.
    pub work: &'a Path,
}

impl Maker<'_> {
    /// The teacher pack with the noise images of the seed.
    fn calibrated(&self) -> PathBuf {
        self.work.join(format!("teacher-{}.ndp", self.seed))
    }

    /// Makes the noise images of the seed.
    pub fn calibrate(&self) -> Result<Calibrated> {
        let (calibration, images) = (self.recipes.calibration(self.seed), self.recipes.images());
        let outcome = calibrate(self.path, &self.calibrated(), &calibration, images)?;
        let seconds = (outcome.found == 0).then_some(outcome.seconds);
        Ok(Calibrated { seed: self.seed, images: outcome.images, mismatch: outcome.distance.mismatch(), seconds })
    }

    /// A student, measured; as another report left it, if one did.
    pub fn cell(&self, method: Method, size: Size) -> Result<Cell> {
        let done = self.file(method, size, "json");
        // Students of blocks are of use only with their pack, which others are fine-tuned from.
        let is_whole = method.before().is_some() || method.baseline().is_some();
        if let Ok(bytes) = fs::read(&done)
            && let Ok(cell) = serde_json::from_slice(&bytes)
            && (is_whole || open_pack(&self.file(method, size, "ndp")).is_ok())
        {
            return Ok(cell);
        }
        // What it is fine-tuned from is of use to other reports, too.
        if let Some(before) = method.before() {
            self.cell(before, size)?;
        }
        let sparse = if size.sparsity > 0.0 { format!(", sparsity {}", size.sparsity) } else { String::new() };
        say(&format!("seed {}, k {}{sparse}: {}", self.seed, size.width, method.title()));
        let start = Instant::now();
        let (student, unit_seconds) = self.make(method, size)?;
        let metrics = read_metrics(&self.file(method, size, "csv"))?;
        let curve: Vec<Point> = metrics
            .into_iter()
            .filter_map(|row| Some(Point { seconds: row.seconds, accuracy: row.accuracy? }))
            .collect();
        // The clock of a training stands still while it is measured, and goes on after a cut.
        let seconds = curve.last().map_or(start.elapsed().as_secs_f64(), |last| last.seconds);
        let evaluation = evaluate(&student, self.test, self.limit, &Device::Cpu)?;
        let interface_error =
            method.baseline().is_none().then(|| self.interface_error(method, &student)).transpose()?;
        let (accuracy, parameters) = (evaluation.accuracy, evaluation.parameters);
        let bytes = Some(self.bytes(&student)?);
        let cell = Cell {
            method,
            size,
            seed: self.seed,
            accuracy,
            interface_error,
            parameters,
            bytes,
            seconds,
            unit_seconds,
            curve,
        };
        write_file(&done, &serde_json::to_vec_pretty(&cell)?)?;
        Ok(cell)
    }

    /// A student, and the mean seconds of its blocks where they were distilled.
    fn make(&self, method: Method, size: Size) -> Result<(Network, Option<f64>)> {
        let (output, metrics) = (self.file(method, size, "ndp"), self.file(method, size, "csv"));
        let accuracy = |network: &Network| Ok(evaluate(network, self.test, self.limit, &Device::Cpu)?.accuracy);
        let takes_data = method.source() == SourceKind::Recorded;
        let watched = Watched {
            metrics: MetricFiles { csv: takes_data.then_some(&metrics), tensorboard: None },
            accuracy: Some(&accuracy),
            ..Watched::new("training", Keep { output: &output, fresh: false })
        };
        let tuning = self.recipes.tuning(method, self.seed);
        let data = || self.split.map(|split| &split.learned).context("this report needs data");
        let teacher = if method.takes_noise() { &self.calibrated() } else { self.path };
        if let Some(before) = method.before() {
            let student = self.file(before, size, "ndp");
            let student = match before {
                Method::Magnitude => Network::read_pack(&student)?,
                _ => recompose(teacher, &[student])?,
            };
            let from = match takes_data {
                true => LearnFrom::Images(data()?),
                false => LearnFrom::Noise(NoiseSource::Calibrated),
            };
            let task = FineTune { teacher, student: &student, from, tuning: &tuning };
            return Ok((finetune_student(task, watched)?.0, None));
        }
        if let Some(method) = method.baseline() {
            let images = if takes_data { Some(data()?) } else { None };
            let options = BaselineOptions {
                method,
                preset: self.recipes.baselines,
                width: Width::new(size.width)?,
                images,
                tuning,
            };
            return Ok((baseline(teacher, options, watched)?, None));
        }
        let settings = self.recipes.settings(method, size, self.seed)?;
        if method == Method::Magnitude {
            // It is shown even where it is no better than zeros, which a run refuses.
            let mut student = self.teacher.folded()?;
            let neighbourhoods = student.blocks.iter_mut().filter(|block| block.role() == Role::Neighbourhood);
            for block in neighbourhoods {
                *block = prune(block.clone(), &settings.recipe)?;
            }
            student.write_pack(&output, Encoding::F32)?;
            return Ok((student, None));
        }
        let source = match takes_data {
            true => recorded(data()?.clone(), self.teacher)?,
            false => open_source(method.source(), teacher, None)?,
        };
        let job = Job { teacher, student: &output, source, fresh: true, trust: None, signer: None };
        let outcome = run_job(job, &settings, &Device::Cpu, self.heap)?;
        let total: f64 = outcome.blocks.iter().map(|block| block.seconds).sum();
        let unit = total / outcome.blocks.len().max(1) as f64;
        Ok((recompose(teacher, &[output])?, Some(unit)))
    }

    /// A file of a student in the working folder.
    fn file(&self, method: Method, size: Size, ending: &str) -> PathBuf {
        let Size { width, sparsity } = size;
        let sparse = if sparsity > 0.0 { format!("-sparse-{sparsity}") } else { String::new() };
        self.work.join(format!("{method:?}-{width}{sparse}-{}.{ending}", self.seed))
    }

    /// Bytes of a network's pack in single precision.
    fn bytes(&self, network: &Network) -> Result<u64> {
        let path = self.work.join("size.ndp");
        network.write_pack(&path, Encoding::F32)?;
        let bytes = fs::metadata(&path)?.len();
        fs::remove_file(&path)?;
        Ok(bytes)
    }

    /// Removes the state of a student's training.
    pub fn clear(&self, method: Method, size: Size) -> Result<()> {
        Keep { output: &self.file(method, size, "ndp"), fresh: false }.clear()
    }

    /// Mean relative error of a student's blocks on inputs like those that it learned from.
    fn interface_error(&self, method: Method, student: &Network) -> Result<f64> {
        let comparison = match self.split.filter(|_| !method.takes_noise()) {
            Some(split) => compare(self.teacher, student, Sample::Pictures(&split.held_out, COMPARED))?,
            None => {
                let noise = open_pack(&self.calibrated())?.noise_images()?;
                let noise = noise.context("the teacher pack has lost its noise images")?;
                compare(self.teacher, student, Sample::HeldOut(&noise))?
            }
        };
        Ok(comparison.interface_error())
    }
}
