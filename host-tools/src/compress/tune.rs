//! Whether a student is fine-tuned as a whole, and at which rate: noise that nothing learns from decides.
//!
//! Short trials would not: they favour small rates.

use std::path::Path;

use anyhow::Result;
use distill_core::{Encoding, Training, Tuning};
use distill_device::{open_pack, say};

use super::Stages;
use crate::{
    learn::{FineTune, Keep, LearnFrom, NoiseSource, Watched, finetune_student},
    measure::{Comparison, Sample, compare},
    network::Network,
};

/// Peak rates of a fine-tune; the first that brings the student nearer to its teacher is taken.
const RATES: [f32; 2] = [3e-4, 1e-4];

/// A student, and how closely it follows its teacher.
pub struct Judged {
    pub student: Network,
    pub comparison: Comparison,
}

impl Judged {
    pub fn new(teacher: &Network, student: Network, sample: Sample<'_>) -> Result<Self> {
        let comparison = compare(teacher, &student, sample)?;
        Ok(Self { student, comparison })
    }
}

/// What the fine-tunes of a compression share.
pub struct Tuner<'a> {
    /// The teacher's pack, with noise images.
    pub teacher: &'a Path,
    /// The network in it.
    pub network: &'a Network,
    /// What students are judged on.
    pub sample: Sample<'a>,
    /// The fine-tune, whatever its rate.
    pub tuning: Tuning,
}

impl Tuner<'_> {
    /// The student after a fine-tune, with its rate; or as it was, if none brings it nearer to its teacher.
    pub fn tuned(&self, solved: Judged, stages: &mut Stages<'_>) -> Result<(Judged, Option<f32>)> {
        if solved.comparison.output_error == 0.0 {
            return Ok((solved, None));
        }
        for rate in RATES {
            let tuned = self.fine_tune(&solved.student, rate, stages)?;
            say(&format!("fine-tune at {rate}: {}", tuned.comparison.line()));
            if tuned.comparison.follows(&solved.comparison) {
                return Ok((tuned, Some(rate)));
            }
            say("that does not bring the student nearer to its teacher on held-out noise: it is not kept");
        }
        Ok((solved, None))
    }

    fn fine_tune(&self, student: &Network, rate: f32, stages: &mut Stages<'_>) -> Result<Judged> {
        let tuning = Tuning { training: Training { rate, ..self.tuning.training }, ..self.tuning };
        let noise = open_pack(self.teacher)?.noise_checksum();
        let path = stages.work.file("tuned", &(student.digest()?, noise, tuning))?;
        stages.stage("fine-tune", &path, |_| {
            let from = LearnFrom::Noise(NoiseSource::Calibrated);
            let task = FineTune { teacher: self.teacher, student, from, tuning: &tuning };
            let keep = Keep { output: &path, fresh: false };
            let (tuned, _) = finetune_student(task, Watched::new("fine-tuning", keep))?;
            tuned.write_pack(&path, Encoding::F32)?;
            keep.clear()
        })?;
        Judged::new(self.network, Network::read_pack(&path)?, self.sample)
    }
}
