//! Random graphs of every operator: what may lie in one place, which gradients meet, and what a batch's statistics are.

use distill_core::{
    Activation, AveragePool, Batch, BatchNorm, Block, BlockBuilder, BlockError, Conv, Device, DeviceBlock, MaxPool, Op,
    Pad, Purpose, Role, Shape, Slice, Statistics, Stream, Weight, Window,
};

use crate::{
    kernels,
    naive::{self, widen},
};
use distill_tests::{gaussian, norm_weights};

/// A valid block of a few random operators over random values before them; every value is read.
pub fn random_block(stream: &mut Stream) -> Block {
    loop {
        if let Ok(block) = try_random_block(stream) {
            return block;
        }
    }
}

fn try_random_block(stream: &mut Stream) -> Result<Block, BlockError> {
    let input = Shape::new(1 + stream.below(4), 2 + stream.below(5), 2 + stream.below(5));
    let mut builder = BlockBuilder::new("random", Role::Neighbourhood, input);
    let mut shapes = vec![input];
    let nodes = 3 + stream.below(6);
    for node in 0..nodes {
        let name = format!("n{node}");
        // Mostly the newest value, sometimes an older one.
        let read = if stream.below(3) > 0 { shapes.len() - 1 } else { stream.below(shapes.len()) };
        let x = shapes[read];
        let mut inputs = vec![read];
        let (op, weights) = match stream.below(18) {
            0..=2 => random_convolution(stream, &name, x, 1),
            3 => random_convolution(stream, &name, x, x.channels),
            4 | 5 => (Op::RELU, vec![]),
            6 | 7 => (Op::Activation(ACTIVATIONS[stream.below(ACTIVATIONS.len())]), vec![]),
            8 | 9 => (Op::BatchNorm(BatchNorm { epsilon: 1e-3 }), norm_weights(stream, &name, x.channels)),
            10 => {
                let mut zeros = || [0; 3].map(|_: u16| stream.below(2) as u16);
                (Op::Pad(Pad { before: zeros(), after: zeros() }), vec![])
            }
            11 => {
                let step = [0; 3].map(|_| 1 + stream.below(2) as u32);
                let start = [0; 3].map(|_| stream.below(2) as u32);
                (Op::Slice(Slice { start, step, ..Slice::ALL }), vec![])
            }
            12 => {
                let mut small = |least: usize| [0; 2].map(|_: u16| (least + stream.below(2)) as u16);
                let [kernel, stride, [top, left], [bottom, right]] = [small(2), small(1), small(0), small(0)];
                let window = Window { kernel, stride, padding: [top, left, bottom, right] };
                match stream.below(3) {
                    0 => (Op::MaxPool(MaxPool { window }), vec![]),
                    kind => (Op::AveragePool(AveragePool { window, counts_padding: kind == 1 }), vec![]),
                }
            }
            13 => {
                // A gate, once in a while.
                let gates = |shape: Shape| shape == x || shape == Shape::new(x.channels, 1, 1);
                inputs.push(random_value(stream, &shapes, gates));
                (Op::Mul, vec![])
            }
            14 => {
                let beside = |shape: Shape| Shape { channels: x.channels, ..shape } == x;
                inputs.push(random_value(stream, &shapes, beside));
                (Op::Concat, vec![])
            }
            15 => (Op::GlobalAveragePool, vec![]),
            _ => {
                inputs.push(random_value(stream, &shapes, |shape| shape == x));
                (Op::Add, vec![])
            }
        };
        let given: Vec<Shape> = inputs.iter().map(|&value| shapes[value]).collect();
        let shape = op.shape(&name, &given, &weights.iter().collect::<Vec<_>>())?;
        let inputs: Vec<u8> = inputs.into_iter().map(|value| value as u8).collect();
        builder.push(&name, op, &inputs, weights)?;
        shapes.push(shape);
    }
    let last = shapes[nodes];
    if stream.below(4) == 0 {
        let (op, inputs) = match stream.below(2) {
            0 => (Op::GlobalAveragePool, last.channels),
            _ => (Op::Flatten, last.elements()),
        };
        let x = builder.push("vector", op, &[nodes as u8], vec![])?;
        let bias = Weight::new("linear.b", &[3], stream.gaussian(3));
        builder.push("linear", Op::Linear, &[x], vec![gaussian(stream, "linear.w", &[3, inputs]), bias])?;
    }
    builder.finish()
}

/// Every one that is not a ReLU.
const ACTIVATIONS: [Activation; 7] = [
    Activation::RELU6,
    Activation::Clip { low: -0.5, high: 0.7 },
    Activation::Sigmoid,
    Activation::Silu,
    Activation::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 },
    Activation::HardSwish,
    Activation::LeakyRelu { slope: 0.1 },
];

/// One of the values of such a shape; the newest where there is none, which may not fit.
fn random_value(stream: &mut Stream, shapes: &[Shape], fits: impl Fn(Shape) -> bool) -> usize {
    let fitting: Vec<usize> = (0..shapes.len()).filter(|&value| fits(shapes[value])).collect();
    if fitting.is_empty() { shapes.len() - 1 } else { fitting[stream.below(fitting.len())] }
}

/// Any stride, padding, dilation and kernel of one to three taps; mostly the usual 3x3.
fn random_convolution(stream: &mut Stream, name: &str, x: Shape, groups: usize) -> (Op, Vec<Weight>) {
    let outputs = if groups == 1 { 1 + stream.below(5) } else { groups };
    let (mut conv, mut taps) = (Conv::square(1, 1).grouped(groups as u16), [3, 3]);
    if stream.below(2) == 0 {
        taps = taps.map(|_| 1 + stream.below(3));
        conv.stride = [0; 2].map(|_| 1 + stream.below(2) as u16);
        conv.dilation = [0; 2].map(|_| 1 + stream.below(3) as u16);
        conv.padding = [0; 4].map(|_| stream.below(3) as u16);
    }
    let mut weights = vec![gaussian(stream, &format!("{name}.k"), &[outputs, x.channels / groups, taps[0], taps[1]])];
    if stream.below(2) == 0 {
        weights.push(Weight::new(format!("{name}.b"), &[outputs], stream.gaussian(outputs)));
    }
    (Op::Conv(conv), weights)
}

#[test]
fn random_blocks_compute_and_learn_as_loops_do() {
    let stream = &mut Stream::new(5, Purpose::Images, 0);
    for _ in 0..400 {
        let (block, count) = (random_block(stream), 1 + stream.below(20));
        kernels::check(&block, count, stream);
    }
}

/// Operators by name, each with the values it reads; a convolution keeps the channels.
fn block_of(stream: &mut Stream, nodes: &[(&str, &[u8])]) -> Block {
    let input = Shape::new(3, 4, 5);
    let mut builder = BlockBuilder::new("block", Role::Neighbourhood, input);
    for (index, (op, inputs)) in nodes.iter().enumerate() {
        let kernel = gaussian(stream, &format!("k{index}"), &[3, 3, 3, 3]);
        let (op, weights) = match *op {
            "conv" => (Op::Conv(Conv::square(1, 1)), vec![kernel]),
            "relu" => (Op::RELU, vec![]),
            _ => (Op::Add, vec![]),
        };
        builder.push(&format!("n{index}"), op, inputs, weights).unwrap();
    }
    builder.finish().unwrap()
}

#[test]
fn values_that_meet_again_keep_their_gradients() {
    let stream = &mut Stream::new(9, Purpose::Images, 0);
    let graphs: [&[(&str, &[u8])]; 6] = [
        // The sum lies where the convolution wrote, whose gradient also comes through the ReLU.
        &[("conv", &[0]), ("relu", &[1]), ("add", &[1, 2])],
        &[("conv", &[0]), ("relu", &[1]), ("add", &[2, 1])],
        // Two ReLUs of one value; only the last may take its place.
        &[("conv", &[0]), ("relu", &[1]), ("relu", &[1]), ("add", &[2, 3])],
        &[("conv", &[0]), ("relu", &[1]), ("relu", &[1]), ("conv", &[2]), ("add", &[3, 4])],
        // One value twice, and a ReLU of a ReLU.
        &[("conv", &[0]), ("add", &[1, 1]), ("relu", &[2]), ("relu", &[3])],
        &[("conv", &[0]), ("relu", &[1]), ("conv", &[2]), ("add", &[3, 2]), ("relu", &[4]), ("add", &[5, 2])],
    ];
    for nodes in graphs {
        let block = block_of(stream, nodes);
        kernels::check(&block, 18, stream);
    }
}

#[test]
fn operators_without_weights_pass_gradients_on_in_the_middle() {
    let stream = &mut Stream::new(10, Purpose::Images, 0);
    let same = |groups| Op::Conv(Conv::square(1, 1).grouped(groups));
    for count in [5, 37] {
        let mut builder = BlockBuilder::new("block", Role::Neighbourhood, Shape::new(3, 5, 7));
        let mut push = |op, inputs: &[u8], weights| builder.push("node", op, inputs, weights).unwrap();
        let x = push(same(1), &[0], vec![gaussian(stream, "first", &[4, 3, 3, 3])]);
        let x = push(Op::Slice(Slice::strided(2)), &[x], vec![]);
        let padded = push(Op::Pad(Pad::channels(1, 2)), &[x], vec![]);
        let x = push(same(7), &[padded], vec![gaussian(stream, "depthwise", &[7, 1, 3, 3])]);
        let x = push(Op::Add, &[x, padded], vec![]);
        let x = push(Op::RELU, &[x], vec![]);
        let mean = push(Op::GlobalAveragePool, &[x], vec![]);
        let bias = Weight::new("linear.b", &[7], stream.gaussian(7));
        let x = push(Op::Linear, &[mean], vec![gaussian(stream, "linear.w", &[7, 7]), bias]);
        let x = push(Op::Add, &[mean, x], vec![]);
        // Of one position; all taps but the middle one see the border.
        let x = push(same(1), &[x], vec![gaussian(stream, "last", &[2, 7, 3, 3])]);
        push(Op::Add, &[x, x], vec![]);
        kernels::check(&builder.finish().unwrap(), count, stream);
    }
}

#[test]
fn random_blocks_take_the_statistics_of_their_batch() {
    let stream = &mut Stream::new(6, Purpose::Images, 0);
    for _ in 0..150 {
        let (block, count) = (random_block(stream), 17 + stream.below(20));
        let input = stream.images(count, block.input());
        let images = Batch::from_values(&input, block.input());
        let expected = naive::values(&block, &widen(&input), Statistics::Current);
        for (value, expected) in expected.iter().enumerate() {
            let found = DeviceBlock::up_to(&block, value, &Device::Cpu).forward(&images, Statistics::Current);
            let error = naive::relative_error(&widen(&found.to_values()), expected);
            // A batch norm may divide by little; a value overwritten too early, or a statistic of another batch, is off by far more.
            assert!(error <= 1e-4, "value {value} of {block:#?}: {error}");
        }
    }
}

#[test]
fn images_come_out_as_they_went_in() {
    let shape = Shape::new(3, 5, 7);
    for count in [1, 15, 16, 17, 40] {
        let values = Stream::new(1, Purpose::Images, count).images(count, shape);
        let images = Batch::from_values(&values, shape);
        assert_eq!((images.len(), images.to_values()), (count, values));
    }
}
