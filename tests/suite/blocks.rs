//! Blocks: what is refused, and the forward pass of every operator against plain loops.

use distill_core::{
    Batch, BatchNorm, Block, BlockBuilder, BlockError, Conv, Device, DeviceBlock, Dims, MAX_EXTENT, MAX_NODES, Node,
    Nodes, Op, Pad, Purpose, Role, Shape, Slice, Statistics, Stream, Weight,
};

use crate::naive::{self, widen};
use distill_tests::{gaussian, norm_weights, residual};

const INPUT: Shape = Shape::new(4, 5, 6);

fn conv(stride: u16, padding: u16, groups: u16) -> Op {
    Op::Conv(Conv::square(stride, padding).grouped(groups))
}

fn zeros(name: &str, dims: &[usize]) -> Weight {
    Weight::new(name, dims, vec![0.0; dims.iter().product()])
}

/// A block of one operator on `input`.
fn single(op: Op, input: Shape, weights: Vec<Weight>) -> Result<Block, BlockError> {
    let inputs: &[u8] = if op == Op::Add { &[0, 0] } else { &[0] };
    let mut builder = BlockBuilder::new("block", Role::Neighbourhood, input);
    builder.push("node", op, inputs, weights)?;
    builder.finish()
}

/// Asserts the output shape of one operator with random weights, and its values against [`naive`].
fn check(op: Op, input: Shape, weights: &[&[usize]], expected: Shape, statistics: Statistics) {
    let stream = &mut Stream::new(1, Purpose::Images, 0);
    let weights = match op {
        Op::BatchNorm(_) => norm_weights(stream, "norm", input.channels),
        _ => weights.iter().enumerate().map(|(i, dims)| gaussian(stream, &format!("w{i}"), dims)).collect(),
    };
    let block = single(op, input, weights).unwrap();
    let batch = 3;
    let values = stream.images(batch, input);
    let naive = naive::values(&block, &widen(&values), statistics).swap_remove(1);
    let output = DeviceBlock::new(&block, &Device::Cpu).forward(&Batch::from_values(&values, input), statistics);
    assert_eq!(block.output(), expected);
    assert_eq!((output.len(), output.shape()), (batch, expected));
    for (index, (found, naive)) in output.to_values().into_iter().zip(naive).enumerate() {
        // Sums of at most 36 products near 1 in f32: a wrong tap, pad, group or an unbiased variance is off by > 1e-2.
        assert!((f64::from(found) - naive).abs() <= 1e-5, "value {index}: {found}, loops give {naive}");
    }
}

fn check_running(op: Op, input: Shape, weights: &[&[usize]], expected: Shape) {
    check(op, input, weights, expected, Statistics::Running);
}

#[test]
fn dense_convolutions_match_loops() {
    check_running(conv(1, 1, 1), INPUT, &[&[7, 4, 3, 3]], Shape::new(7, 5, 6));
    check_running(conv(1, 0, 1), INPUT, &[&[7, 4, 3, 3], &[7]], Shape::new(7, 3, 4));
    check_running(conv(2, 1, 1), INPUT, &[&[3, 4, 3, 3]], Shape::new(3, 3, 3));
    check_running(conv(2, 0, 1), INPUT, &[&[3, 4, 2, 2], &[3]], Shape::new(3, 2, 3));
    check_running(conv(1, 0, 1), INPUT, &[&[5, 4, 1, 1], &[5]], Shape::new(5, 5, 6));
    check_running(conv(1, 2, 1), INPUT, &[&[2, 4, 3, 5]], Shape::new(2, 7, 6)); // a kernel that is not square
    check_running(conv(3, 1, 1), Shape::new(1, 5, 5), &[&[1, 1, 3, 3]], Shape::new(1, 2, 2));
}

#[test]
fn grouped_and_depthwise_convolutions_match_loops() {
    check_running(conv(1, 1, 2), INPUT, &[&[6, 2, 3, 3], &[6]], Shape::new(6, 5, 6));
    check_running(conv(1, 1, 4), INPUT, &[&[4, 1, 3, 3]], Shape::new(4, 5, 6));
    check_running(conv(2, 1, 4), INPUT, &[&[4, 1, 3, 3], &[4]], Shape::new(4, 3, 3));
    check_running(conv(1, 0, 4), INPUT, &[&[8, 1, 3, 3]], Shape::new(8, 3, 4)); // channel multiplier 2
}

#[test]
fn batch_norm_takes_running_or_current_statistics() {
    check(Op::BatchNorm(BatchNorm { epsilon: 1e-5 }), INPUT, &[], INPUT, Statistics::Running);
    check(Op::BatchNorm(BatchNorm { epsilon: 1e-5 }), INPUT, &[], INPUT, Statistics::Current);
    check(Op::BatchNorm(BatchNorm { epsilon: 0.5 }), INPUT, &[], INPUT, Statistics::Running); // ε outside the root is off by > 0.1
}

#[test]
fn operators_without_weights_match_loops() {
    check_running(Op::RELU, INPUT, &[], INPUT);
    check_running(Op::Add, INPUT, &[], INPUT); // one value read twice
    check_running(Op::Slice(Slice::strided(2)), INPUT, &[], Shape::new(4, 3, 3)); // rounds up on the odd side
    check_running(Op::Slice(Slice::strided(4)), INPUT, &[], Shape::new(4, 2, 2));
    check_running(Op::Pad(Pad::channels(1, 2)), INPUT, &[], Shape::new(7, 5, 6));
    check_running(Op::Pad(Pad::channels(0, 0)), INPUT, &[], INPUT);
    check_running(Op::GlobalAveragePool, INPUT, &[], Shape::new(4, 1, 1));
}

#[test]
fn linear_matches_loops() {
    check_running(Op::Linear, Shape::new(9, 1, 1), &[&[5, 9], &[5]], Shape::new(5, 1, 1));
}

#[test]
fn whole_residual_block_matches_loops_in_both_statistics() {
    let stream = &mut Stream::new(2, Purpose::Images, 0);
    let block = residual(stream, "b", Shape::new(4, 8, 8), 8);
    let values = stream.images(2, block.input());
    let input = Batch::from_values(&values, block.input());
    for statistics in [Statistics::Running, Statistics::Current] {
        let naive = naive::values(&block, &widen(&values), statistics);
        for (value, naive) in naive.iter().enumerate() {
            let found = DeviceBlock::up_to(&block, value, &Device::Cpu).forward(&input, statistics);
            // Two convolutions deep in f32; a value overwritten too early would be another tensor altogether.
            let error = naive::relative_error(&widen(&found.to_values()), naive);
            assert!(error <= 1e-6, "{statistics:?}, value {value}: {error}");
        }
    }
}

/// Asserts that one operator is refused.
fn check_refused(op: Op, input: Shape, weights: Vec<Weight>, expected: impl Fn(&BlockError) -> bool) {
    let error = single(op.clone(), input, weights).expect_err("the block was accepted");
    assert!(expected(&error), "{op:?}: {error:?}");
}

fn misfit(error: &BlockError) -> bool {
    matches!(error, BlockError::ValueShape { .. })
}

fn wrong_arity(error: &BlockError) -> bool {
    matches!(error, BlockError::WrongArity { .. })
}

#[test]
fn weight_of_wrong_shape_is_named_with_both_shapes() {
    let dims = |dims: [u32; 4]| dims.into_iter().collect::<Dims>();
    let expected =
        BlockError::WeightShape { weight: "kernel".into(), expected: dims([8, 4, 3, 3]), found: dims([8, 5, 3, 3]) };
    check_refused(conv(1, 1, 1), INPUT, vec![zeros("kernel", &[8, 5, 3, 3])], |e| *e == expected);
    let shape = |e: &BlockError| matches!(e, BlockError::WeightShape { .. });
    check_refused(conv(1, 1, 1), INPUT, vec![zeros("k", &[8, 4, 3])], shape);
    check_refused(conv(1, 1, 1), INPUT, vec![zeros("k", &[8, 4, 3, 3]), zeros("b", &[7])], shape);
    check_refused(Op::BatchNorm(BatchNorm { epsilon: 1e-5 }), INPUT, (0..4).map(|_| zeros("n", &[3])).collect(), shape);
    check_refused(Op::Linear, Shape::new(4, 1, 1), vec![zeros("m", &[2, 3]), zeros("b", &[2])], shape);
}

#[test]
fn weight_with_too_few_values_is_refused() {
    let short = Weight::new("k", &[8, 4, 3, 3], vec![0.0; 287]);
    check_refused(conv(1, 1, 1), INPUT, vec![short], |e| {
        matches!(e, BlockError::WeightLength { expected: 288, found: 287, .. })
    });
}

#[test]
fn wrong_number_of_weights_is_refused() {
    check_refused(conv(1, 1, 1), INPUT, vec![], wrong_arity);
    check_refused(Op::RELU, INPUT, vec![zeros("w", &[4])], wrong_arity);
    check_refused(Op::BatchNorm(BatchNorm { epsilon: 1e-5 }), INPUT, vec![zeros("w", &[4])], wrong_arity);
    check_refused(Op::RELU, INPUT, (0..5).map(|_| zeros("w", &[1])).collect(), wrong_arity);
}

#[test]
fn geometry_that_cannot_work_is_refused() {
    let kernel = || vec![zeros("k", &[4, 4, 3, 3])];
    check_refused(conv(0, 1, 1), INPUT, kernel(), misfit);
    check_refused(conv(1, 1, 0), INPUT, kernel(), misfit);
    check_refused(conv(1, 1, 3), INPUT, kernel(), misfit);
    check_refused(conv(1, 0, 1), Shape::new(4, 2, 6), kernel(), misfit); // kernel taller than the image
    check_refused(Op::Slice(Slice::strided(0)), INPUT, vec![], misfit);
    check_refused(Op::Linear, INPUT, vec![zeros("m", &[2, 4]), zeros("b", &[2])], misfit);
    check_refused(
        Op::BatchNorm(BatchNorm { epsilon: f32::NAN }),
        INPUT,
        (0..4).map(|_| zeros("n", &[4])).collect(),
        misfit,
    );
    check_refused(
        Op::BatchNorm(BatchNorm { epsilon: -1e-5 }),
        INPUT,
        (0..4).map(|_| zeros("n", &[4])).collect(),
        misfit,
    );
}

#[test]
fn extents_that_overflow_are_refused() {
    check_refused(Op::RELU, Shape::new(0, 5, 5), vec![], misfit);
    check_refused(Op::RELU, Shape::new(MAX_EXTENT + 1, 1, 1), vec![], misfit);
    check_refused(Op::RELU, Shape::new(MAX_EXTENT, MAX_EXTENT, MAX_EXTENT), vec![], misfit);
    check_refused(Op::RELU, Shape::new(usize::MAX, usize::MAX, 2), vec![], misfit);
    check_refused(Op::Pad(Pad::channels(u16::MAX, u16::MAX)), Shape::new(4, 1, 1), vec![], misfit);
    check_refused(conv(1, u16::MAX, 1), INPUT, vec![zeros("k", &[1, 4, 1, 1])], misfit);
}

#[test]
fn addition_of_two_shapes_is_refused() {
    let mut builder = BlockBuilder::new("block", Role::Neighbourhood, INPUT);
    let padded = builder.push("pad", Op::Pad(Pad::channels(1, 0)), &[0], vec![]).unwrap();
    builder.push("add", Op::Add, &[0, padded], vec![]).unwrap();
    assert!(misfit(&builder.finish().unwrap_err()));
}

#[test]
fn value_or_weight_that_is_not_there_is_refused() {
    let refused = |op: Op, inputs: &[u8], weights: &[u8]| {
        let inputs = inputs.iter().copied().collect();
        let node = Node { name: "node".into(), op, inputs, weights: weights.iter().copied().collect() };
        let nodes = Nodes::from_slice(&[node]).unwrap();
        let error = Block::new("block", Role::Stem, INPUT, nodes, vec![zeros("k", &[4, 4, 1, 1])]).unwrap_err();
        assert!(matches!(&error, BlockError::DanglingReference { node } if node == "node"), "{error:?}");
    };
    refused(Op::RELU, &[1], &[]); // its own output
    refused(Op::RELU, &[255], &[]);
    refused(Op::Add, &[0, 2], &[]);
    refused(conv(1, 0, 1), &[0], &[1]);
    refused(conv(1, 0, 1), &[0], &[0, 9]);
}

#[test]
fn padding_longer_than_kernel_and_value_is_refused() {
    let one = |extent: usize, padding: u16| {
        let mut builder = BlockBuilder::new("block", Role::Stem, INPUT);
        builder.push("conv", conv(1, padding, 1), &[0], vec![zeros("k", &[2, 4, extent, extent])]).unwrap();
        builder.finish()
    };
    // The value is 5×6; some networks pad pointwise convolutions.
    for (extent, padding) in [(3, 2), (1, 1), (3, 5)] {
        one(extent, padding).unwrap();
    }
    for (extent, padding) in [(3, 6), (1, 6), (3, u16::MAX)] {
        assert!(matches!(one(extent, padding), Err(BlockError::ValueShape { .. })), "{extent}, {padding}");
    }
}

#[test]
fn value_or_weight_that_nothing_reads_is_refused() {
    let unused = |builder: BlockBuilder, expected: &str| {
        let error = builder.finish().unwrap_err();
        assert!(matches!(&error, BlockError::Unused { name } if name == expected), "{error:?}");
    };
    let mut builder = BlockBuilder::new("block", Role::Stem, INPUT);
    builder.push("dead", Op::RELU, &[0], vec![]).unwrap();
    builder.push("relu", Op::RELU, &[0], vec![]).unwrap();
    unused(builder, "dead");
    let node = Node {
        name: "relu".into(),
        op: Op::RELU,
        inputs: [0].into_iter().collect(),
        weights: [0u8; 0].into_iter().collect(),
    };
    let nodes = Nodes::from_slice(&[node]).unwrap();
    let error = Block::new("block", Role::Stem, INPUT, nodes, vec![zeros("k", &[4, 4, 1, 1])]).unwrap_err();
    assert!(matches!(&error, BlockError::Unused { name } if name == "k"), "{error:?}");
}

#[test]
fn weight_that_two_slots_read_is_refused() {
    let weights = norm_weights(&mut Stream::new(1, Purpose::Images, 0), "bn", 4);
    // The shift is also the running mean: training one would move the other.
    let node = Node {
        name: "bn".into(),
        op: Op::BatchNorm(BatchNorm { epsilon: 1e-5 }),
        inputs: [0].into_iter().collect(),
        weights: [0, 1, 1, 2].into_iter().collect(),
    };
    let nodes = Nodes::from_slice(&[node]).unwrap();
    let error = Block::new("block", Role::Stem, INPUT, nodes, [0, 1, 3].map(|w: usize| weights[w].clone()).to_vec())
        .unwrap_err();
    assert!(matches!(&error, BlockError::SharedWeight { weight } if weight == "bn.bias"), "{error:?}");
}

#[test]
fn graph_without_nodes_or_with_too_many_is_refused() {
    let empty = BlockBuilder::new("block", Role::Stem, INPUT).finish();
    assert!(matches!(empty, Err(BlockError::Empty { .. })));
    let mut builder = BlockBuilder::new("block", Role::Stem, INPUT);
    let mut push = |input: usize| builder.push("relu", Op::RELU, &[input as u8], vec![]);
    (0..MAX_NODES).for_each(|node| assert_eq!(push(node).unwrap(), node as u8 + 1));
    assert!(matches!(push(MAX_NODES), Err(BlockError::TooManyNodes { .. })));
}

#[test]
fn parameters_and_operations_are_the_hand_counted_ones() {
    let block = residual(&mut Stream::new(1, Purpose::Images, 0), "b", Shape::new(4, 8, 8), 8);
    // Two kernels, 8·4·9 and 8·8·9, and two batch norms' scale and shift; running statistics are not trained.
    assert_eq!(block.parameters(), 288 + 576 + 2 * 16);
    // Both convolutions write 4×4 positions; stride counted twice or not at all would be off by four.
    assert_eq!(block.macs(), (288 + 576) * 16);
    assert!(block.has_statistics());
    let linear = single(Op::Linear, Shape::new(9, 1, 1), vec![zeros("m", &[5, 9]), zeros("b", &[5])]).unwrap();
    assert_eq!((linear.parameters(), linear.macs()), (50, 45));
    assert!(!linear.has_statistics());
}
