//! MobileNetV2 and EfficientNet-Lite by timm's names. Its other networks with these names have other activations or gates.

use anyhow::{Result, bail};
use distill_core::{Activation, Op};

use super::{
    Candidate, Family,
    efficientnet_lite::{EPSILON, STRIDES, variant},
    layers::{Layers, Normed, Padding},
};
use crate::import::{Checkpoint, Normalisation};

pub(super) const FAMILY: Family = Family {
    title: "timm's MobileNetV2 and EfficientNet-Lite",
    tensors: &[&["blocks.0.0.conv_dw.weight", "conv_stem.weight"]],
    networks,
    doubt: "weights do not say whether it pads and normalises as TensorFlow does",
};

/// Kernels of the first block of each stage.
const LITE_KERNELS: [usize; 7] = [3, 3, 5, 3, 5, 5, 3];
/// How much wider a block is inside, after the first stage.
const EXPANSION: usize = 6;

fn networks(checkpoint: &Checkpoint) -> Result<Vec<Candidate>> {
    let first = |stage: usize, layer: &str, axis| checkpoint.extent(&format!("blocks.{stage}.0.{layer}.weight"), axis);
    let expands = (1..STRIDES.len()).all(|stage| {
        first(stage, "conv_pw", 0) == first(stage, "conv_pw", 1).map(|channels| EXPANSION.saturating_mul(channels))
    });
    let kernels: Vec<usize> = (0..STRIDES.len()).filter_map(|stage| first(stage, "conv_dw", 2)).collect();
    let blocks = (0..STRIDES.len()).map(|stage| blocks(checkpoint, stage).len()).sum();
    let (number, extent) = variant(blocks, checkpoint.extent("conv_head.weight", 1));
    let new = |extent, build| Candidate::new(checkpoint, "conv_stem.weight", extent, build);
    if expands && kernels == [3; STRIDES.len()] {
        return Ok(vec![new(224, build).named("mobilenet_v2")]);
    }
    if expands && kernels == LITE_KERNELS {
        let half = Normalisation { mean: vec![0.5; 3], std: vec![0.5; 3] };
        return Ok(vec![
            new(extent, build).named(format!("efficientnet_lite{number}")).normalised(Normalisation::imagenet()),
            new(extent, build_as_tensorflow).named(format!("tf_efficientnet_lite{number}")).normalised(half),
        ]);
    }
    bail!(
        "timm has several networks with these names, and this one is neither MobileNetV2 nor EfficientNet-Lite: export it as .onnx"
    )
}

fn blocks(checkpoint: &Checkpoint, stage: usize) -> Vec<String> {
    checkpoint.modules(&format!("blocks.{stage}."), "conv_dw.weight")
}

fn build_as_tensorflow(layers: &mut Layers<'_>) -> Result<()> {
    (layers.epsilon, layers.padding) = (EPSILON, Padding::Same);
    build(layers)
}

fn build(layers: &mut Layers<'_>) -> Result<()> {
    let relu6 = Op::Activation(Activation::RELU6);
    let normed = |conv: &str, norm: &str, stride| Normed { conv: conv.to_owned(), norm: norm.to_owned(), stride };
    let mut x = layers.activated(&normed("conv_stem", "bn1", 2), 0, relu6.clone())?;
    for (stage, stride) in STRIDES.into_iter().enumerate() {
        for (index, name) in layers.modules(&format!("blocks.{stage}."), "conv_dw.weight").iter().enumerate() {
            let stride = if index == 0 { stride } else { 1 };
            let layer =
                |conv: &str, norm: &str, stride| normed(&format!("{name}.{conv}"), &format!("{name}.{norm}"), stride);
            let convs = if layers.has(&format!("{name}.conv_pwl.weight")) {
                vec![layer("conv_pw", "bn1", 1), layer("conv_dw", "bn2", stride), layer("conv_pwl", "bn3", 1)]
            } else {
                vec![layer("conv_dw", "bn1", stride), layer("conv_pw", "bn2", 1)]
            };
            x = layers.inverted_residual(name, x, &convs)?;
        }
    }
    let x = layers.activated(&normed("conv_head", "bn2", 1), x, relu6)?;
    let pooled = layers.plain("global_pool", Op::GlobalAveragePool, &[x])?;
    layers.linear("classifier", pooled)?;
    Ok(())
}
