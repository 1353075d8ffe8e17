//! Blocks on one of Burn's devices, with Burn's operators and automatic differentiation.

use alloc::{vec, vec::Vec};

use burn::tensor::{Device, Tensor, TensorData};

use crate::{
    block::{Block, Statistics, op::burn::BurnOperands},
    engine::Images,
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
    inputs: Vec<Tensor<4>>,
    statistics: Statistics,
) -> Tensor<4> {
    let node = &block.nodes()[index];
    let weights = node.weights.iter().map(|&weight| weights[usize::from(weight)].clone()).collect();
    let dims = block.weights_of(index).into_iter().map(|weight| weight.dims.clone()).collect();
    node.op.operator().on_burn(BurnOperands { inputs, weights, dims, statistics })
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
