//! EfficientNet-Lite0 to Lite4 (Tan & Le 2019, without squeeze-and-excite and with ReLU6), by the names of
//! `efficientnet_lite_pytorch`.

use anyhow::Result;
use distill_core::{Activation, Op};

use super::{
    Candidate, Family,
    layers::{Layers, Normed, Padding},
};
use crate::import::{Checkpoint, Normalisation};

/// Stride of the first block of each stage.
pub(super) const STRIDES: [u16; 7] = [1, 2, 2, 2, 1, 2, 1];
/// TensorFlow's batch-norm epsilon.
pub(super) const EPSILON: f32 = 1e-3;

pub(super) const FAMILY: Family =
    Family { title: "EfficientNet-Lite", tensors: &[&["_conv_stem.weight"]], networks, doubt: "" };

fn networks(checkpoint: &Checkpoint) -> Result<Vec<Candidate>> {
    let blocks = checkpoint.modules("_blocks.", "_depthwise_conv.weight").len();
    let (number, extent) = variant(blocks, checkpoint.extent("_conv_head.weight", 1));
    let network = Candidate::new(checkpoint, "_conv_stem.weight", extent, build);
    Ok(vec![network.named(format!("efficientnet-lite{number}")).normalised(Normalisation::efficientnet_lite())])
}

/// The number of the variant and its usual extent, by its depth, and by the channels before the head where two are equally
/// deep.
pub(super) fn variant(blocks: usize, channels: Option<usize>) -> (usize, usize) {
    match (blocks, channels > Some(320)) {
        (0..=16, _) => (0, 224),
        (17..=21, false) => (1, 240),
        (17..=21, true) => (2, 260),
        (22..=24, _) => (3, 280),
        _ => (4, 300),
    }
}

fn build(layers: &mut Layers<'_>) -> Result<()> {
    (layers.epsilon, layers.padding) = (EPSILON, Padding::Same);
    let relu6 = Op::Activation(Activation::RELU6);
    let normed = |conv: &str, norm: &str, stride| Normed { conv: conv.to_owned(), norm: norm.to_owned(), stride };
    let mut x = layers.activated(&normed("_conv_stem", "_bn0", 2), 0, relu6.clone())?;
    let (mut stages, mut channels) = (STRIDES.into_iter(), 0);
    for name in layers.modules("_blocks.", "_depthwise_conv.weight") {
        // The blocks of a stage have the same width, those of the next another.
        let wide = layers.extent(&format!("{name}._project_conv.weight"), 0);
        let stride = if wide == channels { 1 } else { stages.next().unwrap_or(1) };
        channels = wide;
        let layer =
            |conv: &str, norm: &str, stride| normed(&format!("{name}.{conv}"), &format!("{name}.{norm}"), stride);
        let mut convs = vec![layer("_depthwise_conv", "_bn1", stride), layer("_project_conv", "_bn2", 1)];
        if layers.has(&format!("{name}._expand_conv.weight")) {
            convs.insert(0, layer("_expand_conv", "_bn0", 1));
        }
        x = layers.inverted_residual(&name, x, &convs)?;
    }
    let x = layers.activated(&normed("_conv_head", "_bn1", 1), x, relu6)?;
    let pooled = layers.plain("_avg_pooling", Op::GlobalAveragePool, &[x])?;
    layers.linear("_fc", pooled)?;
    Ok(())
}
