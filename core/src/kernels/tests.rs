//! Checks that all instruction sets, and plain Rust, differ only by rounding; other tests check that they are right.

use alloc::{vec, vec::Vec};

use super::{
    conv::{Convolution, InputGradient, WeightGradient},
    correlate::Initial,
    elementwise::squared_error,
    instructions::Arch,
    norm::{Moments, moments},
    plane::{LANES, Lanes, Plane},
};
use crate::{
    kernels::conv::Conv,
    stream::{Purpose, Stream},
    tensor::Shape,
};

/// All instruction sets, the portable one first.
fn instruction_sets() -> Vec<Arch> {
    let mut sets = vec![Arch::Scalar, Arch::new()];
    #[cfg(target_arch = "x86_64")]
    sets.extend(pulp::x86::V3::try_new().map(Arch::V3));
    sets
}

/// Noise inside a border of zeros.
fn noise(plane: Plane, stream: &mut Stream) -> Vec<Lanes> {
    let mut values = vec![Lanes::ZERO; plane.len()];
    for row in plane.rows() {
        values[row..row + plane.shape.width].iter_mut().for_each(|x| stream.fill(&mut x.0));
    }
    values
}

/// Output, input gradient, weight gradient, squared error and moments of one group of images.
fn passes(arch: Arch, conv: Conv, extent: usize, input: Shape, outputs: usize) -> Vec<f32> {
    let stream = &mut Stream::new(1, Purpose::Images, 0);
    let [stride, padding, groups] = [conv.stride[0], conv.padding[0], conv.groups].map(usize::from);
    let size = |length: usize| (length + 2 * padding - extent) / stride + 1;
    let shape = Shape::new(outputs, size(input.height), size(input.width));
    let from = Plane { shape: input, border: padding };
    let to = Plane { shape, border: InputGradient::border(conv, [extent; 2], input, shape) };
    let convolution = Convolution::new(conv, [extent; 2], from, to);
    let mut kernel = vec![0.0; outputs * input.channels / groups * extent * extent];
    stream.fill(&mut kernel);
    let mut packed = convolution.packed();
    convolution.pack(&kernel, &mut packed);
    let (source, gradient) = (noise(from, stream), noise(to, stream));
    let bias: Vec<f32> = (0..outputs).map(|output| output as f32).collect();
    let mut output = vec![Lanes::ZERO; to.len()];
    convolution.forward(arch, &source, &packed, Initial::Bias(&bias), Some([0.0, f32::INFINITY]), &mut output);
    let mut by_input = InputGradient::new(&convolution, to, from);
    by_input.pack(&convolution, &kernel);
    let mut slope = vec![Lanes::ZERO; from.len()];
    by_input.run(arch, &gradient, false, &mut slope);
    by_input.run(arch, &gradient, true, &mut slope);
    let mut sums = vec![0.0; convolution.weights()];
    WeightGradient::new(&convolution, to).run(arch, &source, &gradient, &mut sums);
    let flat = Plane { shape, border: 0 };
    let (target, mut difference) = (noise(flat, stream), vec![Lanes::ZERO; flat.len()]);
    let mut error = |add| squared_error(arch, (&output, to), &target, (&mut difference, flat), 0.5, add);
    let error = error(false) + error(true);
    let mut found = vec![Moments::default(); outputs];
    moments(arch, (&output, to), LANES - 3, &mut found);
    let lanes = [output, slope, difference].concat().into_iter().flat_map(|x| x.0);
    let moments = found.iter().flat_map(|moments| [moments.mean as f32, moments.variance() as f32]);
    lanes.chain(sums).chain([error as f32]).chain(moments).collect()
}

#[test]
fn instruction_sets_differ_by_rounding_only() {
    let conv = |stride, padding, groups| Conv::square(stride, padding).grouped(groups);
    let cases = [
        (conv(1, 1, 1), 3, Shape::new(8, 8, 8), 12),
        (conv(1, 1, 1), 3, Shape::new(3, 5, 7), 5),
        (conv(2, 1, 1), 3, Shape::new(4, 9, 8), 6),
        (conv(1, 1, 6), 3, Shape::new(6, 6, 5), 6),
        (conv(2, 0, 1), 1, Shape::new(5, 7, 6), 3),
        (conv(3, 2, 2), 4, Shape::new(4, 9, 10), 4),
    ];
    for (conv, extent, input, outputs) in cases {
        let mut all = instruction_sets().into_iter().map(|arch| (arch, passes(arch, conv, extent, input, outputs)));
        let (_, portable) = all.next().expect("there is the portable one");
        for (arch, found) in all {
            assert_eq!(found.len(), portable.len());
            for (index, (found, expected)) in found.iter().zip(&portable).enumerate() {
                // Sums of up to a thousand products near 1.
                let allowed = 1e-4 * expected.abs().max(10.0);
                assert!((found - expected).abs() <= allowed, "{arch:?} {conv:?}, {index}: {found}, {expected}");
            }
        }
    }
}
