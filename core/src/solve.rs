//! The best last convolution in closed form: ridge regression on a block's hidden activations.
//!
//! Inside a residual block the last convolution is linear in the activations `h` it reads. With
//! `u` the patches of `h` (im2col) with a 1 appended and `y` the teacher's value at the same
//! node, the weights that minimise `E‖W u − y‖² + λ‖W‖²` solve `(G + λI) Wᵀ = C` with
//! `G = E[u uᵀ]` and `C = E[u yᵀ]`. One pass over the inputs, no gradient step.

use alloc::{vec, vec::Vec};

use nalgebra::{Cholesky, DMatrix};
use pulp::Arch;

use crate::{
    block::{Block, BlockError, Conv, Op},
    images::Images,
    kernels::{
        conv::patches,
        elementwise::copy,
        parallel::{share, threads},
        plane::{Lanes, Plane},
        products::{Side, products},
    },
};

/// Ridge strength relative to the mean of the Gram matrix's diagonal; our probe's choice, flat from 1e-5 to 1e-3.
pub const RIDGE: f64 = 1e-4;

/// Rows of a matrix that a thread takes at a time.
const ROWS: usize = 16;

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
    conv: Conv,
    /// Rows and columns of the kernel.
    kernel: [usize; 2],
    /// Length of a patch with the 1 behind it.
    features: usize,
    /// `Σ u uᵀ`, row by row, its lower triangle.
    patches: Vec<f64>,
    /// `Σ y uᵀ`, row by row.
    targets: Vec<f64>,
    /// One group of hidden activations in zero-padded planes, and a plane of ones.
    planes: Vec<Lanes>,
}

impl NormalEquations {
    /// Empty sums for convolution `node` of `student`.
    ///
    /// # Panics
    /// If the node is no convolution; [`solvable_node`] names one that is.
    pub fn new(student: &Block, node: usize) -> Self {
        let Op::Conv(conv) = student.nodes()[node].op else { panic!("a solvable node is a convolution") };
        let dims = &student.weight(node, 0).expect("a convolution has a kernel").dims;
        let [outputs, inputs, rows, columns] = [0, 1, 2, 3].map(|d| dims[d] as usize);
        let features = inputs * rows * columns + 1;
        Self {
            node,
            conv,
            kernel: [rows, columns],
            features,
            patches: vec![0.0; features * features],
            targets: vec![0.0; outputs * features],
            planes: Vec::new(),
        }
    }

    /// Adds one batch: what the student's convolution reads, and what the teacher's writes.
    ///
    /// # Shapes
    /// - hidden `[N, C_in, H, W]`, target `[N, C_out, H', W']`
    pub fn add(&mut self, hidden: &Images, target: &Images) {
        let (arch, features, stride) = (Arch::new(), self.features, usize::from(self.conv.stride));
        let plane = Plane { shape: hidden.shape(), border: self.conv.padding.into() };
        let flat = |shape| Plane { shape, border: 0 };
        let extent = [target.shape().height, target.shape().width];
        let mut patches = patches(self.conv, self.kernel, plane);
        patches.push(plane.len());
        let outputs: Vec<usize> = (0..target.shape().channels).map(|c| flat(target.shape()).at(c, 0, 0)).collect();
        self.planes.resize(plane.len() + plane.area(), Lanes::ZERO);
        let workers = &mut vec![vec![0.0; ROWS * features]; threads()];
        for (index, (hidden_group, target_group)) in hidden.groups().zip(target.groups()).enumerate() {
            copy(arch, (&mut self.planes, plane), (hidden_group, flat(plane.shape)));
            let mut one = Lanes::splat(1.0);
            one.0[hidden.lanes(index)..].fill(0.0);
            self.planes[plane.len()..].fill(one);
            let right = |starts| Side { values: &self.planes, starts, pitch: plane.pitch() * stride, step: stride };
            let of_targets = |starts| Side { values: target_group, starts, pitch: extent[1], step: 1 };
            // The longest rows of the triangle first, so that no thread is left with one at the end.
            let rows = self.patches.chunks_mut(ROWS * features).enumerate().rev();
            let rows = rows.map(|(chunk, sums)| {
                let last = features.min((chunk + 1) * ROWS);
                (right(&patches[chunk * ROWS..last]), right(&patches[..last]), sums)
            });
            let others = self.targets.chunks_mut(ROWS * features).zip(outputs.chunks(ROWS));
            let others = others.map(|(sums, starts)| (of_targets(starts), right(&patches), sums));
            share(workers, rows.chain(others), |(left, right, sums), scratch| {
                let width = right.starts.len();
                let scratch = &mut scratch[..left.starts.len() * width];
                scratch.fill(0.0);
                products(arch, left, right, extent, scratch, width);
                for (sums, scratch) in sums.chunks_exact_mut(features).zip(scratch.chunks_exact(width)) {
                    sums.iter_mut().zip(scratch).for_each(|(sum, here)| *sum += f64::from(*here));
                }
            });
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
        let (features, outputs) = (self.features, self.targets.len() / self.features);
        // The 1 is the last feature: its square counts the patches.
        let scale = 1.0 / self.patches[features * features - 1].max(1.0);
        let mut gram =
            DMatrix::from_fn(features, features, |i, j| scale * self.patches[i.max(j) * features + i.min(j)]);
        let cross = DMatrix::from_fn(features, outputs, |i, o| scale * self.targets[o * features + i]);
        let ridge = RIDGE * gram.diagonal().mean();
        (0..features).for_each(|i| gram[(i, i)] += ridge);
        let Some(factor) = Cholesky::new(gram) else {
            log::warn!("{}: the solve met activations that are not finite; kept the pruned weights", student.name());
            return Ok(student.clone());
        };
        let solution = factor.solve(&cross);
        // Column-major: each output channel's weights lie together, its bias last.
        let mut kernel = Vec::with_capacity((features - 1) * outputs);
        let mut bias = Vec::with_capacity(outputs);
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
