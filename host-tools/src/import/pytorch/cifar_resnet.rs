//! CIFAR ResNets with option-A shortcuts (He et al. 2015, section 4.2).
//!
//! `6n + 2` layers: a 3×3 convolution, three stages of `n` residual blocks, global average pooling and a linear layer.

use anyhow::Result;
use distill_core::{Op, Pad, Shape, Slice};

use super::{Architecture, layers::Layers};
use crate::import::Checkpoint;

const STAGES: usize = 3;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    title: "CIFAR ResNets",
    tensors: &["layer1.0.conv1.weight"],
    describe,
    build,
    normalisation: || None,
};

fn describe(checkpoint: &Checkpoint) -> (String, Shape) {
    let blocks = checkpoint.modules("layer1.", "conv1.weight").len();
    (format!("resnet{}-cifar", 2 * STAGES * blocks + 2), Shape::new(3, 32, 32))
}

fn build(layers: &mut Layers<'_>) -> Result<()> {
    let x = layers.conv("conv1", 0, 1)?;
    let x = layers.norm("bn1", x)?;
    let x = layers.plain("relu", Op::RELU, &[x])?;
    let x = layers.residual_stages(STAGES, x, residual)?;
    let pooled = layers.plain("pool", Op::GlobalAveragePool, &[x])?;
    layers.linear("linear", pooled)?;
    Ok(())
}

fn residual(layers: &mut Layers<'_>, name: &str, x: usize, stride: u16) -> Result<usize> {
    let layer = |part: &str| format!("{name}.{part}");
    let hidden = layers.conv(&layer("conv1"), x, stride)?;
    let hidden = layers.norm(&layer("bn1"), hidden)?;
    let hidden = layers.plain(&layer("relu1"), Op::RELU, &[hidden])?;
    let hidden = layers.conv(&layer("conv2"), hidden, 1)?;
    let hidden = layers.norm(&layer("bn2"), hidden)?;
    let (given, wanted) = (layers.shape(x).channels, layers.shape(hidden).channels);
    let mut shortcut = x;
    if stride != 1 || given != wanted {
        let pad = (wanted.saturating_sub(given) / 2) as u16;
        shortcut = layers.plain(&layer("subsample"), Op::Slice(Slice::strided(stride.into())), &[shortcut])?;
        shortcut = layers.plain(&layer("pad"), Op::Pad(Pad::channels(pad, pad)), &[shortcut])?;
    }
    let sum = layers.plain(&layer("add"), Op::Add, &[hidden, shortcut])?;
    layers.plain(&layer("relu2"), Op::RELU, &[sum])
}
