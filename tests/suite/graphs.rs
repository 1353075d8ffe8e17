//! Random graphs of every operator: what may lie in one place, which gradients meet, and what a batch's statistics are.

use distill_core::{
    Block, BlockBuilder, BlockError, Conv, Device, DeviceBlock, Images, Op, Purpose, Role, Shape, Statistics, Stream,
    Weight,
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
        let outputs = 1 + stream.below(5);
        let (op, weights, shape) = match stream.below(10) {
            0..=2 => {
                let conv = Conv { stride: 1, padding: 1, groups: 1 };
                let kernel = gaussian(stream, &format!("{name}.k"), &[outputs, x.channels, 3, 3]);
                let bias = Weight::new(format!("{name}.b"), &[outputs], stream.gaussian(outputs));
                (Op::Conv(conv), vec![kernel, bias], Shape { channels: outputs, ..x })
            }
            3 => {
                let conv = Conv { stride: 1, padding: 0, groups: x.channels as u16 };
                let kernel = gaussian(stream, &format!("{name}.k"), &[x.channels, 1, 1, 1]);
                (Op::Conv(conv), vec![kernel], x)
            }
            4 | 5 => (Op::Relu, vec![], x),
            6 => (Op::BatchNorm { epsilon: 1e-3 }, norm_weights(stream, &name, x.channels), x),
            7 => {
                let (before, after) = (stream.below(2) as u16, stream.below(2) as u16);
                let channels = x.channels + usize::from(before + after);
                (Op::PadChannels { before, after }, vec![], Shape { channels, ..x })
            }
            8 => {
                let half = |extent: usize| extent.div_ceil(2);
                (Op::Subsample { stride: 2 }, vec![], Shape::new(x.channels, half(x.height), half(x.width)))
            }
            _ => {
                let same: Vec<usize> = (0..shapes.len()).filter(|&value| shapes[value] == x).collect();
                let other = same[stream.below(same.len())];
                builder.push(&name, Op::Add, &[read as u8, other as u8], vec![])?;
                shapes.push(x);
                continue;
            }
        };
        builder.push(&name, op, &[read as u8], weights)?;
        shapes.push(shape);
    }
    let last = shapes[nodes];
    if stream.below(4) == 0 {
        let x = builder.push("pool", Op::GlobalAveragePool, &[nodes as u8], vec![])?;
        let bias = Weight::new("linear.b", &[3], stream.gaussian(3));
        builder.push("linear", Op::Linear, &[x], vec![gaussian(stream, "linear.w", &[3, last.channels]), bias])?;
    }
    builder.finish()
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
            "conv" => (Op::Conv(Conv { stride: 1, padding: 1, groups: 1 }), vec![kernel]),
            "relu" => (Op::Relu, vec![]),
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
    let same = |groups| Op::Conv(Conv { stride: 1, padding: 1, groups });
    for count in [5, 37] {
        let mut builder = BlockBuilder::new("block", Role::Neighbourhood, Shape::new(3, 5, 7));
        let mut push = |op, inputs: &[u8], weights| builder.push("node", op, inputs, weights).unwrap();
        let x = push(same(1), &[0], vec![gaussian(stream, "first", &[4, 3, 3, 3])]);
        let x = push(Op::Subsample { stride: 2 }, &[x], vec![]);
        let padded = push(Op::PadChannels { before: 1, after: 2 }, &[x], vec![]);
        let x = push(same(7), &[padded], vec![gaussian(stream, "depthwise", &[7, 1, 3, 3])]);
        let x = push(Op::Add, &[x, padded], vec![]);
        let x = push(Op::Relu, &[x], vec![]);
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
        let images = Images::from_values(&input, block.input());
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
        let images = Images::from_values(&values, shape);
        assert_eq!((images.len(), images.to_values()), (count, values));
    }
}
