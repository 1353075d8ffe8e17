//! MobileNetV2 (Sandler et al. 2018), of any width, by torchvision's names.

use anyhow::Result;
use distill_core::{Activation, Op};

use super::{
    Candidate, Family,
    layers::{Layers, Normed},
};
use crate::import::Checkpoint;

/// Stride of each inverted residual (the paper's table 2, every repetition after the first at stride 1).
const STRIDES: [u16; 17] = [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1];
/// The second stage of a network for CIFAR keeps the extent, as its first convolution does (chenyaofo, huyvnphan).
const CIFAR_STRIDES: [u16; 17] = [1, 1, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1];

pub(super) const FAMILY: Family = Family {
    title: "MobileNetV2",
    tensors: &[&["features.1.conv.0.0.weight", "features.0.0.weight"]],
    networks,
    doubt: "weights do not say what its strides are (the usual ones for 224x224 pixels, or those for 32x32)",
};

fn networks(checkpoint: &Checkpoint) -> Result<Vec<Candidate>> {
    let new = |extent, build| Candidate::new(checkpoint, "features.0.0.weight", extent, build);
    let usual = new(224, |layers| build(layers, 2, &STRIDES)).named("mobilenet_v2");
    // ImageNet's classes have no images of 32x32: torchvision's own weights need no --arch.
    if checkpoint.extent("classifier.1.weight", 0) == Some(1000) {
        return Ok(vec![usual]);
    }
    Ok(vec![usual, new(32, |layers| build(layers, 1, &CIFAR_STRIDES)).named("mobilenet_v2-cifar")])
}

fn build(layers: &mut Layers<'_>, stride: u16, strides: &[u16]) -> Result<()> {
    let relu6 = Op::Activation(Activation::RELU6);
    let mut x = layers.activated(&normed("features.0", stride), 0, relu6.clone())?;
    for (index, &stride) in strides.iter().enumerate() {
        let name = format!("features.{}.conv", index + 1);
        let expands = layers.has(&format!("{name}.1.0.weight"));
        let mut convs = vec![normed(&format!("{name}.0"), if expands { 1 } else { stride })];
        if expands {
            convs.push(normed(&format!("{name}.1"), stride));
        }
        let project = convs.len();
        let [conv, norm] = [project, project + 1].map(|place| format!("{name}.{place}"));
        convs.push(Normed { conv, norm, stride: 1 });
        x = layers.inverted_residual(&format!("features.{}", index + 1), x, &convs)?;
    }
    let x = layers.activated(&normed("features.18", 1), x, relu6)?;
    let pooled = layers.plain("pool", Op::GlobalAveragePool, &[x])?;
    layers.linear("classifier.1", pooled)?;
    Ok(())
}

fn normed(name: &str, stride: u16) -> Normed {
    Normed { conv: format!("{name}.0"), norm: format!("{name}.1"), stride }
}
