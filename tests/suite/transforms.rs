//! Fold and shrink: what they must keep, and which channels go.

use distill_core::{
    Activation, BatchNorm, Block, BlockBuilder, Conv, Op, Purpose, Role, Settings, Shape, Slice, Statistics, Stream,
    Unchanged, Weight, Width, fold_batch_norms, inner_channels, shrink,
};

use crate::naive::{self, relative_error, widen};
use distill_tests::{SAME, conv_norm, gaussian, norm_weights, residual, teacher};

const INPUT: Shape = Shape::new(4, 6, 6);
const POINTWISE: Op = Op::Conv(Conv::square(1, 0));

fn stream() -> Stream {
    Stream::new(5, Purpose::Images, 0)
}

fn width(k: f32) -> Width {
    Width::new(k).unwrap()
}

/// Asserts that the folded block has `norms` batch norms left and computes what the block computes.
fn check_fold(block: &Block, norms: usize) {
    let folded = fold_batch_norms(block).unwrap();
    let is_norm = |op: &Op| matches!(op, Op::BatchNorm(_));
    assert_eq!(folded.nodes().iter().filter(|node| is_norm(&node.op)).count(), norms, "{}", block.name());
    let input = widen(&stream().images(2, block.input()));
    let error = relative_error(&naive::forward(&folded, &input), &naive::forward(block, &input));
    // Weights rounded to f32 twice; a forgotten ε, mean, shift or square root is off by > 1e-3.
    assert!(error <= 1e-6, "{}: relative error {error}", block.name());
}

#[test]
fn folded_blocks_compute_the_same_with_running_statistics() {
    teacher().iter().for_each(|block| check_fold(block, 0));
}

#[test]
fn fold_keeps_a_convolutions_own_bias() {
    let stream = &mut stream();
    let mut builder = BlockBuilder::new("bias", Role::Neighbourhood, INPUT);
    let weights = vec![gaussian(stream, "conv.weight", &[5, 4, 3, 3]), gaussian(stream, "conv.bias", &[5])];
    let x = builder.push("conv", SAME, &[0], weights).unwrap();
    builder.push("bn", Op::BatchNorm(BatchNorm { epsilon: 1e-3 }), &[x], norm_weights(stream, "bn", 5)).unwrap();
    check_fold(&builder.finish().unwrap(), 0);
}

/// Batch norm, activation, convolution: the order of a pre-activation ResNet.
pub fn pre_activation() -> Block {
    let stream = &mut stream();
    let mut builder = BlockBuilder::new("pre-activation", Role::Neighbourhood, INPUT);
    let x =
        builder.push("bn", Op::BatchNorm(BatchNorm { epsilon: 1e-5 }), &[0], norm_weights(stream, "bn", 4)).unwrap();
    let x = builder.push("relu", Op::RELU, &[x], vec![]).unwrap();
    let x = builder.push("conv", SAME, &[x], vec![gaussian(stream, "conv.weight", &[4, 4, 3, 3])]).unwrap();
    builder.push("add", Op::Add, &[x, 0], vec![]).unwrap();
    builder.finish().unwrap()
}

#[test]
fn fold_leaves_norms_it_cannot_fold() {
    check_fold(&pre_activation(), 1);
    let stream = &mut stream();
    let mut builder = BlockBuilder::new("two readers", Role::Neighbourhood, INPUT);
    let norm = conv_norm(&mut builder, stream, ("conv", "bn"), 0, [4, 4], 1);
    builder.push("add", Op::Add, &[norm, norm - 1], vec![]).unwrap(); // the convolution's own value is read as well
    check_fold(&builder.finish().unwrap(), 1);
}

#[test]
fn full_width_is_the_identity() {
    for block in teacher() {
        let folded = fold_batch_norms(&block).unwrap();
        assert_eq!(shrink(&folded, Width::FULL).unwrap(), folded);
        assert_eq!(shrink(&block, Width::FULL).unwrap(), block);
    }
}

#[test]
fn width_keeps_at_least_one_channel_and_rounds_down() {
    for (k, channels, kept) in
        [(0.5, 16, 8), (0.9, 16, 14), (0.75, 64, 48), (0.29, 100, 29), (0.01, 16, 1), (1.0, 7, 7)]
    {
        assert_eq!(width(k).of(channels), kept, "{k} of {channels}");
    }
}

#[test]
fn width_outside_its_range_is_refused() {
    for k in [0.0, -0.5, f32::NAN, 1.1, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(Width::new(k).is_err(), "{k} was accepted");
    }
}

/// A folded block with one hidden group of channels: `in → hidden → in`, with an addition.
fn two_convolutions(written: Vec<f32>, bias: Vec<f32>, read: Vec<f32>) -> Block {
    let hidden = written.len();
    let mut builder = BlockBuilder::new("hand-made", Role::Neighbourhood, Shape::new(1, 2, 2));
    let weights = vec![Weight::new("a.weight", &[hidden, 1, 1, 1], written), Weight::new("a.bias", &[hidden], bias)];
    let x = builder.push("a", POINTWISE, &[0], weights).unwrap();
    let x = builder.push("relu", Op::RELU, &[x], vec![]).unwrap();
    let weights = vec![Weight::new("b.weight", &[1, hidden, 1, 1], read), Weight::new("b.bias", &[1], vec![0.25])];
    let x = builder.push("b", POINTWISE, &[x], weights).unwrap();
    builder.push("add", Op::Add, &[x, 0], vec![]).unwrap();
    builder.finish().unwrap()
}

#[test]
fn strongest_channels_stay_in_their_order() {
    // Strengths 1, 3, 2, 5: writing weights alone would keep 1 and 2, reading weights alone 0 and 3,
    // and an order by strength would swap the two.
    let block = two_convolutions(vec![1.0, -3.0, 2.0, 0.5], vec![10.0, 20.0, 30.0, 40.0], vec![1.0, 1.0, -1.0, 10.0]);
    let expected = two_convolutions(vec![-3.0, 0.5], vec![20.0, 40.0], vec![1.0, 10.0]);
    assert_eq!(shrink(&block, width(0.5)).unwrap(), expected);
}

#[test]
fn equal_channels_stay_from_the_first() {
    let block = two_convolutions(vec![1.0; 4], vec![1.0, 2.0, 3.0, 4.0], vec![1.0; 4]);
    let expected = two_convolutions(vec![1.0; 2], vec![1.0, 2.0], vec![1.0; 2]);
    assert_eq!(shrink(&block, width(0.5)).unwrap(), expected);
}

/// Asserts that half the width keeps `block`'s boundary and, inside, exactly the channels whose index
/// is in `kept`: the student computes what the block computes with the others' readers set to 0.
fn check_silenced(block: &Block, (reader, kept): (usize, &[usize])) {
    let student = shrink(block, width(0.5)).unwrap();
    assert_eq!((student.input(), student.output()), (block.input(), block.output()));
    let mut weights = block.weights().to_vec();
    let kernel = &mut weights[usize::from(block.nodes()[reader].weights[0])];
    let (inputs, area) = (kernel.dims[1] as usize, kernel.dims[2..].iter().product::<u32>() as usize);
    for (position, tap) in kernel.data.chunks_exact_mut(area).enumerate() {
        if !kept.contains(&(position % inputs)) {
            tap.fill(0.0);
        }
    }
    let silenced = block.with_weights(weights).unwrap();
    let input = widen(&stream().images(2, block.input()));
    let error = relative_error(&naive::forward(&student, &input), &naive::forward(&silenced, &input));
    // The same sums without the zeros: any channel mixed up is off by > 1e-1.
    assert!(error <= 1e-12, "{}: relative error {error}", block.name());
    assert!(student.macs() < block.macs() && student.parameters() < block.parameters());
}

/// 1×1 to 8·`multiplier` channels, depthwise 3×3, 1×1 back, addition; channels 1, 2, 4, 7 are the strong ones.
fn inverted_residual(multiplier: usize) -> Block {
    let stream = &mut stream();
    let mut expand = gaussian(stream, "expand.weight", &[8, 4, 1, 1]);
    for (position, value) in expand.data.iter_mut().enumerate() {
        *value *= if [1, 2, 4, 7].contains(&(position / 4)) { 10.0 } else { 0.1 };
    }
    let mut builder = BlockBuilder::new("inverted residual", Role::Neighbourhood, INPUT);
    let x = builder.push("expand", POINTWISE, &[0], vec![expand, gaussian(stream, "expand.bias", &[8])]).unwrap();
    let x = builder.push("relu1", Op::RELU, &[x], vec![]).unwrap();
    let out = 8 * multiplier;
    let weights =
        vec![gaussian(stream, "depthwise.weight", &[out, 1, 3, 3]), gaussian(stream, "depthwise.bias", &[out])];
    let depthwise = Op::Conv(Conv::square(1, 1).grouped(8));
    let x = builder.push("depthwise", depthwise, &[x], weights).unwrap();
    let x = builder.push("relu2", Op::RELU, &[x], vec![]).unwrap();
    let weights = vec![gaussian(stream, "project.weight", &[4, out, 1, 1]), gaussian(stream, "project.bias", &[4])];
    let x = builder.push("project", POINTWISE, &[x], weights).unwrap();
    builder.push("add", Op::Add, &[x, 0], vec![]).unwrap();
    builder.finish().unwrap()
}

#[test]
fn depthwise_inverted_residual_shrinks_as_one_group() {
    let block = inverted_residual(1);
    assert_eq!(inner_channels(&block), [8]);
    check_silenced(&block, (4, &[1, 2, 4, 7]));
    let student = shrink(&block, width(0.5)).unwrap();
    assert_eq!(student.nodes()[2].op, Op::Conv(Conv::square(1, 1).grouped(4)));
}

#[test]
fn depthwise_with_a_channel_multiplier_loses_a_channels_outputs_together() {
    check_silenced(&inverted_residual(2), (4, &[2, 3, 4, 5, 8, 9, 14, 15]));
}

/// 1×1 to eight channels, 3×3 in groups of two, 1×1 back, addition; the groups 0 and 2 are the strong ones.
fn grouped() -> Block {
    let stream = &mut stream();
    let mut builder = BlockBuilder::new("grouped", Role::Neighbourhood, INPUT);
    let mut expand = gaussian(stream, "expand.weight", &[8, 4, 1, 1]);
    for (position, value) in expand.data.iter_mut().enumerate() {
        *value *= if [0, 2].contains(&(position / 8)) { 10.0 } else { 0.1 };
    }
    let x = builder.push("expand", POINTWISE, &[0], vec![expand, gaussian(stream, "expand.bias", &[8])]).unwrap();
    let weights = vec![gaussian(stream, "grouped.weight", &[8, 2, 3, 3]), gaussian(stream, "grouped.bias", &[8])];
    let x = builder.push("grouped", Op::Conv(Conv::square(1, 1).grouped(4)), &[x], weights).unwrap();
    let weights = vec![gaussian(stream, "project.weight", &[4, 8, 1, 1]), gaussian(stream, "project.bias", &[4])];
    let x = builder.push("project", POINTWISE, &[x], weights).unwrap();
    builder.push("add", Op::Add, &[x, 0], vec![]).unwrap();
    builder.finish().unwrap()
}

#[test]
fn groups_of_a_convolution_leave_whole() {
    let block = grouped();
    assert_eq!(inner_channels(&block), [8]);
    check_silenced(&block, (2, &[0, 1, 4, 5]));
    let student = shrink(&block, width(0.5)).unwrap();
    assert_eq!(student.nodes()[1].op, Op::Conv(Conv::square(1, 1).grouped(2)));
    // Three of the eight channels are one group.
    assert_eq!(shrink(&block, width(0.4)).unwrap().shape(1).channels, 2);
}

#[test]
fn channel_counts_are_kept_at_multiples() {
    // ⌊k·C⌋, then the nearest multiple, at least one and at most all.
    for (k, channels, unit, kept) in [
        (0.5, 16, 1, 8),
        (0.75, 64, 8, 48),
        (0.75, 24, 8, 16),
        (0.9, 24, 8, 24),
        (0.5, 24, 8, 16),
        (0.1, 64, 8, 8),
        (0.5, 6, 8, 6),
        (0.95, 20, 8, 16),
        (1.0, 18, 8, 18),
    ] {
        assert_eq!(width(k).of_units(channels, unit), kept, "{k} of {channels} by {unit}");
    }
    let student = |block: &Block, k, round_to| {
        let mut recipe = Settings::new(width(k), 0).recipe;
        recipe.round_to = round_to;
        recipe.student(block).unwrap().shape(1).channels
    };
    let block = inverted_residual(1);
    assert_eq!([1, 2, 4, 8].map(|unit| student(&block, 0.4, unit)), [3, 4, 4, 8]);
    // Groups of two channels: multiples of three channels are multiples of three groups.
    let block = grouped();
    assert_eq!([1, 2, 3, 4, 8].map(|unit| student(&block, 0.4, unit)), [2, 2, 6, 4, 8]);
}

#[test]
fn what_stays_says_why() {
    let reason = |block: &Block, k, round_to| {
        let mut recipe = Settings::new(width(k), 0).recipe;
        recipe.round_to = round_to;
        recipe.unchanged(&fold_batch_norms(block).unwrap()).unwrap()
    };
    assert_eq!(reason(&grouped(), 0.5, 1), None);
    assert_eq!(reason(&grouped(), 0.9, 8), Some(Unchanged::Rounded));
    assert_eq!(reason(&grouped(), 1.0, 1), Some(Unchanged::FullWidth));
    assert_eq!(reason(&teacher()[0], 0.5, 1), Some(Unchanged::SingleLayer));
    assert_eq!(reason(&pre_activation(), 0.5, 1), Some(Unchanged::SingleLayer));
    // A depthwise layer ties what follows it to the input.
    let stream = &mut stream();
    let mut builder = BlockBuilder::new("separable", Role::Neighbourhood, INPUT);
    let depthwise = Op::Conv(Conv::square(1, 1).grouped(4));
    let x = builder.push("depthwise", depthwise, &[0], vec![gaussian(stream, "depthwise", &[4, 1, 3, 3])]).unwrap();
    builder.push("pointwise", POINTWISE, &[x], vec![gaussian(stream, "pointwise", &[6, 4, 1, 1])]).unwrap();
    assert_eq!(reason(&builder.finish().unwrap(), 0.5, 1), Some(Unchanged::Tied));
}

#[test]
fn residual_blocks_shrink_inside_only() {
    for block in [residual(&mut stream(), "same", INPUT, 4), residual(&mut stream(), "wider", INPUT, 8)] {
        let folded = fold_batch_norms(&block).unwrap();
        for k in [0.01, 0.5, 0.75, 0.9] {
            let student = shrink(&folded, width(k)).unwrap();
            assert_eq!((student.input(), student.output()), (block.input(), block.output()), "{k}");
            assert_eq!(inner_channels(&student), [width(k).of(inner_channels(&folded)[0])], "{k}");
        }
        // Unfolded, the batch norm of the hidden channels shrinks with them.
        let student = shrink(&block, width(0.5)).unwrap();
        assert_eq!(student.weight(1, 3).unwrap().data.len(), inner_channels(&block)[0] / 2);
        let output = naive::values(&student, &widen(&stream().images(1, INPUT)), Statistics::Current);
        assert!(output.iter().flatten().all(|v| v.is_finite()));
    }
}

#[test]
fn block_whose_channels_all_reach_the_boundary_stays_whole() {
    let stem = fold_batch_norms(&teacher()[0]).unwrap();
    assert_eq!(inner_channels(&stem), [] as [usize; 0]);
    assert_eq!(shrink(&stem, width(0.1)).unwrap(), stem);
    let block = pre_activation();
    assert_eq!(shrink(&block, width(0.1)).unwrap(), block);
}

/// A layer of eight channels, of which the first two are weak and go one way, the others another; a gate on the second.
fn parted() -> Block {
    let stream = &mut Stream::new(9, Purpose::Images, 0);
    let mut builder = BlockBuilder::new("block", Role::Neighbourhood, Shape::new(3, 4, 4));
    let mut push = |name: &str, op: Op, inputs: &[u8], weights| builder.push(name, op, inputs, weights).unwrap();
    let mut first = gaussian(stream, "first", &[8, 3, 1, 1]);
    first.data[..6].iter_mut().for_each(|weight| *weight *= 1e-3);
    let x = push("first", POINTWISE, &[0], vec![first]);
    let part = |start: u32, end: u32| Op::Slice(Slice { start: [start, 0, 0], end: [end, 9, 9], ..Slice::ALL });
    let weak = push("weak", part(0, 2), &[x], vec![]);
    let strong = push("strong", part(2, 8), &[x], vec![]);
    let mean = push("mean", Op::GlobalAveragePool, &[strong], vec![]);
    let squeezed = push("squeeze", POINTWISE, &[mean], vec![gaussian(stream, "squeeze", &[4, 6, 1, 1])]);
    let gate = push("gate", POINTWISE, &[squeezed], vec![gaussian(stream, "gate", &[6, 4, 1, 1])]);
    let gate = push("sigmoid", Op::Activation(Activation::Sigmoid), &[gate], vec![]);
    let gated = push("gated", Op::Mul, &[strong, gate], vec![]);
    let joined = push("joined", Op::Concat, &[gated, weak], vec![]);
    let weights = vec![gaussian(stream, "last", &[5, 8, 1, 1]), Weight::new("last.bias", &[5], vec![0.5; 5])];
    push("last", POINTWISE, &[joined], weights);
    builder.finish().unwrap()
}

#[test]
fn gates_slices_and_concatenations_narrow_together_and_none_to_nothing() {
    let block = parted();
    let channels =
        |block: &Block| (0..=block.nodes().len()).map(|value| block.shape(value).channels).collect::<Vec<_>>();
    let half = shrink(&block, Width::new(0.5).unwrap()).unwrap();
    // Four of eight, all strong ones; of the weak part one stays. Its own group is between squeeze and gate.
    assert_eq!(channels(&half), [3, 5, 1, 4, 4, 2, 4, 4, 4, 5, 5]);
    shrink(&block, Width::new(0.01).unwrap()).unwrap();
    let whole = shrink(&block, Width::FULL).unwrap();
    assert_eq!(whole, block);
}
