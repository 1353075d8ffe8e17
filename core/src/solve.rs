//! The best last convolution in closed form: ridge regression on a block's hidden activations.
//!
//! Inside a residual block the last convolution is linear in the activations `h` it reads. With
//! `u` the patches of `h` (im2col) with a 1 appended and `y` the teacher's value at the same
//! node, the weights that minimise `E‖W u − y‖² + λ‖W‖²` solve `(G + λI) Wᵀ = C` with
//! `G = E[u uᵀ]` and `C = E[u yᵀ]`. One pass over the inputs, no gradient step.

use alloc::vec::Vec;

use burn::tensor::{Device, Tensor, s};
use nalgebra::{Cholesky, DMatrix};

use crate::{
    block::{Block, BlockError, Conv, Op},
    forward::{DeviceBlock, Statistics, host_values},
};

/// Ridge strength relative to the mean of the Gram matrix's diagonal; our probe's choice, flat from 1e-5 to 1e-3.
pub const RIDGE: f64 = 1e-4;

/// The convolution a solve replaces: the last dense one whose output has the teacher's channels.
/// `None` where there is none, or where nothing before it was shrunk.
pub fn solvable_node(student: &Block, teacher: &Block) -> Option<usize> {
    student.nodes().iter().enumerate().rposition(|(index, node)| {
        matches!(node.op, Op::Conv(Conv { groups: 1, .. }))
            && student.weight(index, 1).is_some()
            && student.shape(index + 1) == teacher.shape(index + 1)
            && student.shape(usize::from(node.inputs[0])) != teacher.shape(usize::from(node.inputs[0]))
    })
}

/// Gram matrix and cross products of one convolution, gathered batch by batch.
#[derive(Debug)]
pub struct NormalEquations {
    node: usize,
    gram: Tensor<2>,
    cross: Tensor<2>,
    rows: usize,
}

impl NormalEquations {
    /// Empty sums for convolution `node` of `student`: `K = C_in·K_h·K_w + 1` by `K`, and `K` by `C_out`.
    pub fn new(student: &Block, node: usize, device: &Device) -> Self {
        let dims = student.weight(node, 0).map_or(&[][..], |kernel| &kernel.dims);
        let features = dims[1..].iter().map(|&d| d as usize).product::<usize>() + 1;
        Self {
            node,
            gram: Tensor::zeros([features, features], device),
            cross: Tensor::zeros([features, dims[0] as usize], device),
            rows: 0,
        }
    }

    /// Adds one batch of block inputs. `teacher` and `student` are folded, so their nodes correspond.
    pub fn add(&mut self, teacher: &DeviceBlock<'_>, student: &DeviceBlock<'_>, input: Tensor<4>) {
        let node = self.node;
        let hidden = usize::from(student.block().nodes()[node].inputs[0]);
        let [target] = teacher.values(input.clone(), Statistics::Running, [node + 1]);
        let [hidden] = student.values(input, Statistics::Running, [hidden]);
        let Op::Conv(conv) = &student.block().nodes()[node].op else { return };
        let kernel = &student.block().weights()[usize::from(student.block().nodes()[node].weights[0])].dims;
        let patches = patches(hidden, [kernel[2] as usize, kernel[3] as usize], conv);
        let [n, out, h, w] = target.dims();
        let target = target.swap_dims(0, 1).reshape([out, n * h * w]);
        self.rows += n * h * w;
        self.gram = self.gram.clone() + patches.clone().matmul(patches.clone().transpose());
        self.cross = self.cross.clone() + patches.matmul(target.transpose());
    }

    /// The student with the convolution replaced by the solution.
    ///
    /// Returns the student unchanged if the Gram matrix is not positive definite even with the
    /// ridge, which only non-finite activations cause.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn solve(self, student: &Block) -> Result<Block, BlockError> {
        let [features, out] = self.cross.dims();
        let scale = 1.0 / self.rows.max(1) as f64;
        let widen = |tensor: Tensor<2>| host_values(tensor).into_iter().map(move |v| f64::from(v) * scale);
        let mut gram = DMatrix::from_row_iterator(features, features, widen(self.gram));
        let cross = DMatrix::from_row_iterator(features, out, widen(self.cross));
        let ridge = RIDGE * gram.diagonal().mean();
        (0..features).for_each(|i| gram[(i, i)] += ridge);
        let Some(factor) = Cholesky::new(gram) else {
            log::warn!("{}: the solve met activations that are not finite; kept the pruned weights", student.name());
            return Ok(student.clone());
        };
        let solution = factor.solve(&cross);
        // Column-major: each output channel's weights lie together, its bias last.
        let mut kernel = Vec::with_capacity((features - 1) * out);
        let mut bias = Vec::with_capacity(out);
        for column in solution.as_slice().chunks_exact(features) {
            kernel.extend(column[..features - 1].iter().map(|&w| w as f32));
            bias.push(column[features - 1] as f32);
        }
        let mut weights = student.weights().to_vec();
        for (&index, data) in student.nodes()[self.node].weights.iter().zip([kernel, bias]) {
            weights[usize::from(index)].data = data;
        }
        student.with_weights(weights)
    }
}

/// im2col: `[C·K_h·K_w + 1, N·H'·W']`, the last row all ones.
fn patches(x: Tensor<4>, [kernel_h, kernel_w]: [usize; 2], conv: &Conv) -> Tensor<2> {
    let [n, c, h, w] = x.dims();
    let (padding, stride) = (usize::from(conv.padding), usize::from(conv.stride));
    let (out_h, out_w) = ((h + 2 * padding - kernel_h) / stride + 1, (w + 2 * padding - kernel_w) / stride + 1);
    let x = x.swap_dims(0, 1).pad((padding, padding, padding, padding), 0.0);
    let step = stride as isize;
    let mut taps = Vec::with_capacity(kernel_h * kernel_w);
    for top in 0..kernel_h {
        for left in 0..kernel_w {
            let (bottom, right) = (top + (out_h - 1) * stride + 1, left + (out_w - 1) * stride + 1);
            taps.push(x.clone().slice(s![.., .., top..bottom;step, left..right;step]));
        }
    }
    let columns = n * out_h * out_w;
    let stacked: Tensor<5> = Tensor::stack(taps, 1);
    let stacked = stacked.reshape([c * kernel_h * kernel_w, columns]);
    let ones = Tensor::ones([1, columns], &stacked.device());
    Tensor::cat([stacked, ones].into(), 0)
}
