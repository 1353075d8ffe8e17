//! A network every test can afford: stem, three residual neighbourhoods at 8×8 and below, head.
//!
//! The same graph as a CIFAR ResNet with the same names, four to eight channels wide, with random
//! weights and batch-norm statistics from a fixed seed.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

pub mod seal;

use std::{convert::Infallible, env, path::PathBuf, process::Command};

use distill_core::{
    Batch, BatchNorm, Block, BlockBuilder, BlockReport, Cache, CacheSize, CalibratedNoise, Contents, Conv, Device,
    Draw, Encoding, Engine, Event, Goal, Goals, Learners, Manifest, Op, Pack, PackWriter, Pad, Portions, Purpose,
    ReadAt, Recipe, Role, Run, RunError, RunFailure, Settings, Shape, Sides, Slice, Source, SourceKind, Store, Stream,
    Trainer, Training, Weight, WhiteNoise, Width, WriteAt, run,
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
        made_from: None,
        interface: None,
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
pub fn settings() -> Settings {
    let width = Width::new(0.5).unwrap();
    let training = Training { rate: 3e-3, ..Training::adam(0, 16) };
    let usual = Settings::new(width, 0);
    Settings { recipe: Recipe { images: 32, training, ..usual.recipe }, seed: 3, ..usual }
}

/// A run: where its inputs come from, and what it is to do.
#[derive(Clone, Debug)]
pub struct Task {
    /// Where its inputs come from.
    pub kind: SourceKind,
    /// What it is to do.
    pub settings: Settings,
}

impl Task {
    /// [`settings`] with a change.
    pub fn new(kind: SourceKind, change: impl FnOnce(&mut Settings)) -> Self {
        Self { kind, settings: settings() }.with(change)
    }

    /// The run with a change.
    pub fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Runs on the CPU, over a teacher's pack whose noise images are those of `bytes`.
    pub fn run_on<R: ReadAt, W: WriteAt>(
        &self,
        teacher: &mut Pack<R>,
        bytes: &[u8],
        student: W,
        observe: impl FnMut(Event<'_>),
    ) -> Result<(Vec<BlockReport>, W), RunFailure<R, W>> {
        let source = &mut *source(self.kind, bytes);
        run(Run { teacher, source, scratch: None, settings: &self.settings, device: &Device::Cpu }, student, observe)
    }

    /// Reports and student pack of a run over a teacher's pack.
    pub fn run(&self, teacher: &[u8]) -> Result<(Vec<BlockReport>, Vec<u8>), RunError<Infallible, Infallible>> {
        let mut pack = Pack::open(teacher).map_err(RunError::Teacher)?;
        self.run_on(&mut pack, teacher, Vec::new(), |_| {})
    }
}

/// Engines that cut every batch of a training into parts of these sizes. No result depends on it.
pub fn in_parts() -> Vec<Engine> {
    // Alone, by one of several threads, and parts that end inside a piece whose gradients are summed apart.
    let ways = [(1, 16), (usize::MAX, 16), (2, 48)];
    let engine =
        |(workers, training)| Engine { device: Device::Cpu, portions: Portions { workers, solving: 16, training } };
    ways.into_iter().map(engine).collect()
}

/// Every weight and running statistic, as bits.
pub fn bits(blocks: &[Block]) -> Vec<u32> {
    blocks.iter().flat_map(Block::weights).flat_map(|weight| &weight.data).map(|value| value.to_bits()).collect()
}

/// A source of inputs; calibrated noise comes from a pack.
pub fn source(kind: SourceKind, pack: &[u8]) -> Box<dyn Source + '_> {
    match kind {
        SourceKind::Standard => Box::new(WhiteNoise::Standard),
        SourceKind::Propagated => Box::new(WhiteNoise::Propagated),
        SourceKind::Calibrated => Box::new(CalibratedNoise(Pack::open(pack).unwrap())),
        other => panic!("no source of {other:?} inputs"),
    }
}

/// A cache in memory of white noise, `images` in batches of `batch`.
pub fn noise_cache(seed: u64, shape: Shape, [images, batch]: [usize; 2]) -> Cache {
    let mut cache = Cache::new(Store::MEMORY, shape, CacheSize { images, batch, sides: Sides::Teacher });
    WhiteNoise::Propagated.fill(&mut cache, Draw { seed, held_out: 0 }).unwrap();
    cache
}

/// A block that moves towards outputs, one step at a time.
#[derive(Debug)]
pub struct BlockTrainer(Trainer);

impl BlockTrainer {
    /// Starts from its weights.
    pub fn new(block: Block, training: &Training) -> Self {
        Self(Trainer::new(vec![block], Learners::FIRST, training, &Engine::default()))
    }

    /// The mean squared error before the step.
    pub fn step(&mut self, input: &Batch, output: &Batch) -> f32 {
        let values = output.len() * output.shape().elements();
        let goal = Goal { output: output.clone(), weight: 1.0 / values as f32 };
        self.0.step(input, Goals { outputs: &[goal], classes: &[] });
        (self.0.distance(0) / values as f64) as f32
    }

    /// The block with the weights reached.
    pub fn finish(self) -> Block {
        self.0.finish().unwrap().swap_remove(0)
    }
}

/// Builds the two programs with the profile of the test that asks; the folder that they are in.
pub fn built_programs() -> PathBuf {
    let test = env::current_exe().unwrap();
    let folder = test.ancestors().nth(2).unwrap().to_owned();
    let profile = if folder.ends_with("debug") { "dev" } else { "release" };
    let arguments = ["build", "--quiet", "--workspace", "--bins", "--profile", profile];
    assert!(Command::new(env!("CARGO")).args(arguments).status().unwrap().success());
    folder
}
