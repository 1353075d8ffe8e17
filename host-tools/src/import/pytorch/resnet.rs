//! torchvision's ResNets (He et al. 2015, section 4.1): 18 and 34 layers of basic blocks, 50 and more of bottlenecks. Wide
//! ResNets and ResNeXts are the same with other widths and groups.

use anyhow::{Result, ensure};
use distill_core::{MaxPool, Op, Shape, Window};

use super::{Architecture, layers::Layers};
use crate::import::Checkpoint;

const STAGES: usize = 4;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    title: "torchvision's ResNets",
    tensors: &["layer4.0.conv1.weight"],
    describe,
    build,
    normalisation: || None,
};

fn describe(checkpoint: &Checkpoint) -> (String, Shape) {
    let per_block = if checkpoint.tensors.contains_key("layer1.0.conv3.weight") { 3 } else { 2 };
    let blocks = |stage| checkpoint.modules(&format!("layer{stage}."), "conv1.weight").len();
    let layers = per_block * (1..=STAGES).map(blocks).sum::<usize>() + 2;
    // A bottleneck's 3x3 convolution: 64 channels in one group in a plain ResNet.
    let width = checkpoint.extent("layer1.0.conv2.weight", 0).unwrap_or(0);
    let group_width = checkpoint.extent("layer1.0.conv2.weight", 1).unwrap_or(0).max(1);
    let name = match (per_block, width / group_width, width) {
        (3, groups @ 2.., _) => format!("resnext{layers}_{groups}x{group_width}d"),
        (3, 1, 128) => format!("wide_resnet{layers}_2"),
        _ => format!("resnet{layers}"),
    };
    (name, Shape::new(3, 224, 224))
}

fn build(layers: &mut Layers<'_>) -> Result<()> {
    // ResNets for CIFAR may have the same names, but no stride in the first convolution, and perhaps no pool.
    let taps = layers.extent("conv1.weight", 2);
    ensure!(
        taps == 7,
        "conv1 has a kernel of {taps} rows, torchvision's ResNets one of 7: weights alone do not say what this network's \
         strides are. Export it as .onnx"
    );
    let x = layers.conv("conv1", 0, 2)?;
    let x = layers.norm("bn1", x)?;
    let x = layers.plain("relu", Op::RELU, &[x])?;
    let window = Window { kernel: [3; 2], stride: [2; 2], padding: [1; 4] };
    let x = layers.plain("maxpool", Op::MaxPool(MaxPool { window }), &[x])?;
    let x = layers.residual_stages(STAGES, x, residual)?;
    let pooled = layers.plain("avgpool", Op::GlobalAveragePool, &[x])?;
    layers.linear("fc", pooled)?;
    Ok(())
}

/// A basic block of two layers, or a bottleneck of three with its stride in the second.
fn residual(layers: &mut Layers<'_>, name: &str, x: usize, stride: u16) -> Result<usize> {
    let last = if layers.has(&format!("{name}.conv3.weight")) { 3 } else { 2 };
    let mut hidden = x;
    for layer in 1..=last {
        let strides = layer + 1 == last;
        hidden = layers.conv(&format!("{name}.conv{layer}"), hidden, if strides { stride } else { 1 })?;
        hidden = layers.norm(&format!("{name}.bn{layer}"), hidden)?;
        if layer < last {
            hidden = layers.plain(&format!("{name}.relu{layer}"), Op::RELU, &[hidden])?;
        }
    }
    let mut shortcut = x;
    if layers.has(&format!("{name}.downsample.0.weight")) {
        shortcut = layers.conv(&format!("{name}.downsample.0"), x, stride)?;
        shortcut = layers.norm(&format!("{name}.downsample.1"), shortcut)?;
    }
    let sum = layers.plain(&format!("{name}.add"), Op::Add, &[hidden, shortcut])?;
    layers.plain(&format!("{name}.relu{last}"), Op::RELU, &[sum])
}
