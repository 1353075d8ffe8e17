//! CIFAR ResNets with option-A shortcuts (He et al. 2015, section 4.2), by their PyTorch names.
//!
//! `6n + 2` layers: a 3×3 convolution to 16 channels, three stages of `n` residual blocks at 16, 32
//! and 64 channels, global average pooling and a linear layer. A residual block is a neighbourhood.

use anyhow::{Context, Result, ensure};
use distill_core::{Block, BlockBuilder, Conv, Op, Role, Shape, Weight};

use crate::checkpoint::Checkpoint;

/// PyTorch's batch-norm epsilon, which its checkpoints do not store.
const EPSILON: f32 = 1e-5;
const IMAGE: Shape = Shape::new(3, 32, 32);
const STAGES: [usize; 3] = [16, 32, 64];

/// Residual blocks a stage of the checkpoint, from the names in it.
///
/// # Errors
/// No name looks like a CIFAR ResNet's.
pub fn blocks_per_stage(checkpoint: &Checkpoint) -> Result<usize> {
    let has = |index: usize| checkpoint.tensors.contains_key(&format!("layer1.{index}.conv1.weight"));
    let count = (0..).take_while(|&index| has(index)).count();
    ensure!(
        count > 0,
        "no known architecture has these tensors (known: CIFAR ResNets, with names like layer1.0.conv1.weight); the file starts with {}",
        checkpoint.tensors.keys().next().map_or("nothing", String::as_str)
    );
    Ok(count)
}

/// The network's blocks; every tensor of the checkpoint must be used.
///
/// # Errors
/// Names the first tensor that is missing, has another shape, or is left over.
pub fn blocks(checkpoint: &mut Checkpoint, per_stage: usize) -> Result<Vec<Block>> {
    let mut blocks = vec![stem(checkpoint)?];
    let mut input = blocks[0].output();
    for (stage, &channels) in STAGES.iter().enumerate() {
        for index in 0..per_stage {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let name = format!("layer{}.{index}", stage + 1);
            let block = residual(checkpoint, &name, input, channels, stride)?;
            input = block.output();
            blocks.push(block);
        }
    }
    blocks.push(head(checkpoint, input)?);
    if let Some((name, tensor)) = checkpoint.tensors.iter().next() {
        anyhow::bail!(
            "tensor {name} with shape {:?} has no place in a CIFAR ResNet-{}",
            tensor.dims,
            6 * per_stage + 2
        );
    }
    Ok(blocks)
}

fn stem(checkpoint: &mut Checkpoint) -> Result<Block> {
    let mut builder = BlockBuilder::new("stem", Role::Stem, IMAGE);
    let x = conv_norm(checkpoint, &mut builder, ("conv1", "bn1"), BlockBuilder::INPUT, [3, STAGES[0]], 1)?;
    builder.push("relu", Op::Relu, &[x], Vec::new())?;
    Ok(builder.finish()?)
}

fn residual(checkpoint: &mut Checkpoint, name: &str, input: Shape, channels: usize, stride: u16) -> Result<Block> {
    let mut builder = BlockBuilder::new(name, Role::Neighbourhood, input);
    let layer = |part: &str| format!("{name}.{part}");
    let names = (layer("conv1"), layer("bn1"));
    let x = BlockBuilder::INPUT;
    let hidden = conv_norm(checkpoint, &mut builder, (&names.0, &names.1), x, [input.channels, channels], stride)?;
    let hidden = builder.push(&layer("relu1"), Op::Relu, &[hidden], Vec::new())?;
    let names = (layer("conv2"), layer("bn2"));
    let hidden = conv_norm(checkpoint, &mut builder, (&names.0, &names.1), hidden, [channels; 2], 1)?;
    let mut shortcut = x;
    if stride != 1 || input.channels != channels {
        let pad = ((channels - input.channels) / 2) as u16;
        shortcut = builder.push(&layer("subsample"), Op::Subsample { stride }, &[shortcut], Vec::new())?;
        let op = Op::PadChannels { before: pad, after: pad };
        shortcut = builder.push(&layer("pad"), op, &[shortcut], Vec::new())?;
    }
    let sum = builder.push(&layer("add"), Op::Add, &[hidden, shortcut], Vec::new())?;
    builder.push(&layer("relu2"), Op::Relu, &[sum], Vec::new())?;
    Ok(builder.finish()?)
}

fn head(checkpoint: &mut Checkpoint, input: Shape) -> Result<Block> {
    let classes = checkpoint.tensors.get("linear.bias").map_or(10, |bias| bias.data.len());
    let mut builder = BlockBuilder::new("head", Role::Head, input);
    let pooled = builder.push("pool", Op::GlobalAveragePool, &[BlockBuilder::INPUT], Vec::new())?;
    let matrix = weight(checkpoint, "linear.weight", &[classes, input.channels])?;
    let bias = weight(checkpoint, "linear.bias", &[classes])?;
    builder.push("linear", Op::Linear, &[pooled], vec![matrix, bias])?;
    Ok(builder.finish()?)
}

/// A 3×3 convolution without bias and its batch norm.
fn conv_norm(
    checkpoint: &mut Checkpoint,
    builder: &mut BlockBuilder,
    (conv, norm): (&str, &str),
    input: u8,
    [from, to]: [usize; 2],
    stride: u16,
) -> Result<u8> {
    let kernel = weight(checkpoint, &format!("{conv}.weight"), &[to, from, 3, 3])?;
    let x = builder.push(conv, Op::Conv(Conv { stride, padding: 1, groups: 1 }), &[input], vec![kernel])?;
    let parts = ["weight", "bias", "running_mean", "running_var"];
    let norms: Result<Vec<Weight>> =
        parts.iter().map(|part| weight(checkpoint, &format!("{norm}.{part}"), &[to])).collect();
    builder.push(norm, Op::BatchNorm { epsilon: EPSILON }, &[x], norms?).context("batch norm")
}

fn weight(checkpoint: &mut Checkpoint, name: &str, dims: &[usize]) -> Result<Weight> {
    Ok(Weight::new(name, dims, checkpoint.take(name, dims)?))
}
