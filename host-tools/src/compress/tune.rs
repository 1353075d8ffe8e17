//! Whether a student is fine-tuned as a whole, and at which rate: noise that nothing learns from decides.

use std::path::Path;

use anyhow::{Context, Result};
use distill_core::{Encoding, Training, Tuning};
use distill_device::open_pack;

use super::{Stages, work};
use crate::{
    learn::{NoiseSource, finetune_on_noise},
    measure::{Comparison, Sample, compare},
    network::Network,
};

/// Rates that a fine-tune may have, the usual one first.
const RATES: [f32; 2] = [1e-3, 1e-4];
/// They are compared after one in so many of its steps.
const TRIAL: usize = 20;

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

/// What the fine-tunes of a compression share.
pub struct Tuner<'a> {
    /// The teacher's pack, with noise images.
    pub teacher: &'a Path,
    /// The network in it.
    pub network: &'a Network,
    /// What students are judged on.
    pub sample: Sample<'a>,
    /// The whole fine-tune; its rate is that of a trial.
    pub tuning: Tuning,
}

impl Tuner<'_> {
    /// The student after a fine-tune at the better rate, with the rate; or as it was, if that does not bring it nearer to its
    /// teacher.
    pub fn tuned(&self, solved: Judged, stages: &mut Stages<'_>) -> Result<(Judged, Option<f32>)> {
        if solved.comparison.output_error == 0.0 {
            return Ok((solved, None));
        }
        let steps = self.tuning.training.steps;
        let at = |rate: f32, steps: usize| Training { rate, steps, ..self.tuning.training };
        let mut best: Option<(f32, Judged)> = None;
        for rate in RATES {
            let trial = self.fine_tune("try a rate", &solved.student, at(rate, steps / TRIAL), stages)?;
            if best.as_ref().is_none_or(|(_, best)| trial.follows(best)) {
                best = Some((rate, trial));
            }
        }
        let (rate, _) = best.context("there are no rates to try")?;
        let tuned = self.fine_tune("fine-tune", &solved.student, at(rate, steps), stages)?;
        if tuned.follows(&solved) {
            return Ok((tuned, Some(rate)));
        }
        eprintln!("the fine-tune does not bring the student nearer to its teacher on held-out noise: it is not kept");
        Ok((solved, None))
    }

    fn fine_tune(
        &self,
        stage: &'static str,
        student: &Network,
        training: Training,
        stages: &mut Stages<'_>,
    ) -> Result<Judged> {
        let tuning = Tuning { training, ..self.tuning };
        let noise = open_pack(self.teacher)?.noise_checksum();
        let path = stages.work.file("tuned", &(work::digest(student)?, noise, tuning))?;
        stages.stage(stage, &path, |_| {
            let (tuned, _) = finetune_on_noise(self.teacher, student, NoiseSource::Calibrated, &tuning)?;
            tuned.write_pack(&path, Encoding::F32)
        })?;
        let judged = Judged::new(self.network, Network::read_pack(&path)?, self.sample)?;
        eprintln!("{stage} at {}: {}", training.rate, judged.comparison.line());
        Ok(judged)
    }
}
