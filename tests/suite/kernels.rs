//! Convolutions of every size, stride, padding and grouping: forward against plain loops, gradients by input, kernel and bias
//! against finite differences.

use distill_core::{
    Batch, Block, BlockBuilder, Conv, Device, DeviceBlock, Op, Purpose, Role, Schedule, Shape, Statistics, Stream,
    Training, Update, Weight,
};

use crate::naive::{self, widen};
use distill_tests::{BlockTrainer, gaussian};

/// Gradients by one step that moves every weight by exactly minus its gradient.
const BARE: Training = Training {
    steps: 1,
    batch: 1,
    update: Update::Momentum { momentum: 0.0 },
    schedule: Schedule::Step,
    rate: 1.0,
    warm_up: 0,
    weight_decay: 0.0,
    stop: false,
};

/// The gradient of a block's mean squared error by each of its weights, on the CPU.
pub fn gradient(block: &Block, input: &[f32], target: &[f32]) -> Vec<Vec<f32>> {
    let mut trainer = BlockTrainer::new(block.clone(), &BARE);
    trainer.step(&Batch::from_values(input, block.input()), &Batch::from_values(target, block.output()));
    let moved = trainer.finish();
    let pairs = block.weights().iter().zip(moved.weights());
    pairs.map(|(before, after)| before.data.iter().zip(&after.data).map(|(b, a)| b - a).collect()).collect()
}

/// Asserts that the forward pass is the loops', and the gradient by each weight the loops' along a random direction.
pub fn check(block: &Block, count: usize, stream: &mut Stream) {
    let input = stream.images(count, block.input());
    let target = stream.images(count, block.output());
    let found =
        DeviceBlock::new(block, &Device::Cpu).forward(&Batch::from_values(&input, block.input()), Statistics::Running);
    let (wide, expected) = (widen(&input), naive::forward(block, &widen(&input)));
    let error = naive::relative_error(&widen(&found.to_values()), &expected);
    assert!(error <= 3e-6, "{block:#?}: output off by {error}");

    let gradient = gradient(block, &input, &target);
    let norm = gradient.iter().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    for index in (0..block.weights().len()).filter(|&index| block.is_trained(index)) {
        let mut compare = || {
            let mut direction: Vec<Vec<f32>> = block.weights().iter().map(|w| vec![0.0; w.data.len()]).collect();
            stream.fill(&mut direction[index]);
            let by_hand = naive::derivative(block, &wide, &widen(&target), &direction);
            let found: f64 = gradient[index].iter().zip(&direction[index]).map(|(g, d)| f64::from(g * d)).sum();
            let size = direction[index].iter().map(|d| f64::from(*d).powi(2)).sum::<f64>().sqrt();
            // Rounding, and kinks on the way; a tap, a row or an image left out is off by > 0.02 of the norm.
            let allowed = 4e-3 * (norm * size).max(1e-2);
            if (found - by_hand).abs() <= allowed { None } else { Some((found, by_hand)) }
        };
        // A kink lies on few directions, a mistake on all.
        if let (Some(wrong), Some(_), Some(_)) = (compare(), compare(), compare()) {
            panic!("{} of {block:#?}: gradient and differences give {wrong:?}", block.weights()[index].name);
        }
    }
}

/// The convolution behind a trained 1×1 one, so that its gradient by its input shows, and a ReLU behind both or none.
fn block(input: Shape, outputs: usize, kernel: [usize; 2], conv: Conv, relu: bool, stream: &mut Stream) -> Block {
    let mut builder = BlockBuilder::new("block", Role::Neighbourhood, input);
    let pointwise = Op::Conv(Conv::square(1, 0));
    let weights = vec![gaussian(stream, "first", &[input.channels, input.channels, 1, 1])];
    let mut x = builder.push("first", pointwise, &[0], weights).unwrap();
    if relu {
        x = builder.push("relu", Op::RELU, &[x], vec![]).unwrap();
    }
    let dims = [outputs, input.channels / usize::from(conv.groups), kernel[0], kernel[1]];
    let bias = Weight::new("bias", &[outputs], stream.gaussian(outputs));
    let x = builder.push("conv", Op::Conv(conv), &[x], vec![gaussian(stream, "kernel", &dims), bias]).unwrap();
    if relu {
        builder.push("relu2", Op::RELU, &[x], vec![]).unwrap();
    }
    builder.finish().unwrap()
}

/// Blocks around convolutions of the usual sizes and of awkward ones, and how many images each takes.
pub fn usual_blocks(stream: &mut Stream) -> Vec<(Block, usize)> {
    let conv = |stride, padding, groups| Conv::square(stride, padding).grouped(groups);
    let cases = [
        (Shape::new(16, 8, 32), 8, [3, 3], conv(1, 1, 1)),
        (Shape::new(8, 16, 16), 16, [3, 3], conv(2, 1, 1)),
        (Shape::new(6, 8, 8), 14, [3, 3], conv(1, 1, 1)),
        (Shape::new(5, 7, 9), 3, [1, 1], conv(1, 0, 1)),
        (Shape::new(5, 7, 9), 3, [1, 1], conv(2, 0, 1)),
        (Shape::new(10, 9, 6), 10, [3, 3], conv(1, 1, 10)),
        (Shape::new(10, 9, 6), 10, [3, 3], conv(2, 1, 10)),
        (Shape::new(4, 6, 6), 12, [3, 3], conv(1, 1, 4)),
        (Shape::new(6, 6, 5), 9, [3, 3], conv(2, 0, 3)),
        (Shape::new(3, 7, 7), 5, [5, 5], conv(2, 2, 1)),
        (Shape::new(3, 1, 1), 2, [3, 3], conv(4, 2, 1)),
        (Shape::new(3, 2, 5), 2, [3, 3], conv(1, 2, 1)),
        (Shape::new(2, 6, 7), 3, [1, 3], conv(1, 0, 1)),
        (Shape::new(2, 6, 7), 3, [3, 2], conv(2, 1, 1)),
    ];
    // A group of images that is not full, and two full ones with a part of a third.
    let with = |(input, outputs, kernel, conv)| {
        [5, 37].map(|count| (block(input, outputs, kernel, conv, count == 37, stream), count))
    };
    cases.into_iter().flat_map(with).collect()
}

#[test]
fn blocks_of_the_usual_sizes() {
    let stream = &mut Stream::new(3, Purpose::Images, 0);
    for (block, count) in usual_blocks(stream) {
        check(&block, count, stream);
    }
}

#[test]
fn every_kernel_with_every_stride_padding_and_width() {
    let stream = &mut Stream::new(4, Purpose::Images, 0);
    for extent in 1..=5usize {
        for stride in 1..=4 {
            for padding in 0..extent {
                let size = |stream: &mut Stream| extent + stream.below(9);
                let input = Shape::new(1 + stream.below(3), size(stream), size(stream));
                let outputs = 1 + stream.below(6);
                let conv = Conv::square(stride, padding as u16);
                check(&block(input, outputs, [extent; 2], conv, false, stream), 3, stream);
            }
        }
    }
}
