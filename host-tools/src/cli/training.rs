//! What the commands have in common that train whole networks: how they learn, and from which images.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use distill_core::{Device, Training, Tuning};
use distill_device::{OptimizerName, ScheduleName, check_distinct, check_writable, parse_share, say};
use distill_host::{
    images::{Images, LabelledImages, Part, Preparation, Split, open_lessons, open_training},
    learn::{MetricFiles, check_classes, read_metrics},
    measure::evaluate,
    network::Network,
};

/// Options of every training of a whole network; what is not given is the preset's.
#[derive(Args)]
pub struct TuningOptions {
    /// Gradient steps
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Images per step
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Update rule
    #[arg(long, value_enum)]
    optimizer: Option<OptimizerName>,
    /// Peak learning rate
    #[arg(long, value_name = "RATE")]
    pub rate: Option<f32>,
    /// Learning-rate schedule
    #[arg(long, value_enum)]
    schedule: Option<ScheduleName>,
    /// Steps over which the rate rises from a tenth to all of its schedule's
    #[arg(long, value_name = "N")]
    warm_up: Option<usize>,
    /// L2 regularisation
    #[arg(long, value_name = "L2")]
    weight_decay: Option<f32>,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Start over, even if an earlier run of the same was cut off
    #[arg(long)]
    pub fresh: bool,
    /// File to which step, rate, loss and held-out accuracy are written
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Folder to which the same is written for TensorBoard
    #[arg(long, value_name = "FOLDER")]
    tensorboard: Option<PathBuf>,
}

impl TuningOptions {
    pub fn tuning(&self, usual: Tuning) -> Tuning {
        let mut training = usual.training;
        if let Some(optimizer) = self.optimizer {
            // The optimiser that is the preset's keeps the preset's rate.
            if optimizer.update() != training.update {
                training.rate = optimizer.update().default_rate();
            }
            training.update = optimizer.update();
        }
        let steps = self.steps.unwrap_or(training.steps);
        let training = Training {
            steps,
            batch: self.batch.unwrap_or(training.batch),
            rate: self.rate.unwrap_or(training.rate),
            schedule: self.schedule.map_or(training.schedule, ScheduleName::schedule),
            warm_up: self.warm_up.unwrap_or(training.warm_up.min(steps / 10)),
            weight_decay: self.weight_decay.unwrap_or(training.weight_decay),
            ..training
        };
        Tuning { training, seed: self.seed, ..usual }
    }

    /// Checks before any work that the metrics can be written, and that they replace nothing else.
    pub fn check(&self, output: &Path) -> Result<()> {
        if let Some(path) = &self.metrics {
            check_writable(path, [])?;
            read_metrics(path)?;
        }
        if let Some(folder) = &self.tensorboard {
            check_distinct(output, [folder.as_path()])?;
            fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        Ok(())
    }

    pub fn metrics(&self) -> MetricFiles<'_> {
        MetricFiles { csv: self.metrics.as_deref(), tensorboard: self.tensorboard.as_deref() }
    }
}

/// Which images are learned from, and which are held out.
#[derive(Args)]
pub struct DataOptions {
    /// Images to learn from: cifar10 (its training images), or a folder as `distill evaluate` takes it
    #[arg(long, value_name = "DATA")]
    pub data: Option<String>,
    /// Share of the images to learn from; the accuracy on the others decides what is chosen
    #[arg(long, default_value = "0.9", value_name = "SHARE", value_parser = parse_share, requires = "data")]
    train_split: f32,
}

impl DataOptions {
    /// The images, with their classes if asked for; `None` without `--data`.
    pub fn open(&self, network: &Network, labelled: bool) -> Result<Option<Split>> {
        let Some(data) = &self.data else { return Ok(None) };
        let preparation = Preparation::default();
        let split = if labelled {
            let split = open_lessons(data, network, preparation, self.train_split)?;
            check_classes(network, split.learned.labels()).with_context(|| format!("cannot learn from {data}"))?;
            split
        } else {
            open_training(data, network, preparation, self.train_split)?
        };
        split.learned.check()?;
        let Split { learned, held_out } = &split;
        say(&format!("data: {} images of {data} to learn from, {} held out", learned.len(), held_out.len()));
        Ok(Some(split))
    }
}

/// Percent of labelled images whose class a network gives.
pub fn accuracy(network: &Network, images: &Part) -> Result<f64> {
    Ok(evaluate(network, images, usize::MAX, &Device::Cpu)?.accuracy)
}

/// Whether accuracy can be measured on images.
pub fn labelled(images: &Part) -> Option<&Part> {
    (!images.labels().is_empty()).then_some(images)
}
