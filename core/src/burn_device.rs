//! Blocks on one of Burn's devices, with Burn's operators and automatic differentiation.

use alloc::{vec, vec::Vec};

use burn::tensor::{Device, Tensor, TensorData, activation, module, ops::ConvOptions, s};

use crate::{
    block::{Block, Conv, Op},
    device::Statistics,
    images::Images,
};

/// A block up to one of its values, its weights on a device, each as a flat tensor.
#[derive(Clone, Debug)]
pub struct BurnBlock {
    block: Block,
    value: usize,
    weights: Vec<Tensor<1>>,
    device: Device,
}

impl BurnBlock {
    /// What computes value `value`, with a copy of the block's weights on `device`.
    pub fn new(block: &Block, value: usize, device: &Device) -> Self {
        let weights = block.weights().iter().map(|weight| Tensor::from_data(weight.data.as_slice(), device)).collect();
        Self { block: block.clone(), value, weights, device: device.clone() }
    }

    /// The value of a batch.
    pub fn forward(&self, input: &Images, statistics: Statistics, output: &mut Images) {
        let input = upload(input, &self.device);
        let values = download(forward(&self.block, self.value, &self.weights, input, statistics));
        *output = Images::from_values(&values, self.block.shape(self.value));
    }
}

/// Gradients by automatic differentiation.
#[derive(Debug)]
pub struct BurnGradients {
    device: Device,
}

impl BurnGradients {
    /// On `device`.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone().autodiff() }
    }

    /// Adds `share` of the gradients of the mean squared error per element by `weights`, both in the block's order; returns
    /// that share of the error.
    pub fn add(
        &self,
        student: &Block,
        weights: &[Vec<f32>],
        (input, target, share): (&Images, &Images, f32),
        gradients: &mut [Vec<f32>],
    ) -> f32 {
        let leaf = |(index, values): (usize, &Vec<f32>)| -> Tensor<1> {
            let tensor = Tensor::from_data(values.as_slice(), &self.device);
            if student.is_trained(index) { tensor.require_grad() } else { tensor }
        };
        let leaves: Vec<Tensor<1>> = weights.iter().enumerate().map(leaf).collect();
        let input = upload(input, &self.device);
        let output = forward(student, student.nodes().len(), &leaves, input, Statistics::Running);
        let loss = (output - upload(target, &self.device)).square().mean();
        let mut found = loss.backward();
        for (leaf, gradient) in leaves.iter().zip(gradients) {
            if let Some(values) = leaf.grad_remove(&mut found) {
                gradient.iter_mut().zip(download(values)).for_each(|(sum, value)| *sum += share * value);
            }
        }
        let error: f32 = loss.into_scalar();
        share * error
    }
}

/// Value `last` of a pass. A value is freed after its last reader.
fn forward(block: &Block, last: usize, weights: &[Tensor<1>], input: Tensor<4>, statistics: Statistics) -> Tensor<4> {
    let nodes = &block.nodes()[..last];
    let mut values: Vec<Option<Tensor<4>>> = vec![Some(input)];
    for (index, node) in nodes.iter().enumerate() {
        let read_again = |value: u8| nodes[index + 1..].iter().any(|later| later.inputs.contains(&value));
        let inputs: Vec<Tensor<4>> = node
            .inputs
            .iter()
            .map(|&value| {
                values[usize::from(value)].clone().expect("a block's values are computed before they are read")
            })
            .collect();
        node.inputs.iter().filter(|&&value| !read_again(value)).for_each(|&value| values[usize::from(value)] = None);
        values.push(Some(apply(block, index, weights, inputs, statistics)));
    }
    values.pop().flatten().expect("the last value was just computed")
}

fn apply(
    block: &Block,
    index: usize,
    weights: &[Tensor<1>],
    mut inputs: Vec<Tensor<4>>,
    statistics: Statistics,
) -> Tensor<4> {
    let node = &block.nodes()[index];
    let weight = |slot: usize| node.weights.get(slot).map(|&weight| weights[usize::from(weight)].clone());
    let x = inputs.swap_remove(0);
    let [n, c, h, w] = x.dims();
    match &node.op {
        Op::Conv(Conv { stride, padding, groups }) => {
            let [stride, padding, groups] = [*stride, *padding, *groups].map(usize::from);
            let dims = &block.weight(index, 0).expect("a convolution has a kernel").dims;
            let kernel = weight(0).map(|kernel| kernel.reshape([0, 1, 2, 3].map(|d| dims[d] as usize)));
            let options = ConvOptions::new([stride; 2], [padding; 2], [1; 2], groups);
            module::conv2d(x, kernel.expect("a convolution has a kernel"), weight(1), options)
        }
        Op::BatchNorm { epsilon } => {
            let statistic = |slot: usize| weight(slot).expect("a batch norm has four weights");
            let (mean, variance) = match statistics {
                Statistics::Running => (statistic(2), statistic(3)),
                Statistics::Current => {
                    let rows = x.clone().swap_dims(0, 1).reshape([c, n * h * w]);
                    let mean = rows.clone().mean_dim(1);
                    let variance = (rows - mean.clone()).square().mean_dim(1);
                    (mean.reshape([c]), variance.reshape([c]))
                }
            };
            let gain = statistic(0) / (variance + *epsilon).sqrt();
            let offset = statistic(1) - mean * gain.clone();
            x * gain.reshape([1, c, 1, 1]) + offset.reshape([1, c, 1, 1])
        }
        Op::Relu => activation::relu(x),
        Op::Add => x + inputs.swap_remove(0),
        Op::Subsample { stride } => {
            let stride = isize::try_from(*stride).expect("a stride fits");
            x.slice(s![.., .., ..;stride, ..;stride])
        }
        Op::PadChannels { before, after } => {
            let zeros = |channels: u16| Tensor::zeros([n, usize::from(channels), h, w], &x.device());
            let parts = [(*before > 0).then(|| zeros(*before)), Some(x.clone()), (*after > 0).then(|| zeros(*after))];
            Tensor::cat(parts.into_iter().flatten().collect(), 1)
        }
        Op::GlobalAveragePool => module::adaptive_avg_pool2d(x, [1, 1]),
        Op::Linear => {
            let out = block.shape(index + 1).channels;
            let [matrix, bias] = [0, 1].map(|slot| weight(slot).expect("a linear layer has two weights"));
            let y = x.reshape([n, c]).matmul(matrix.reshape([out, c]).transpose()) + bias.reshape([1, out]);
            y.reshape([n, out, 1, 1])
        }
    }
}

fn upload(images: &Images, device: &Device) -> Tensor<4> {
    let shape = images.shape();
    let dims = [images.len(), shape.channels, shape.height, shape.width];
    Tensor::from_data(TensorData::new(images.to_values(), dims), device)
}

/// The values of a tensor, row by row.
fn download<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("tensors of this crate are f32")
}
