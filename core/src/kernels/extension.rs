//! The kernels behind Burn's tensors: operators with their own backward passes on the `flex` device.

use alloc::{vec, vec::Vec};

use burn::{
    backend::{
        Autodiff, Backend, Dispatch, Flex, TensorData, TensorMetadata,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        backend_extension,
        flex::FlexTensor,
        tensor::FloatTensor,
    },
    tensor::{Tensor, ops::ConvOptions},
};

use super::{conv, elementwise, planes::Geometry};
use crate::block::Conv;

/// `relu(conv2d(input, kernel) + bias)`, or without the ReLU.
///
/// # Shapes
/// - input `[N, C_in, H, W]`
/// - kernel `[C_out, C_in / groups, K_h, K_w]`, bias `[C_out]`
/// - output `[N, C_out, H', W']`
pub fn conv2d(input: Tensor<4>, kernel: Tensor<4>, bias: Tensor<1>, conv: Conv, relu: bool) -> Tensor<4> {
    let (input, kernel, bias) = (input.into_dispatch(), kernel.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as BlockOps>::fused_conv(input, kernel, bias, conv, relu))
}

/// `relu(a + b)`.
///
/// # Shapes
/// - a, b and output `[N, C, H, W]`
pub fn add_relu(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as BlockOps>::fused_add_relu(a.into_dispatch(), b.into_dispatch()))
}

/// Mean over all elements of `(output − target)²`; the target must not be tracked.
///
/// # Shapes
/// - output and target `[N, C, H, W]`
/// - result `[1]`
pub fn mean_squared_error(output: Tensor<4>, target: Tensor<4>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as BlockOps>::fused_squared_error(output.into_dispatch(), target.into_dispatch()))
}

/// The fused operators on every device this crate is built for.
#[backend_extension(Flex, Autodiff, NdArray: cfg(feature = "ndarray"), Cube: cfg(feature = "wgpu"))]
pub trait BlockOps: Backend {
    /// See [`conv2d`]; here of Burn's own operators, for devices without kernels of ours.
    fn fused_conv(
        input: FloatTensor<Self>,
        kernel: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        conv: Conv,
        relu: bool,
    ) -> FloatTensor<Self> {
        let [stride, padding, groups] = [conv.stride, conv.padding, conv.groups].map(usize::from);
        let options = ConvOptions::new([stride; 2], [padding; 2], [1; 2], groups);
        let output = Self::conv2d(input, kernel, Some(bias), options);
        if relu { Self::relu(output) } else { output }
    }

    /// See [`add_relu`].
    fn fused_add_relu(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::relu(Self::float_add(a, b))
    }

    /// See [`mean_squared_error`].
    fn fused_squared_error(output: FloatTensor<Self>, target: FloatTensor<Self>) -> FloatTensor<Self> {
        let difference = Self::float_sub(output, target);
        Self::float_mean(Self::float_mul(difference.clone(), difference))
    }
}

impl BlockOps for Flex {
    fn fused_conv(input: FlexTensor, kernel: FlexTensor, bias: FlexTensor, conv: Conv, relu: bool) -> FlexTensor {
        let (input, kernel, bias) = (input.to_contiguous(), kernel.to_contiguous(), bias.to_contiguous());
        let geometry = geometry(&input, &kernel, &conv);
        let output = conv::forward(&geometry, values(&input), values(&kernel), values(&bias), relu);
        tensor(output, input.shape()[0], geometry.output)
    }

    fn fused_add_relu(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        let (a, b) = (a.to_contiguous(), b.to_contiguous());
        like(&a, elementwise::add_relu(values(&a), values(&b)))
    }

    fn fused_squared_error(output: FlexTensor, target: FlexTensor) -> FlexTensor {
        let (output, target) = (output.to_contiguous(), target.to_contiguous());
        let error = elementwise::mean_squared_error(values(&output), values(&target));
        FlexTensor::from_data(TensorData::new(vec![error], [1]))
    }
}

#[cfg(feature = "ndarray")]
mod ndarray {
    use burn::backend::{Autodiff, NdArray, autodiff::checkpoint::strategy::CheckpointStrategy};

    impl super::BlockOps for NdArray {}
    impl<C: CheckpointStrategy> super::BlockOps for Autodiff<NdArray, C> {}
}

#[cfg(feature = "wgpu")]
mod wgpu {
    use burn::backend::{Autodiff, Wgpu, autodiff::checkpoint::strategy::CheckpointStrategy};

    impl super::BlockOps for Wgpu {}
    impl<C: CheckpointStrategy> super::BlockOps for Autodiff<Wgpu, C> {}
}

/// What the backward pass needs of the forward one.
#[derive(Clone, Debug)]
struct Saved {
    geometry: Geometry,
    input: FlexTensor,
    kernel: FlexTensor,
    /// Where a ReLU follows.
    output: Option<FlexTensor>,
}

#[derive(Debug)]
struct ConvBackward;

impl Backward<Flex, 3> for ConvBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [input_node, kernel_node, bias_node] = ops.parents;
        let Saved { geometry, input, kernel, output } = ops.state;
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let output = output.as_ref().map(values);
        let images = input.shape()[0];
        if let Some(node) = input_node {
            let by_input = conv::input_gradient(&geometry, values(&kernel), values(&gradient), output);
            gradients.register::<Flex>(node.id, tensor(by_input, images, geometry.input));
        }
        if kernel_node.is_none() && bias_node.is_none() {
            return;
        }
        let (by_kernel, by_bias) = conv::weight_gradient(&geometry, values(&input), values(&gradient), output);
        if let Some(node) = kernel_node {
            let by_kernel = TensorData::new(by_kernel, kernel.shape());
            gradients.register::<Flex>(node.id, FlexTensor::from_data(by_kernel));
        }
        if let Some(node) = bias_node {
            let by_bias = TensorData::new(by_bias, [geometry.output[0]]);
            gradients.register::<Flex>(node.id, FlexTensor::from_data(by_bias));
        }
    }
}

#[derive(Debug)]
struct AddReluBackward;

impl Backward<Flex, 2> for AddReluBackward {
    /// The output.
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let masked = like(&gradient, elementwise::masked(values(&gradient), values(&ops.state)));
        for node in ops.parents.into_iter().flatten() {
            gradients.register::<Flex>(node.id, masked.clone());
        }
    }
}

#[derive(Debug)]
struct SquaredErrorBackward;

impl Backward<Flex, 1> for SquaredErrorBackward {
    /// Output and target.
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let (output, target) = ops.state;
        let scale = 2.0 * values(&gradient)[0] / values(&output).len() as f32;
        let by_output = elementwise::scaled_difference(values(&output), values(&target), scale);
        if let [Some(node)] = ops.parents {
            gradients.register::<Flex>(node.id, like(&output, by_output));
        }
    }
}

impl<C: CheckpointStrategy> BlockOps for Autodiff<Flex, C> {
    fn fused_conv(
        input: FloatTensor<Self>,
        kernel: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        conv: Conv,
        relu: bool,
    ) -> FloatTensor<Self> {
        let nodes = [input.node(), kernel.node(), bias.node()];
        let [input, kernel, bias] = [input, kernel, bias].map(|tensor| tensor.into_primitive().to_contiguous());
        let geometry = geometry(&input, &kernel, &conv);
        let output = Flex::fused_conv(input.clone(), kernel.clone(), bias, conv, relu);
        match ConvBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let saved = Saved { geometry, input, kernel, output: relu.then(|| output.clone()) };
                prep.finish(saved, output)
            }
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn fused_add_relu(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [a.node(), b.node()];
        let output = Flex::fused_add_relu(a.into_primitive(), b.into_primitive());
        match AddReluBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(output.clone(), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn fused_squared_error(output: FloatTensor<Self>, target: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [output.node()];
        let [output, target] = [output, target].map(|tensor| tensor.into_primitive().to_contiguous());
        let error = Flex::fused_squared_error(output.clone(), target.clone());
        match SquaredErrorBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((output, target), error),
            OpsKind::UnTracked(prep) => prep.finish(error),
        }
    }
}

fn geometry(input: &FlexTensor, kernel: &FlexTensor, conv: &Conv) -> Geometry {
    let [_, channels, height, width] = input.shape().dims();
    let [outputs, _, rows, columns] = kernel.shape().dims();
    Geometry::new([channels, height, width], [outputs, rows, columns], conv)
}

/// The values of a contiguous tensor.
fn values(tensor: &FlexTensor) -> &[f32] {
    let start = tensor.layout().start_offset();
    &tensor.storage::<f32>()[start..start + tensor.layout().num_elements()]
}

fn tensor(values: Vec<f32>, images: usize, [channels, height, width]: [usize; 3]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, [images, channels, height, width]))
}

/// A tensor of the same shape.
fn like(tensor: &FlexTensor, values: Vec<f32>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, tensor.shape()))
}
