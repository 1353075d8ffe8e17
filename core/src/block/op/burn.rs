//! The operands of an operator on a Burn device.

use alloc::vec::Vec;

use burn::tensor::{Tensor, ops::PadMode};

use crate::{block::Statistics, tensor::Dims};

/// A value of a batch on a device.
pub type Tensor4 = Tensor<4>;

/// The operands of an operator on a device.
pub struct BurnOperands {
    /// Input values.
    pub inputs: Vec<Tensor<4>>,
    /// Weights, flattened.
    pub weights: Vec<Tensor<1>>,
    /// Extents of the weights.
    pub dims: Vec<Dims>,
    /// The statistics that batch norms use.
    pub statistics: Statistics,
}

impl BurnOperands {
    /// An input value.
    pub fn input(&self, which: usize) -> Tensor<4> {
        self.inputs[which].clone()
    }

    /// Weight `slot`, flattened; `None` if the operator has fewer weights.
    pub fn weight(&self, slot: usize) -> Option<Tensor<1>> {
        self.weights.get(slot).cloned()
    }

    /// Extents of weight `slot`.
    pub fn dims(&self, slot: usize) -> [usize; 4] {
        core::array::from_fn(|axis| self.dims[slot].get(axis).map_or(1, |&extent| extent as usize))
    }

    /// Weight `slot` as a convolution's kernel.
    pub fn kernel(&self, slot: usize) -> Tensor<4> {
        self.weights[slot].clone().reshape(self.dims(slot))
    }

    /// Weight `slot` as a matrix.
    pub fn matrix(&self, slot: usize) -> Tensor<2> {
        let [rows, columns, ..] = self.dims(slot);
        self.weights[slot].clone().reshape([rows, columns])
    }
}

/// Mean and variance of each channel.
pub fn moments(x: &Tensor<4>) -> [Tensor<1>; 2] {
    let [n, c, h, w] = x.dims();
    let rows = x.clone().swap_dims(0, 1).reshape([c, n * h * w]);
    let mean = rows.clone().mean_dim(1);
    let variance = (rows - mean.clone()).square().mean_dim(1);
    [mean, variance].map(|moment| moment.reshape([c]))
}

/// Pads a value with zeros: top, left, bottom and right.
pub fn padded(x: Tensor<4>, padding: [u16; 4]) -> Tensor<4> {
    let [top, left, bottom, right] = padding.map(usize::from);
    if padding == [0; 4] {
        return x;
    }
    x.pad([(0, 0), (0, 0), (top, bottom), (left, right)], PadMode::Constant(0.0))
}
