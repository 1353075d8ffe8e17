//! EfficientNet-Lite0 to Lite4 (Tan & Le 2019, without squeeze-and-excite and with ReLU6), by the names of
//! `efficientnet_lite_pytorch`.

use anyhow::Result;
use distill_core::{Activation, Op, Shape};

use super::{Architecture, layers::Layers};
use crate::import::{Checkpoint, Normalisation};

/// Stride of the first block of each stage.
const STRIDES: [u16; 7] = [1, 2, 2, 2, 1, 2, 1];
/// TensorFlow's batch-norm epsilon.
const EPSILON: f32 = 1e-3;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    title: "EfficientNet-Lite",
    tensors: &["_conv_stem.weight"],
    describe,
    build,
    normalisation: || Some(Normalisation::efficientnet_lite()),
};

/// The variant, by its depth, and by its width where two are equally deep.
fn describe(checkpoint: &Checkpoint) -> (String, Shape) {
    let blocks = checkpoint.modules("_blocks.", "_depthwise_conv.weight").len();
    let is_wide = checkpoint.extent("_conv_head.weight", 1) > Some(320);
    let (number, extent) = match (blocks, is_wide) {
        (0..=16, _) => (0, 224),
        (17..=21, false) => (1, 240),
        (17..=21, true) => (2, 260),
        (22..=24, _) => (3, 280),
        _ => (4, 300),
    };
    (format!("efficientnet-lite{number}"), Shape::new(3, extent, extent))
}

fn build(layers: &mut Layers<'_>) -> Result<()> {
    layers.epsilon = EPSILON;
    let x = layers.same_conv("_conv_stem", 0, 2)?;
    let x = layers.norm("_bn0", x)?;
    let mut x = layers.plain("_swish", Op::Activation(Activation::RELU6), &[x])?;
    let (mut stages, mut channels) = (STRIDES.into_iter(), 0);
    for name in layers.modules("_blocks.", "_depthwise_conv.weight") {
        // The blocks of a stage have the same width, those of the next another.
        let wide = layers.extent(&format!("{name}._project_conv.weight"), 0);
        let stride = if wide == channels { 1 } else { stages.next().unwrap_or(1) };
        channels = wide;
        x = inverted_residual(layers, &name, x, stride)?;
    }
    let x = layers.same_conv("_conv_head", x, 1)?;
    let x = layers.norm("_bn1", x)?;
    let x = layers.plain("_head_swish", Op::Activation(Activation::RELU6), &[x])?;
    let pooled = layers.plain("_avg_pooling", Op::GlobalAveragePool, &[x])?;
    layers.linear("_fc", pooled)?;
    Ok(())
}

/// Expansion (not in every block), depthwise convolution, projection.
fn inverted_residual(layers: &mut Layers<'_>, name: &str, x: usize, stride: u16) -> Result<usize> {
    let layer = |part: &str| format!("{name}.{part}");
    let mut hidden = x;
    let (expands, relu6) = (layers.has(&layer("_expand_conv.weight")), Op::Activation(Activation::RELU6));
    if expands {
        hidden = layers.same_conv(&layer("_expand_conv"), hidden, 1)?;
        hidden = layers.norm(&layer("_bn0"), hidden)?;
        hidden = layers.plain(&layer("_swish0"), relu6.clone(), &[hidden])?;
    }
    hidden = layers.same_conv(&layer("_depthwise_conv"), hidden, stride)?;
    hidden = layers.norm(&layer("_bn1"), hidden)?;
    hidden = layers.plain(&layer("_swish1"), relu6, &[hidden])?;
    hidden = layers.same_conv(&layer("_project_conv"), hidden, 1)?;
    hidden = layers.norm(&layer("_bn2"), hidden)?;
    if layers.shape(x) != layers.shape(hidden) {
        return Ok(hidden);
    }
    layers.plain(&layer("add"), Op::Add, &[hidden, x])
}
