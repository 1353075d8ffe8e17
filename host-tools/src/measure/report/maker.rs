//! Makes the students of a report, and measures them.

use std::{
    alloc::System,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use distill_core::{CountingAllocator, Device, SourceKind, Width};
use distill_device::{Job, open_pack, open_source, run_job, say, write_file};

use super::{
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
    pub fn cell(&self, method: Method, width: Width) -> Result<Cell> {
        let done = self.file(method, width, "json");
        // Students of blocks are of use only with their pack, which others are fine-tuned from.
        let is_whole = method.before().is_some() || method.baseline().is_some();
        if let Ok(bytes) = fs::read(&done)
            && let Ok(cell) = serde_json::from_slice(&bytes)
            && (is_whole || open_pack(&self.file(method, width, "ndp")).is_ok())
        {
            return Ok(cell);
        }
        // What it is fine-tuned from is of use to other reports, too.
        if let Some(before) = method.before() {
            self.cell(before, width)?;
        }
        say(&format!("seed {}, k {}: {}", self.seed, width.k(), method.title()));
        let start = Instant::now();
        let (student, unit_seconds) = self.make(method, width)?;
        let metrics = read_metrics(&self.file(method, width, "csv"))?;
        let curve: Vec<Point> = metrics
            .into_iter()
            .filter_map(|row| Some(Point { seconds: row.seconds, accuracy: row.accuracy? }))
            .collect();
        // The clock of a training stands still while it is measured, and goes on after a cut.
        let seconds = curve.last().map_or(start.elapsed().as_secs_f64(), |last| last.seconds);
        let evaluation = evaluate(&student, self.test, self.limit, &Device::Cpu)?;
        let interface_error =
            method.baseline().is_none().then(|| self.interface_error(method, &student)).transpose()?;
        let (accuracy, parameters, width) = (evaluation.accuracy, evaluation.parameters, width.k());
        let cell = Cell {
            method,
            width,
            seed: self.seed,
            accuracy,
            interface_error,
            parameters,
            seconds,
            unit_seconds,
            curve,
        };
        write_file(&done, &serde_json::to_vec_pretty(&cell)?)?;
        Ok(cell)
    }

    /// A student, and the mean seconds of its blocks where they were distilled.
    fn make(&self, method: Method, width: Width) -> Result<(Network, Option<f64>)> {
        let (output, metrics) = (self.file(method, width, "ndp"), self.file(method, width, "csv"));
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
            let student = recompose(teacher, &[self.file(before, width, "ndp")])?;
            let from = match takes_data {
                true => LearnFrom::Images(data()?),
                false => LearnFrom::Noise(NoiseSource::Calibrated),
            };
            let task = FineTune { teacher, student: &student, from, tuning: &tuning };
            return Ok((finetune_student(task, watched)?.0, None));
        }
        if let Some(method) = method.baseline() {
            let images = if takes_data { Some(data()?) } else { None };
            let options = BaselineOptions { method, preset: self.recipes.baselines, width, images, tuning };
            return Ok((baseline(teacher, options, watched)?, None));
        }
        let source = match takes_data {
            true => recorded(data()?.clone(), self.teacher)?,
            false => open_source(method.source(), teacher, None)?,
        };
        let job = Job { teacher, student: &output, source, fresh: true, trust: None, signer: None };
        let outcome = run_job(job, &self.recipes.settings(method, width, self.seed), &Device::Cpu, self.heap)?;
        let total: f64 = outcome.blocks.iter().map(|block| block.seconds).sum();
        let unit = total / outcome.blocks.len().max(1) as f64;
        Ok((recompose(teacher, &[output])?, Some(unit)))
    }

    /// A file of a student in the working folder.
    fn file(&self, method: Method, width: Width, ending: &str) -> PathBuf {
        self.work.join(format!("{method:?}-{}-{}.{ending}", width.k(), self.seed))
    }

    /// Removes the state of a student's training.
    pub fn clear(&self, method: Method, width: Width) -> Result<()> {
        Keep { output: &self.file(method, width, "ndp"), fresh: false }.clear()
    }

    /// Mean relative error of a student's blocks on inputs like those that it learned from.
    fn interface_error(&self, method: Method, student: &Network) -> Result<f64> {
        let comparison = match self.split.filter(|_| method.source() == SourceKind::Recorded) {
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
