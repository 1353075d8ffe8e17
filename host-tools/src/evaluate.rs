//! Accuracy on labelled images: evaluation mode, running statistics, every image once.

use anyhow::{Result, ensure};
use distill_core::{Chain, Device, Images};
use distill_device::Progress;
use serde::Serialize;

use crate::{cifar10::LabelledImages, images::normalised, network::Network};

/// Images a forward pass; no result depends on it.
const BATCH: usize = 128;

/// The object `evaluate --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Percent of images whose largest logit is the label's.
    pub accuracy: f64,
    /// As many images.
    pub correct: usize,
    /// Of these.
    pub total: usize,
    /// Trained scalars of the network as it is stored.
    pub parameters: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// The class of each image, in order.
    #[serde(skip)]
    pub predictions: Vec<u16>,
}

/// Evaluates `network` on the first `limit` images.
///
/// # Errors
/// The images have another shape than the network's input, or its logits are not finite.
pub fn evaluate(network: &Network, images: &LabelledImages, limit: usize, device: &Device) -> Result<Evaluation> {
    let total = images.labels.len().min(limit);
    let folded = network.folded()?;
    let mut chain = Chain::new(&folded.blocks, device);
    let mut logits = Images::zeros(network.input(), 0);
    let mut progress = Progress::new("evaluating", Some(total as u64), "{pos}/{len} images")?;
    let mut predictions = Vec::with_capacity(total);
    for start in (0..total).step_by(BATCH) {
        let end = total.min(start + BATCH);
        chain.forward(&normalised(network, images, start, end)?, &mut logits);
        let values = logits.to_values();
        ensure!(values.iter().all(|value| value.is_finite()), "the network gives logits that are not finite");
        predictions.extend(values.chunks_exact(logits.shape().elements()).map(largest));
        progress.set(end as u64);
    }
    let correct = predictions.iter().zip(&images.labels).filter(|(p, l)| p == l).count();
    let accuracy = 100.0 * correct as f64 / total.max(1) as f64;
    Ok(Evaluation { accuracy, correct, total, parameters: network.parameters(), macs: network.macs(), predictions })
}

/// Index of the largest value; the first of equals.
fn largest(logits: &[f32]) -> u16 {
    let best = |best: usize, index: usize| if logits[index] > logits[best] { index } else { best };
    (1..logits.len()).fold(0, best) as u16
}
