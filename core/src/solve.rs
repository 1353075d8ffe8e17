//! The best last convolution in closed form: ridge regression on a block's hidden activations.
//!
//! Inside a residual block the last convolution is linear in the activations `h` it reads. With
//! `u` the patches of `h` (im2col) with a 1 appended and `y` the teacher's value at the same
//! node, the weights that minimise `E‖W u − y‖² + λ‖W‖²` solve `(G + λI) Wᵀ = C` with
//! `G = E[u uᵀ]` and `C = E[u yᵀ]`. One pass over the inputs, no gradient step.

use alloc::{vec, vec::Vec};

use burn::tensor::Tensor;
use nalgebra::{Cholesky, DMatrix};

use crate::{
    block::{Block, BlockError, Conv, Op},
    forward::{DeviceBlock, Statistics},
    kernels::normal_products,
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
    /// `Σ u uᵀ`, row by row, and `Σ u`, of the patches without the appended 1.
    patches: (Vec<f64>, Vec<f64>),
    /// `Σ y uᵀ` and `Σ y`.
    targets: (Vec<f64>, Vec<f64>),
    rows: usize,
}

impl NormalEquations {
    /// Empty sums for convolution `node` of `student`.
    ///
    /// # Panics
    /// If the node is no convolution; [`solvable_node`] names one that is.
    pub fn new(student: &Block, node: usize) -> Self {
        let dims = &student.weight(node, 0).expect("a solvable node is a convolution").dims;
        let (outputs, features) = (dims[0] as usize, dims[1..].iter().map(|&d| d as usize).product::<usize>());
        let sums = |rows: usize| (vec![0.0; rows * features], vec![0.0; rows]);
        Self { node, patches: sums(features), targets: sums(outputs), rows: 0 }
    }

    /// Adds one batch of block inputs. `teacher` and `student` are folded, so their nodes correspond.
    pub fn add(&mut self, teacher: &DeviceBlock<'_>, student: &DeviceBlock<'_>, input: Tensor<4>) {
        let (node, block) = (self.node, student.block());
        let Op::Conv(conv) = &block.nodes()[node].op else { return };
        let Some(&[_, _, rows, columns]) = block.weight(node, 0).map(|kernel| kernel.dims.as_slice()) else { return };
        let [target] = teacher.values(input.clone(), Statistics::Running, [node + 1]);
        let [hidden] = student.values(input, Statistics::Running, [usize::from(block.nodes()[node].inputs[0])]);
        let [images, _, height, width] = target.dims();
        self.rows += images * height * width;
        let sums = normal_products(hidden, target, [rows as usize, columns as usize], conv);
        let totals = [&mut self.patches, &mut self.targets];
        for (totals, sums) in totals.into_iter().zip(sums) {
            for (totals, sums) in [(&mut totals.0, sums.0), (&mut totals.1, sums.1)] {
                totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += f64::from(sum));
            }
        }
    }

    /// The student with the convolution replaced by the solution.
    ///
    /// Returns the student unchanged if the Gram matrix is not positive definite even with the
    /// ridge, which only non-finite activations cause.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn solve(self, student: &Block) -> Result<Block, BlockError> {
        // The patches' appended 1 is the last feature.
        let (ones, out) = (self.patches.1.len(), self.targets.1.len());
        let features = ones + 1;
        let scale = 1.0 / self.rows.max(1) as f64;
        let mut gram = DMatrix::from_fn(features, features, |i, j| match (i == ones, j == ones) {
            (false, false) => self.patches.0[i * ones + j] * scale,
            (true, true) => 1.0,
            _ => self.patches.1[i.min(j)] * scale,
        });
        let cross = DMatrix::from_fn(features, out, |i, o| {
            scale * if i == ones { self.targets.1[o] } else { self.targets.0[o * ones + i] }
        });
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
