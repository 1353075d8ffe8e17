//! The ridge solve: it finds a teacher that the narrow student can be, and never does worse than pruning.

use distill_core::{
    Batch, Block, BlockBuilder, Conv, Device, DeviceBlock, NormalEquations, Op, Purpose, Ridge, Role, Shape,
    Statistics, Stream, Weight, Width, fold_batch_norms, shrink, solvable,
};

use crate::naive::{self, mean_squared_error, widen};
use distill_tests::{SAME, gaussian, residual};

const INPUT: Shape = Shape::new(4, 6, 6);

/// The student with its last convolution solved on `values`.
fn solved(teacher: &Block, student: &Block, node: usize, values: &[f32]) -> Block {
    solved_with(Ridge::USUAL, teacher, student, node, values)
}

/// That with a ridge, on values fed in batches of 20.
fn solved_with(ridge: Ridge, teacher: &Block, student: &Block, node: usize, values: &[f32]) -> Block {
    let mut equations = NormalEquations::new(student, node, ridge, usize::MAX);
    let read = usize::from(student.nodes()[node].inputs[0]);
    let hidden = DeviceBlock::up_to(student, read, &Device::Cpu);
    let target = DeviceBlock::up_to(teacher, node + 1, &Device::Cpu);
    // A group of images and part of one.
    for batch in values.chunks(20 * teacher.input().elements()) {
        let input = Batch::from_values(batch, teacher.input());
        let [hidden, target] = [&hidden, &target].map(|block| block.forward(&input, Statistics::Running));
        equations.add(&hidden, &target);
    }
    equations.solve(student.clone()).unwrap()
}

/// Mean squared error of a student's `node` against the teacher's.
fn error_at(student: &Block, teacher: &Block, node: usize, values: &[f32]) -> f64 {
    let output = |block: &Block| naive::values(block, &widen(values), Statistics::Running).swap_remove(node + 1);
    mean_squared_error(&output(student), &output(teacher))
}

/// `4 → 8 → 4` channels in which hidden channels 4..8 copy 0..4, each read a little weaker.
fn redundant_teacher(second: Conv) -> (Block, Weight, Weight) {
    let stream = &mut Stream::new(8, Purpose::Images, 0);
    let (half_kernel, half_bias) = (gaussian(stream, "", &[4, 4, 3, 3]).data, gaussian(stream, "", &[4]).data);
    let (kernel, bias) = (half_kernel.repeat(2), half_bias.repeat(2));
    let (mut read, mut merged) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        // Every tap near 1, so that all originals are stronger than all copies, whose taps are near 0.2.
        let taps: Vec<f32> = stream.gaussian(36).iter().map(|v| 1.0 + 0.3 * v).collect();
        let copies: Vec<f32> = stream.gaussian(36).iter().map(|v| 0.2 + 0.05 * v).collect();
        merged.extend(taps.iter().zip(&copies).map(|(a, b)| a + b));
        read.extend(taps.into_iter().chain(copies));
    }
    let read_bias = gaussian(stream, "conv2.bias", &[4]);
    let mut builder = BlockBuilder::new("redundant", Role::Neighbourhood, INPUT);
    let weights = vec![Weight::new("conv1.weight", &[8, 4, 3, 3], kernel), Weight::new("conv1.bias", &[8], bias)];
    let x = builder.push("conv1", SAME, &[0], weights).unwrap();
    let x = builder.push("relu", Op::RELU, &[x], vec![]).unwrap();
    let weights = vec![Weight::new("conv2.weight", &[4, 8, 3, 3], read), read_bias.clone()];
    builder.push("conv2", Op::Conv(second), &[x], weights).unwrap();
    (builder.finish().unwrap(), Weight::new("conv2.weight", &[4, 4, 3, 3], merged), read_bias)
}

/// Asserts that the solve finds the one kernel that makes the pruned student the teacher.
fn check_recovers(second: Conv) {
    let (teacher, kernel, bias) = redundant_teacher(second);
    let student = shrink(&teacher, Width::new(0.5).unwrap()).unwrap();
    let node = solvable(&student, &teacher).unwrap().student;
    assert_eq!(node, 2);
    let values = Stream::new(9, Purpose::Solve, 0).images(64, INPUT);
    let found = solved(&teacher, &student, node, &values);
    let error = |found: &Weight, expected: &Weight| naive::relative_error(&widen(&found.data), &widen(&expected.data));
    let errors = [(0, &kernel), (1, &bias)].map(|(slot, expected)| error(found.weight(node, slot).unwrap(), expected));
    // The ridge of 1e-4 biases the directions that vary least by up to some 1e-3; swapped taps, a transposed kernel, a wrong padding or
    // stride in the patches, or a missing 1/rows on one side only are off by > 0.1.
    assert!(errors[0] <= 1e-2 && errors[1] <= 2e-2, "kernel and bias off by {errors:?}");
    let pruned = naive::relative_error(&widen(&student.weight(node, 0).unwrap().data), &widen(&kernel.data));
    assert!(pruned > 0.1, "the pruned start is already the answer");
    assert_eq!(found.nodes(), student.nodes());
    assert_eq!(found.weights()[..2], student.weights()[..2], "the first convolution is not solved for");
}

#[test]
fn solve_recovers_a_representable_teacher() {
    check_recovers(Conv::square(1, 1));
    check_recovers(Conv::square(2, 1));
    check_recovers(Conv::square(1, 0));
    check_recovers(Conv::square(3, 2));
}

/// Asserts that the solve lowers the error at its convolution on the inputs it saw.
fn check_lowers(seed: u64, channels: usize, k: f32) {
    let stream = &mut Stream::new(seed, Purpose::Images, 0);
    let teacher = fold_batch_norms(&residual(stream, "block", INPUT, channels)).unwrap();
    let student = shrink(&teacher, Width::new(k).unwrap()).unwrap();
    let node = solvable(&student, &teacher).unwrap().student;
    let values = stream.images(24, INPUT);
    let found = solved(&teacher, &student, node, &values);
    let (before, after) = (error_at(&student, &teacher, node, &values), error_at(&found, &teacher, node, &values));
    // The minimum over all kernels, the pruned one among them; random channels are never already best.
    assert!(after < 0.95 * before, "seed {seed}, k {k}: {before} became {after}");
    // Ordinary least squares leaves residuals without mean; the tolerance is the ridge's.
    let output = |block: &Block| naive::values(block, &widen(&values), Statistics::Running).swap_remove(node + 1);
    let (ours, theirs) = (output(&found), output(&teacher));
    let mean = ours.iter().zip(&theirs).map(|(a, b)| a - b).sum::<f64>() / ours.len() as f64;
    assert!(mean.abs() <= 1e-3, "seed {seed}, k {k}: residuals have mean {mean}");
}

#[test]
fn solve_never_does_worse_than_pruning() {
    for (seed, channels, k) in [(1, 4, 0.5), (2, 4, 0.75), (3, 8, 0.5), (4, 8, 0.9), (5, 8, 0.1)] {
        check_lowers(seed, channels, k);
    }
}

#[test]
fn held_out_inputs_choose_the_ridge() {
    // Images of one pixel are few patches for as many channels.
    let (stream, input) = (&mut Stream::new(6, Purpose::Images, 0), Shape::new(64, 1, 1));
    let teacher = fold_batch_norms(&residual(stream, "block", input, 64)).unwrap();
    let student = shrink(&teacher, Width::new(0.9).unwrap()).unwrap();
    let node = solvable(&student, &teacher).unwrap().student;
    let [seen, fresh] = [128, 512].map(|count| stream.images(count, input));
    let error = |ridge| error_at(&solved_with(ridge, &teacher, &student, node, &seen), &teacher, node, &fresh);
    let (chosen, errors) = (error(Ridge::HeldOut), Ridge::STRENGTHS.map(|strength| error(Ridge::Strength(strength))));
    let [weakest, .., strongest] = errors;
    let best = errors.into_iter().fold(f64::INFINITY, f64::min);
    assert!(chosen < 1.05 * best && weakest.max(strongest) > 1.2 * best, "chosen {chosen}, of {errors:?}");
}

#[test]
fn nothing_to_solve_where_nothing_was_shrunk() {
    let stream = &mut Stream::new(1, Purpose::Images, 0);
    let block = residual(stream, "block", INPUT, 4);
    let folded = fold_batch_norms(&block).unwrap();
    assert_eq!(solvable(&folded, &folded), None);
    // Without a bias there is no unknown for the constant term.
    assert_eq!(solvable(&shrink(&block, Width::new(0.5).unwrap()).unwrap(), &block), None);
}

#[test]
fn activations_that_are_not_finite_leave_the_pruned_weights() {
    let (teacher, ..) = redundant_teacher(Conv::square(1, 1));
    let student = shrink(&teacher, Width::new(0.5).unwrap()).unwrap();
    let values = vec![f32::NAN; 4 * INPUT.elements()];
    assert_eq!(solved(&teacher, &student, 2, &values), student);
}
