//! torchvision's MobileNetV2 (Sandler et al. 2018), of any width.

use anyhow::Result;
use distill_core::{Activation, Op, Shape};

use super::{Architecture, layers::Layers};
use crate::import::Checkpoint;

/// Stride of each inverted residual (the paper's table 2, every repetition after the first at stride 1).
const STRIDES: [u16; 17] = [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1];

pub(super) const ARCHITECTURE: Architecture = Architecture {
    title: "MobileNetV2",
    tensors: &["features.1.conv.0.0.weight"],
    describe: |_: &Checkpoint| ("mobilenet_v2".to_owned(), Shape::new(3, 224, 224)),
    build,
    normalisation: || None,
};

fn build(layers: &mut Layers<'_>) -> Result<()> {
    let mut x = activated(layers, "features.0", 0, 2)?;
    for (index, stride) in STRIDES.into_iter().enumerate() {
        x = inverted_residual(layers, &format!("features.{}", index + 1), x, stride)?;
    }
    let x = activated(layers, "features.18", x, 1)?;
    let pooled = layers.plain("pool", Op::GlobalAveragePool, &[x])?;
    layers.linear("classifier.1", pooled)?;
    Ok(())
}

/// Convolution, batch norm, ReLU6.
fn activated(layers: &mut Layers<'_>, name: &str, x: usize, stride: u16) -> Result<usize> {
    let x = layers.conv(&format!("{name}.0"), x, stride)?;
    let x = layers.norm(&format!("{name}.1"), x)?;
    layers.plain(&format!("{name}.2"), Op::Activation(Activation::RELU6), &[x])
}

/// Expansion (not in every block), depthwise convolution, projection.
fn inverted_residual(layers: &mut Layers<'_>, name: &str, x: usize, stride: u16) -> Result<usize> {
    let expands = layers.has(&format!("{name}.conv.1.0.weight"));
    let mut hidden = x;
    for layer in 0..=usize::from(expands) {
        let depthwise = layer == usize::from(expands);
        hidden = activated(layers, &format!("{name}.conv.{layer}"), hidden, if depthwise { stride } else { 1 })?;
    }
    let project = 1 + usize::from(expands);
    hidden = layers.conv(&format!("{name}.conv.{project}"), hidden, 1)?;
    hidden = layers.norm(&format!("{name}.conv.{}", project + 1), hidden)?;
    if layers.shape(x) != layers.shape(hidden) {
        return Ok(hidden);
    }
    layers.plain(&format!("{name}.add"), Op::Add, &[hidden, x])
}
