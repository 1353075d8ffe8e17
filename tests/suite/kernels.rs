//! The convolution kernels against plain loops, over sizes, strides, paddings and groups.

use burn::tensor::{Device, Tensor, TensorData};
use distill_core::{
    Block, BlockBuilder, Conv, DeviceBlock, Op, Purpose, Role, Shape, Statistics, Stream, Weight, host_values, images,
};

use crate::{
    naive::{self, widen},
    small_network::gaussian,
};

/// Input, output channels, kernel extent and geometry.
type Case = (Shape, usize, usize, Conv);

fn cases() -> Vec<Case> {
    let conv = |stride, padding, groups| Conv { stride, padding, groups };
    let mut cases = vec![
        (Shape::new(16, 32, 32), 8, 3, conv(1, 1, 1)),
        (Shape::new(8, 16, 16), 16, 3, conv(2, 1, 1)),
        (Shape::new(6, 8, 8), 14, 3, conv(1, 1, 1)),
        (Shape::new(2, 20, 20), 3, 3, conv(1, 1, 1)),
        (Shape::new(5, 7, 9), 3, 1, conv(1, 0, 1)),
        (Shape::new(5, 7, 9), 3, 1, conv(2, 0, 1)),
        (Shape::new(3, 1, 1), 2, 3, conv(4, 2, 1)),
        (Shape::new(3, 2, 5), 2, 3, conv(1, 2, 1)),
        (Shape::new(10, 9, 6), 10, 3, conv(1, 1, 10)),
        (Shape::new(10, 9, 6), 10, 3, conv(2, 1, 10)),
        (Shape::new(4, 6, 6), 12, 3, conv(1, 1, 4)),
        (Shape::new(6, 6, 5), 9, 3, conv(2, 0, 3)),
    ];
    let sizes = (1..=6).flat_map(|kernel| (1..=4).map(move |stride| (kernel, stride)));
    cases.extend(sizes.map(|(kernel, stride)| (Shape::new(3, 8, 11), 5, kernel, conv(stride, (kernel / 2) as u16, 1))));
    cases
}

/// A block of one convolution.
fn block((input, outputs, extent, conv): Case, kernel: &[f32], bias: &[f32]) -> Block {
    let dims = [outputs, input.channels / usize::from(conv.groups), extent, extent];
    let weights = vec![Weight::new("kernel", &dims, kernel.to_vec()), Weight::new("bias", &[outputs], bias.to_vec())];
    let mut builder = BlockBuilder::new("block", Role::Neighbourhood, input);
    builder.push("conv", Op::Conv(conv), &[0], weights).unwrap();
    builder.finish().unwrap()
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A convolution is linear in its input, its kernel and its bias: with any direction `v` of one of them, the gradient
/// of `⟨output, g⟩` has the inner product with `v` that `g` has with the convolution of `v`.
fn check(case: Case) {
    let (input, outputs, extent, conv) = case;
    // Enough that a piece of the weights' gradient takes several batches, the last one not full.
    let count = if input.height == 20 { 37 } else { 5 };
    let stream = &mut Stream::new(3, Purpose::Images, 0);
    let mut random = |dims: &[usize]| gaussian(stream, "", dims).data;
    let dims = [outputs, input.channels / usize::from(conv.groups), extent, extent];
    let (kernel, bias, no_bias) = (random(&dims), random(&[outputs, 1]), vec![0.0; outputs]);
    let (x, v) = (random(&[count * input.elements(), 1]), random(&[count * input.elements(), 1]));
    let (kernel_direction, bias_direction) = (random(&dims), random(&[outputs, 1]));
    let here = block(case, &kernel, &bias);
    let g = random(&[count * here.output().elements(), 1]);

    let device = Device::flex().autodiff();
    let leaf = |values: &[f32]| Tensor::<1>::from_data(values, &device).require_grad();
    let (kernel_leaf, bias_leaf) = (leaf(&kernel), leaf(&bias));
    let x_leaf = images(x.clone(), input, &device).require_grad();
    let on_device = DeviceBlock::with_weights(&here, vec![kernel_leaf.clone(), bias_leaf.clone()]);
    let output = on_device.forward(x_leaf.clone(), Statistics::Running);
    let weighted = output.clone() * Tensor::from_data(TensorData::new(g.clone(), output.dims()), &device);
    let gradients = weighted.sum().backward();

    let found = widen(&host_values(output.inner()));
    let expected = naive::forward(&here, &widen(&x));
    let error = naive::relative_error(&found, &expected);
    assert!(error <= 1e-6, "{case:?}: output off by {error}");

    let scale = (inner(&expected, &expected) * inner(&widen(&g), &widen(&g))).sqrt().max(1e-3);
    let check = |what: &str, gradient: Vec<f32>, direction: &[f32], through: Vec<f64>| {
        let (found, expected) = (inner(&widen(&gradient), &widen(direction)), inner(&through, &widen(&g)));
        // f32 sums; a gradient that misses or misplaces one tap is off by > 1e-2.
        assert!((found - expected).abs() <= 1e-4 * scale, "{case:?}: gradient by {what} gives {found}, not {expected}");
    };
    let by_input = host_values(x_leaf.grad(&gradients).unwrap());
    check("input", by_input, &v, naive::forward(&block(case, &kernel, &no_bias), &widen(&v)));
    let by_kernel = host_values(kernel_leaf.grad(&gradients).unwrap());
    check(
        "kernel",
        by_kernel,
        &kernel_direction,
        naive::forward(&block(case, &kernel_direction, &no_bias), &widen(&x)),
    );
    let by_bias = host_values(bias_leaf.grad(&gradients).unwrap());
    let zero = vec![0.0; kernel.len()];
    check("bias", by_bias, &bias_direction, naive::forward(&block(case, &zero, &bias_direction), &widen(&x)));
}

#[test]
fn convolutions_compute_what_loops_compute_and_their_gradients_are_adjoint() {
    cases().into_iter().for_each(check);
}
