//! Batches, blocks and training on Burn's devices, with Burn's operators and automatic differentiation.

mod cache;
mod trainer;

use alloc::{vec, vec::Vec};
use core::convert::Infallible;

use burn::tensor::{Device, Tensor, TensorData};

pub use self::{cache::BurnCache, trainer::BurnTrainer};
use crate::{
    block::{Block, Statistics, op::burn::BurnOperands},
    engine::{Difference, cpu::Groups},
    tensor::Shape,
};

/// A batch `[N, C, H, W]` on a Burn device.
#[derive(Clone, Debug)]
pub struct BurnBatch {
    shape: Shape,
    device: Device,
    /// `None` if the batch has no images.
    values: Option<Tensor<4>>,
}

impl BurnBatch {
    /// An empty batch.
    pub fn new(shape: Shape, device: &Device) -> Self {
        Self { shape, device: device.clone(), values: None }
    }

    fn of(values: Tensor<4>) -> Self {
        let [_, c, h, w] = values.dims();
        Self { shape: Shape::new(c, h, w), device: values.device(), values: Some(values) }
    }

    pub fn device(&self) -> Device {
        self.device.clone()
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn len(&self) -> usize {
        self.values.as_ref().map_or(0, |values| values.dims()[0])
    }

    /// See [`Batch::fill_in_order`](crate::engine::Batch::fill_in_order): one upload.
    pub fn fill_in_order<E>(
        &mut self,
        shape: Shape,
        count: usize,
        mut source: impl FnMut(usize, usize, &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut values = vec![0.0; count * shape.elements()];
        let mut images = values.chunks_exact_mut(shape.elements()).enumerate();
        images.try_for_each(|(image, values)| source(image, 0, values))?;
        self.shape = shape;
        self.values = (count > 0).then(|| upload(values, shape, &self.device));
        Ok(())
    }

    /// See [`Batch::fill`](crate::engine::Batch::fill).
    pub fn fill(&mut self, shape: Shape, count: usize, source: impl Fn(usize, usize, &mut [f32]) + Sync) {
        let Ok(()) = self.fill_in_order(shape, count, |image, offset, chunk| {
            source(image, offset, chunk);
            Ok::<(), Infallible>(())
        });
    }

    /// The images in the CPU's layout.
    pub fn download(&self) -> Groups {
        let mut groups = Groups::zeros(self.shape, self.len());
        if let Some(values) = &self.values {
            let (values, elements) = (download(values.clone()), self.shape.elements());
            groups.fill(self.shape, self.len(), |image, offset, chunk| {
                chunk.copy_from_slice(&values[image * elements + offset..][..chunk.len()]);
            });
        }
        groups
    }

    /// The values as a tensor.
    ///
    /// # Panics
    /// If the batch has no images.
    fn tensor(&self) -> Tensor<4> {
        self.values.clone().expect("a batch that is computed with has images")
    }

    pub fn subtract(&mut self, others: &Self) {
        self.values = Some(self.tensor() - others.tensor());
    }

    pub fn add_difference(&self, target: &Self, sums: &mut Difference) {
        if self.values.is_some() {
            sums.error += squares(self.tensor() - target.tensor());
            sums.energy += target.energy();
        }
    }

    pub fn energy(&self) -> f64 {
        self.values.clone().map_or(0.0, squares)
    }
}

/// The sum of squares, copied to the host.
fn squares(values: Tensor<4>) -> f64 {
    f64::from(values.square().sum().into_scalar::<f32>())
}

/// A block up to one of its values, with each weight as a flat tensor on a device.
#[derive(Clone, Debug)]
pub struct BurnBlock {
    /// Graph and shapes.
    block: Block,
    value: usize,
    weights: Vec<Tensor<1>>,
    device: Device,
}

impl BurnBlock {
    /// Prepares the nodes up to value `value` and copies the block's weights to `device`.
    pub fn new(block: &Block, value: usize, device: &Device) -> Self {
        Self { block: block.clone(), value, weights: weights_of(block, device), device: device.clone() }
    }

    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// Computes the block's value for a batch.
    pub fn forward(&self, input: &BurnBatch, statistics: Statistics) -> BurnBatch {
        BurnBatch::of(self.pass(input.tensor(), statistics))
    }

    fn pass(&self, input: Tensor<4>, statistics: Statistics) -> Tensor<4> {
        forward(&self.block, self.value, &self.weights, input, statistics, &mut |_, _| {})
    }
}

fn weights_of(block: &Block, device: &Device) -> Vec<Tensor<1>> {
    block.weights().iter().map(|weight| Tensor::from_data(weight.data.as_slice(), device)).collect()
}

/// Computes value `last`, freeing values after their last reader. `observe` receives each node's index and first input.
fn forward(
    block: &Block,
    last: usize,
    weights: &[Tensor<1>],
    input: Tensor<4>,
    statistics: Statistics,
    observe: &mut dyn FnMut(usize, &Tensor<4>),
) -> Tensor<4> {
    let nodes = &block.nodes()[..last];
    let mut values: Vec<Option<Tensor<4>>> = vec![Some(input)];
    for (index, node) in nodes.iter().enumerate() {
        let read_again = |value: u8| nodes[index + 1..].iter().any(|later| later.inputs.contains(&value));
        let value = |&value: &u8| values[usize::from(value)].clone().expect("values are computed before they are read");
        let inputs: Vec<Tensor<4>> = node.inputs.iter().map(value).collect();
        node.inputs.iter().filter(|&&value| !read_again(value)).for_each(|&value| values[usize::from(value)] = None);
        observe(index, &inputs[0]);
        let weights = node.weights.iter().map(|&weight| weights[usize::from(weight)].clone()).collect();
        let dims = block.weights_of(index).into_iter().map(|weight| weight.dims.clone()).collect();
        values.push(Some(node.op.operator().on_burn(BurnOperands { inputs, weights, dims, statistics })));
    }
    values.pop().flatten().expect("the last value was just computed")
}

fn upload(values: Vec<f32>, shape: Shape, device: &Device) -> Tensor<4> {
    let dims = [values.len() / shape.elements(), shape.channels, shape.height, shape.width];
    Tensor::from_data(TensorData::new(values, dims), device)
}

/// Copies a tensor to the host, in row-major order.
fn download<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("tensors of this crate are f32")
}
