//! Accuracy on labelled images: evaluation mode, running statistics, every image once.

use anyhow::{Result, ensure};
use distill_core::{Batch, Chain, Device, Shape};
use distill_device::Progress;
use serde::Serialize;

use crate::{
    images::{LabelledImages, check_labels, normalised},
    network::Network,
};

/// Images in a forward pass, if they are small.
const BATCH: usize = 128;
/// Most bytes of the input of a forward pass, unless a single group takes more.
const INPUT_BYTES: usize = 64 << 20;
/// Images that one thread takes side by side.
const GROUP: usize = 16;
/// The label counts for `top5` if its logit is among this many largest.
const TOP: usize = 5;

/// The object `evaluate --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Percent of images whose largest logit is the label's.
    pub accuracy: f64,
    /// Number of these images.
    pub correct: usize,
    /// Percent of images whose label is among the five largest logits.
    pub top5: f64,
    /// Number of these images.
    pub top5_correct: usize,
    /// Number of images evaluated.
    pub total: usize,
    /// Trained scalars of the network as it is stored.
    pub parameters: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// The predicted class of each image, in order.
    #[serde(skip)]
    pub predictions: Vec<u16>,
}

impl Evaluation {
    /// What is probably wrong if a network of so many classes is right no more often than one that guesses.
    pub fn doubt(&self, classes: usize) -> Option<String> {
        (self.correct * classes <= self.total).then(|| {
            format!(
                "{} of {} right is no better than guessing among {classes} classes: is each image's label its index \
                 among the network's classes (order of the class folders), and are pixels normalised as in training \
                 (--normalise)?",
                self.correct, self.total
            )
        })
    }
}

/// Evaluates `network` on the first `limit` images.
///
/// # Errors
/// As [`check_labels`]; an image cannot be read; or logits are not finite.
pub fn evaluate(network: &Network, images: &dyn LabelledImages, limit: usize, device: &Device) -> Result<Evaluation> {
    check_labels(network, images)?;
    let total = images.len().min(limit);
    let labels = &images.labels()[..total];
    let classes = network.logits();
    let batch = batch(network.input(), rayon::current_num_threads());
    let folded = network.folded()?;
    let mut chain = Chain::new(&folded.blocks, device);
    let mut logits = Batch::new(device);
    let mut progress = Progress::new("evaluating", Some(total as u64), "{pos}/{len} images")?;
    let mut predictions = Vec::with_capacity(total);
    let (mut correct, mut top5_correct) = (0, 0);
    for start in (0..total).step_by(batch) {
        let end = total.min(start + batch);
        chain.forward(&normalised(network, images, start..end)?.to_device(device), &mut logits);
        let values = logits.to_values();
        ensure!(values.iter().all(|value| value.is_finite()), "the network gives logits that are not finite");
        for (logits, &label) in values.chunks_exact(classes).zip(&labels[start..end]) {
            let rank = rank(logits, usize::from(label));
            correct += usize::from(rank == 0);
            top5_correct += usize::from(rank < TOP);
            predictions.push(largest(logits) as u16);
        }
        progress.set(end as u64);
    }
    let percent = |count: usize| 100.0 * count as f64 / total.max(1) as f64;
    Ok(Evaluation {
        accuracy: percent(correct),
        correct,
        top5: percent(top5_correct),
        top5_correct,
        total,
        parameters: network.parameters(),
        macs: network.macs(),
        predictions,
    })
}

/// Images in a forward pass: a group for each thread, as far as the input stays inside 64 MiB, and at least one group. No
/// result depends on it.
pub fn batch(input: Shape, threads: usize) -> usize {
    let fitting = INPUT_BYTES / (input.elements() * size_of::<f32>()) / GROUP * GROUP;
    BATCH.max(GROUP * threads).min(fitting).max(GROUP)
}

/// Number of logits above the label's; of equal ones the first is above.
fn rank(logits: &[f32], label: usize) -> usize {
    let (before, after) = logits.split_at(label);
    before.iter().filter(|&&logit| logit >= logits[label]).count()
        + after.iter().filter(|&&logit| logit > logits[label]).count()
}

/// Index of the largest value; the first of equal ones.
pub(super) fn largest(logits: &[f32]) -> usize {
    let best = |best: usize, index: usize| if logits[index] > logits[best] { index } else { best };
    (1..logits.len()).fold(0, best)
}
