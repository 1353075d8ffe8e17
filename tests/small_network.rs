//! A network every test can afford: stem, three residual neighbourhoods at 8×8 and below, head.
//!
//! The same graph as a CIFAR ResNet with the same names, four to eight channels wide, with random
//! weights and batch-norm statistics from a fixed seed.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

use distill_core::{
    BatchNorm, Block, BlockBuilder, Boundary, Budget, Cache, Contents, Conv, Encoding, Manifest, Noise, Op, PackWriter,
    Pad, Purpose, Recipe, Ridge, Role, Schedule, Selection, Settings, Shape, Slice, Stream, Training, Update, Weight,
    Width,
};

/// What the network takes.
pub const IMAGE: Shape = Shape::new(3, 8, 8);

/// A dense 3×3 convolution that keeps the size.
pub const SAME: Op = Op::Conv(Conv::square(1, 1));

/// Stem, `layer1.0` (4 channels), `layer2.0` (4 to 8, stride 2), `layer2.1` (8), head.
pub fn teacher() -> Vec<Block> {
    let stream = &mut Stream::new(20, Purpose::Images, 0);
    let mut stem = BlockBuilder::new("stem", Role::Stem, IMAGE);
    let x = conv_norm(&mut stem, stream, ("conv1", "bn1"), 0, [3, 4], 1);
    stem.push("relu", Op::RELU, &[x], Vec::new()).unwrap();
    let mut head = BlockBuilder::new("head", Role::Head, Shape::new(8, 4, 4));
    let x = head.push("pool", Op::GlobalAveragePool, &[0], Vec::new()).unwrap();
    let weights = vec![gaussian(stream, "linear.weight", &[10, 8]), gaussian(stream, "linear.bias", &[10])];
    head.push("linear", Op::Linear, &[x], weights).unwrap();
    vec![
        stem.finish().unwrap(),
        residual(stream, "layer1.0", Shape::new(4, 8, 8), 4),
        residual(stream, "layer2.0", Shape::new(4, 8, 8), 8),
        residual(stream, "layer2.1", Shape::new(8, 4, 4), 8),
        head.finish().unwrap(),
    ]
}

/// A residual block with batch norms; where the channels grow, stride 2 and an option-A shortcut.
pub fn residual(stream: &mut Stream, name: &str, input: Shape, channels: usize) -> Block {
    let mut builder = BlockBuilder::new(name, Role::Neighbourhood, input);
    let layer = |part: &str| format!("{name}.{part}");
    let stride = if input.channels == channels { 1 } else { 2 };
    let extents = [input.channels, channels];
    let x = conv_norm(&mut builder, stream, (&layer("conv1"), &layer("bn1")), 0, extents, stride);
    let x = builder.push(&layer("relu1"), Op::RELU, &[x], Vec::new()).unwrap();
    let x = conv_norm(&mut builder, stream, (&layer("conv2"), &layer("bn2")), x, [channels; 2], 1);
    let mut shortcut = 0;
    if stride == 2 {
        let pad = ((channels - input.channels) / 2) as u16;
        shortcut =
            builder.push(&layer("subsample"), Op::Slice(Slice::strided(stride.into())), &[0], Vec::new()).unwrap();
        let op = Op::Pad(Pad::channels(pad, pad));
        shortcut = builder.push(&layer("pad"), op, &[shortcut], Vec::new()).unwrap();
    }
    let x = builder.push(&layer("add"), Op::Add, &[x, shortcut], Vec::new()).unwrap();
    builder.push(&layer("relu2"), Op::RELU, &[x], Vec::new()).unwrap();
    builder.finish().unwrap()
}

/// A 3×3 convolution without bias, and its batch norm.
pub fn conv_norm(
    builder: &mut BlockBuilder,
    stream: &mut Stream,
    (conv, norm): (&str, &str),
    input: u8,
    [from, to]: [usize; 2],
    stride: u16,
) -> u8 {
    let kernel = gaussian(stream, &format!("{conv}.weight"), &[to, from, 3, 3]);
    let x = builder.push(conv, Op::Conv(Conv::square(stride, 1)), &[input], vec![kernel]).unwrap();
    builder.push(norm, Op::BatchNorm(BatchNorm { epsilon: 1e-5 }), &[x], norm_weights(stream, norm, to)).unwrap()
}

/// Scale and variance around 1, shift and mean around 0, by PyTorch's names.
pub fn norm_weights(stream: &mut Stream, name: &str, channels: usize) -> Vec<Weight> {
    let mut values = |part: &str, map: fn(f32) -> f32| {
        let data = stream.gaussian(channels).into_iter().map(map).collect();
        Weight::new(format!("{name}.{part}"), &[channels], data)
    };
    vec![
        values("weight", |v| 1.0 + 0.3 * v),
        values("bias", |v| 0.3 * v),
        values("running_mean", |v| 0.3 * v),
        values("running_var", |v| (0.5 * v).exp()),
    ]
}

/// Normal values, scaled so that a layer keeps the size of its input.
pub fn gaussian(stream: &mut Stream, name: &str, dims: &[usize]) -> Weight {
    let per_output: usize = dims[1..].iter().product();
    let scale = (per_output as f32).sqrt().recip();
    let data = stream.gaussian(dims.iter().product()).into_iter().map(|v| v * scale).collect();
    Weight::new(name, dims, data)
}

/// What a forward pass of [`teacher`] needs beside it.
pub fn manifest() -> Manifest {
    Manifest {
        contents: Contents::Network,
        architecture: "small-resnet".into(),
        mean: vec![0.5, 0.4, 0.3],
        std: vec![0.2, 0.25, 0.3],
        classes: Vec::new(),
        source: "small_network.rs".into(),
        source_sha256: [7; 32],
    }
}

/// A pack of a whole network.
pub fn pack(blocks: &[Block], encoding: Encoding) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = PackWriter::new(&mut bytes, &manifest(), blocks.len()).unwrap();
    blocks.iter().enumerate().for_each(|(position, block)| writer.add(position, block, encoding).unwrap());
    writer.finish().unwrap();
    bytes
}

/// Half the width, a solve, no gradient step, 32 noise images.
pub fn settings(noise: Noise) -> Settings {
    let training = Training {
        steps: 0,
        batch: 16,
        update: Update::Adam,
        schedule: Schedule::Cosine,
        rate: 3e-3,
        weight_decay: 0.0,
        stop: false,
    };
    let width = Width::new(0.5).unwrap();
    let selection = Selection::Norm;
    let recipe = Recipe {
        width,
        fewer_layers: 0,
        activation: None,
        selection,
        solve_inputs: 32,
        ridge: Ridge::USUAL,
        projections: 0,
        training,
    };
    let widths = Vec::new();
    let budget = Budget::UNLIMITED;
    Settings {
        recipe,
        widths,
        noise,
        sequential: false,
        look_ahead: 0,
        images: 32,
        blocks: Vec::new(),
        seed: 3,
        budget,
    }
}

/// A cache in memory of white noise, `count` images in batches of `batch`.
pub fn noise_boundary(seed: u64, shape: Shape, [count, batch]: [usize; 2]) -> Boundary {
    let mut boundary = Boundary::new(Cache::MEMORY, shape, [count, batch]);
    boundary.put_noise(count, &mut Stream::new(seed, Purpose::Images, 0)).unwrap();
    boundary
}
