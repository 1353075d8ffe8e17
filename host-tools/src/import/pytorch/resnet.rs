//! ResNets (He et al. 2015): torchvision's and timm's of section 4.1, with 18 and 34 layers of basic blocks, 50 and more of
//! bottlenecks (wide ResNets and ResNeXts are the same with other widths and groups), and those for CIFAR of section 4.2,
//! by the names of akamaster, chenyaofo and kuangliu.

use anyhow::{Result, bail, ensure};
use distill_core::{MaxPool, Op, Pad, Shape, Slice, Window};

use super::{Candidate, Family, layers::Layers};
use crate::import::{Checkpoint, TensorValues};

pub(super) const FAMILY: Family = Family {
    title: "ResNets",
    tensors: &[&["layer1.0.conv1.weight", "conv1.weight"]],
    networks,
    doubt: "weights do not say whether a pool follows the first convolution",
};

fn networks(checkpoint: &Checkpoint) -> Result<Vec<Candidate>> {
    let name = name(checkpoint);
    let new = |extent, build| Candidate::new(checkpoint, "conv1.weight", extent, build);
    let has = |tensor: &str| checkpoint.tensors.contains_key(tensor);
    Ok(match (stages(|tensor| has(tensor)), checkpoint.extent("conv1.weight", 2)) {
        (4, Some(7)) => vec![new(224, |layers| build(layers, 2, Pool::Max)).named(name)],
        // kuangliu calls the last layer so, and pools nowhere. Others have torchvision's names, and pool or not.
        (4, Some(3)) if !has("linear.weight") => vec![
            new(32, |layers| build(layers, 1, Pool::None)).named(format!("{name}-cifar")),
            new(32, |layers| build(layers, 1, Pool::Max)).named(format!("{name}-cifar-pooled")),
        ],
        (3 | 4, Some(3)) => vec![new(32, |layers| build(layers, 1, Pool::None)).named(format!("{name}-cifar"))],
        (stages, taps) => bail!(
            "a ResNet of {stages} stages whose conv1 has a kernel of {} rows is not known, and weights do not say what its \
             strides are: export it as .onnx",
            taps.unwrap_or(0)
        ),
    })
}

fn stages(has: impl Fn(&str) -> bool) -> usize {
    (1..).take_while(|stage| has(&format!("layer{stage}.0.conv1.weight"))).count()
}

fn name(checkpoint: &Checkpoint) -> String {
    let per_block = if checkpoint.tensors.contains_key("layer1.0.conv3.weight") { 3 } else { 2 };
    let blocks = |stage| checkpoint.modules(&format!("layer{stage}."), "conv1.weight").len();
    let layers = per_block * (1..=4).map(blocks).sum::<usize>() + 2;
    // A bottleneck's 3x3 convolution: 64 channels in one group in a plain ResNet.
    let width = checkpoint.extent("layer1.0.conv2.weight", 0).unwrap_or(0);
    let group_width = checkpoint.extent("layer1.0.conv2.weight", 1).unwrap_or(0).max(1);
    match (per_block, width / group_width, width) {
        (3, groups @ 2.., _) => format!("resnext{layers}_{groups}x{group_width}d"),
        (3, 1, 128) => format!("wide_resnet{layers}_2"),
        _ => format!("resnet{layers}"),
    }
}

/// The tensors, all zero, of a ResNet for images like CIFAR-10's with 6n + 2 layers (He et al. 2015, section 4.2; shortcuts without weights).
pub(super) fn cifar(name: &str, classes: usize) -> Option<Checkpoint> {
    let layers: usize = name.strip_prefix("resnet")?.parse().ok()?;
    let blocks = layers.checked_sub(2).filter(|layers| layers % 6 == 0 && (6..=1200).contains(layers))? / 6;
    let mut checkpoint = Checkpoint::default();
    let mut add = |name: String, dims: &[usize]| {
        let values = TensorValues { dims: dims.to_vec(), data: vec![0.0; dims.iter().product()] };
        checkpoint.tensors.insert(name, values);
    };
    let mut layer = |conv: String, norm: String, [outputs, inputs]: [usize; 2]| {
        add(format!("{conv}.weight"), &[outputs, inputs, 3, 3]);
        for tensor in ["weight", "bias", "running_mean", "running_var"] {
            add(format!("{norm}.{tensor}"), &[outputs]);
        }
    };
    layer("conv1".into(), "bn1".into(), [16, 3]);
    let mut inputs = 16;
    for (stage, width) in [16, 32, 64].into_iter().enumerate() {
        for block in 0..blocks {
            let name = format!("layer{}.{block}", stage + 1);
            layer(format!("{name}.conv1"), format!("{name}.bn1"), [width, inputs]);
            layer(format!("{name}.conv2"), format!("{name}.bn2"), [width, width]);
            inputs = width;
        }
    }
    add("linear.weight".into(), &[classes, 64]);
    add("linear.bias".into(), &[classes]);
    Some(checkpoint)
}

/// What follows the first convolution.
enum Pool {
    None,
    Max,
}

fn build(layers: &mut Layers<'_>, stride: u16, pool: Pool) -> Result<()> {
    let x = layers.conv("conv1", 0, stride)?;
    let x = layers.norm("bn1", x)?;
    let mut x = layers.plain("relu", Op::RELU, &[x])?;
    if let Pool::Max = pool {
        let window = Window { kernel: [3; 2], stride: [2; 2], padding: [1; 4] };
        x = layers.plain("maxpool", Op::MaxPool(MaxPool { window }), &[x])?;
    }
    for stage in 1..=stages(|tensor| layers.has(tensor)) {
        for (index, name) in layers.modules(&format!("layer{stage}."), "conv1.weight").iter().enumerate() {
            x = residual(layers, name, x, if stage > 1 && index == 0 { 2 } else { 1 })?;
        }
    }
    let pooled = layers.plain("avgpool", Op::GlobalAveragePool, &[x])?;
    layers.linear(if layers.has("linear.weight") { "linear" } else { "fc" }, pooled)?;
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
    let shortcut = shortcut(layers, name, x, stride, layers.shape(hidden))?;
    let sum = layers.plain(&format!("{name}.add"), Op::Add, &[hidden, shortcut])?;
    layers.plain(&format!("{name}.relu{last}"), Op::RELU, &[sum])
}

/// The block's input, in the shape of its output: through a convolution (option B), or subsampled with channels of zeros on
/// both sides (option A, as akamaster has it).
fn shortcut(layers: &mut Layers<'_>, name: &str, x: usize, stride: u16, wanted: Shape) -> Result<usize> {
    for module in ["downsample", "shortcut"] {
        if layers.has(&format!("{name}.{module}.0.weight")) {
            let x = layers.conv(&format!("{name}.{module}.0"), x, stride)?;
            return layers.norm(&format!("{name}.{module}.1"), x);
        }
    }
    if stride == 1 && layers.shape(x) == wanted {
        return Ok(x);
    }
    ensure!(
        layers.has("linear.weight") && !layers.has("layer4.0.conv1.weight"),
        "{name} changes the shape of its input, but its shortcut has no weights, and nothing says what it does instead: \
         export the network as .onnx"
    );
    let pad = (wanted.channels.saturating_sub(layers.shape(x).channels) / 2) as u16;
    let x = layers.plain(&format!("{name}.subsample"), Op::Slice(Slice::strided(stride.into())), &[x])?;
    layers.plain(&format!("{name}.pad"), Op::Pad(Pad::channels(pad, pad)), &[x])
}
