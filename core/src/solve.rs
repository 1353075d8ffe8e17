//! The best last convolution in closed form: ridge regression on a block's hidden activations.
//!
//! Inside a residual block the last convolution is linear in the activations `h` it reads. With
//! `u` the patches of `h` (im2col) with a 1 appended and `y` the teacher's value at the same
//! node, the weights that minimise `E‖W u − y‖² + λ‖W‖²` solve `(G + λI) Wᵀ = C` with
//! `G = E[u uᵀ]` and `C = E[u yᵀ]`. One pass over the inputs, no gradient step.

use alloc::{vec, vec::Vec};

use nalgebra::{Cholesky, DMatrix};

use crate::{
    block::Block,
    block_error::BlockError,
    images::{Images, energy},
    kernels::{
        conv::patch_starts,
        elementwise::copy,
        instructions::Arch,
        parallel::{share, threads},
        plane::{Lanes, Plane},
        products::{Side, products},
    },
    op::{Conv, Op},
};

/// Ridge strength relative to the mean of the Gram matrix's diagonal; our probe's choice, flat from 1e-5 to 1e-3.
pub const RIDGE: f64 = 1e-4;

/// Rows of a matrix that a thread takes at a time.
const ROWS: usize = 16;

/// The convolution a solve replaces, and the teacher's of the same name: the last dense one, if its output has the teacher's
/// channels and something before it is not the teacher's. `None` where there is none.
pub fn solvable_nodes(student: &Block, teacher: &Block) -> Option<[usize; 2]> {
    // Of equal names the one as many before the last.
    let named = |block: &Block, name: &str| -> Vec<usize> {
        (0..block.nodes().len()).rev().filter(|&node| block.nodes()[node].name == name).collect()
    };
    let same_node = |node: usize| {
        let name = &student.nodes()[node].name;
        let place = named(student, name).iter().position(|&other| other == node)?;
        named(teacher, name).get(place).copied()
    };
    (0..student.nodes().len()).rev().find_map(|node| {
        let dense = matches!(student.nodes()[node].op, Op::Conv(Conv { groups: 1, .. }));
        let same = same_node(node).filter(|_| dense && student.weight(node, 1).is_some())?;
        let value = |block: &Block, node: usize| block.shape(block.nodes()[node].inputs[0].into());
        let ops =
            |block: &Block, last: usize| block.nodes()[..last].iter().map(|node| node.op.clone()).collect::<Vec<_>>();
        let differs = value(student, node) != value(teacher, same) || ops(student, node) != ops(teacher, same);
        (student.shape(node + 1) == teacher.shape(same + 1) && differs).then_some([node, same])
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
    /// `Σ u uᵀ`: its lower triangle, [`ROWS`] rows at a time, each as long as the last of them.
    patches: Vec<Vec<f64>>,
    /// `Σ y uᵀ`, row by row.
    targets: Vec<f64>,
    /// `Σ ‖y‖²`.
    energy: f64,
    /// One group of hidden activations in zero-padded planes, and a plane of ones.
    planes: Vec<Lanes>,
    /// Sums of each worker's rows over one group.
    workers: Vec<Vec<f32>>,
}

impl NormalEquations {
    /// Empty sums for convolution `node` of `student`, for at most `workers` threads.
    ///
    /// # Panics
    /// If the node is no convolution; [`solvable_nodes`] names one that is.
    pub fn new(student: &Block, node: usize, workers: usize) -> Self {
        let Op::Conv(conv) = student.nodes()[node].op else { panic!("a solvable node is a convolution") };
        let [outputs, inputs, rows, columns] = kernel_dims(student, node);
        let features = inputs * rows * columns + 1;
        Self {
            node,
            conv,
            kernel: [rows, columns],
            features,
            patches: chunks(features).map(|len| vec![0.0; len]).collect(),
            targets: vec![0.0; outputs * features],
            energy: 0.0,
            planes: Vec::new(),
            workers: vec![vec![0.0; ROWS * features]; threads().min(workers)],
        }
    }

    /// Heap bytes while sums are gathered, and while they are solved.
    pub(crate) fn heap_bytes(student: &Block, node: usize, workers: usize) -> [u64; 2] {
        let Op::Conv(conv) = student.nodes()[node].op else { return [0; 2] };
        let [outputs, inputs, rows, columns] = kernel_dims(student, node);
        let features = inputs * rows * columns + 1;
        let bytes = |count: usize, size: usize| count as u64 * size as u64;
        let triangle: u64 = chunks(features).map(|len| bytes(len, size_of::<f64>())).sum();
        let [targets, solution] = [size_of::<f64>(), size_of::<f32>()].map(|size| bytes(outputs * features, size));
        let hidden = student.shape(student.nodes()[node].inputs[0].into());
        let plane = Plane { shape: hidden, border: conv.border() };
        let planes = bytes(plane.len() + plane.area(), size_of::<Lanes>());
        let scratch = bytes(threads().min(workers) * ROWS * features, size_of::<f32>());
        // The places of the patches' planes, and of the targets'.
        let starts = bytes(features + outputs, size_of::<usize>());
        let matrix = features as u64 * bytes(features, size_of::<f64>());
        [triangle + targets + planes + scratch + starts, triangle + targets + matrix + solution]
    }

    /// Adds one batch: what the student's convolution reads, and what the teacher's writes.
    ///
    /// # Shapes
    /// - hidden `[N, C_in, H, W]`, target `[N, C_out, H', W']`
    pub fn add(&mut self, hidden: &Images, target: &Images) {
        let (arch, features, stride) = (Arch::new(), self.features, self.conv.stride.map(usize::from));
        let plane = Plane { shape: hidden.shape(), border: self.conv.border() };
        let flat = |shape| Plane { shape, border: 0 };
        let extent = [target.shape().height, target.shape().width];
        let mut patches = Vec::with_capacity(features);
        patches.extend(patch_starts(self.conv, self.kernel, plane));
        patches.push(plane.len());
        let outputs: Vec<usize> = (0..target.shape().channels).map(|c| flat(target.shape()).at(c, 0, 0)).collect();
        self.planes.resize(plane.len() + plane.area(), Lanes::ZERO);
        for (index, (hidden_group, target_group)) in hidden.groups().zip(target.groups()).enumerate() {
            copy(arch, (&mut self.planes, plane), (hidden_group, flat(plane.shape)));
            self.energy += energy(target_group);
            let mut one = Lanes::splat(1.0);
            one.0[hidden.lanes(index)..].fill(0.0);
            self.planes[plane.len()..].fill(one);
            let right =
                |starts| Side { values: &self.planes, starts, pitch: plane.pitch() * stride[0], step: stride[1] };
            let of_targets = |starts| Side { values: target_group, starts, pitch: extent[1], step: 1 };
            // The longest rows of the triangle first, so that no thread is left with one at the end.
            let rows = self.patches.iter_mut().enumerate().rev();
            let rows = rows.map(|(chunk, sums)| {
                let last = features.min((chunk + 1) * ROWS);
                (right(&patches[chunk * ROWS..last]), right(&patches[..last]), sums.as_mut_slice())
            });
            let others = self.targets.chunks_mut(ROWS * features).zip(outputs.chunks(ROWS));
            let others = others.map(|(sums, starts)| (of_targets(starts), right(&patches), sums));
            share(&mut self.workers, rows.chain(others), |(left, right, sums), scratch| {
                let width = right.starts.len();
                let scratch = &mut scratch[..left.starts.len() * width];
                scratch.fill(0.0);
                products(arch, left, right, extent, scratch, width);
                sums.iter_mut().zip(scratch).for_each(|(sum, here)| *sum += f64::from(*here));
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
    pub fn solve(self, student: Block) -> Result<Block, BlockError> {
        let node = self.node;
        self.system(&student, None).solve(student, node)
    }

    /// The sums as means, with a ridge towards the weights that the convolution of `block` has, of the usual strength if no other is given.
    pub(crate) fn system(self, block: &Block, ridge: Option<f64>) -> System {
        let Self { node, features, patches, targets, energy, planes, workers, .. } = self;
        drop((planes, workers));
        // The 1 is the last feature: its square counts the patches.
        let count = patches.last().and_then(|rows| rows.last()).map_or(1.0, |count| count.max(1.0));
        let (scale, outputs) = (1.0 / count, targets.len() / features);
        // A factorisation reads the lower triangle only.
        let mut gram = DMatrix::zeros(features, features);
        for (first, rows) in (0..features).step_by(ROWS).zip(patches) {
            for (i, row) in (first..).zip(rows.chunks_exact(features.min(first + ROWS))) {
                row[..=i].iter().enumerate().for_each(|(j, sum)| gram[(i, j)] = scale * sum);
            }
        }
        // Row by row is column by column of the transpose.
        let mut cross = DMatrix::from_vec(features, outputs, targets);
        cross *= scale;
        let ridge = ridge.unwrap_or(RIDGE * gram.diagonal().mean());
        (0..features).for_each(|i| gram[(i, i)] += ridge);
        let mut energy = scale * energy;
        let [kernel, bias] = [0, 1].map(|slot| block.weight(node, slot).map_or(&[][..], |weight| &weight.data));
        for (output, mut column) in cross.column_iter_mut().enumerate() {
            let kernel = &kernel[output * (features - 1)..][..features - 1];
            for (sum, &weight) in column.iter_mut().zip(kernel.iter().chain([&bias[output]])) {
                *sum += ridge * f64::from(weight);
                energy += ridge * f64::from(weight) * f64::from(weight);
            }
        }
        System { gram, cross, energy, ridge }
    }
}

/// `(G + λI) Wᵀ = C + λ W₀ᵀ`, the lower triangle of the left side.
pub struct System {
    gram: DMatrix<f64>,
    cross: DMatrix<f64>,
    /// `E‖y‖² + λ‖W₀‖²`.
    energy: f64,
    /// λ.
    ridge: f64,
}

impl System {
    /// Unknowns of each output.
    pub fn features(&self) -> usize {
        self.gram.nrows()
    }

    /// The inverse of the left side, and the solution.
    pub fn inverted(&self) -> Option<(DMatrix<f64>, DMatrix<f64>)> {
        let factor = Cholesky::new(self.gram.clone())?;
        let solution = factor.solve(&self.cross);
        Some((factor.inverse(), solution))
    }

    /// That of some of the features, in ascending order.
    pub fn of(&self, features: &[usize]) -> Self {
        let (gram, cross) =
            (self.gram.select_columns(features).select_rows(features), self.cross.select_rows(features));
        Self { gram, cross, ..*self }
    }

    /// λ.
    pub fn ridge(&self) -> f64 {
        self.ridge
    }

    /// `E‖W u − y‖² + λ‖W − W₀‖²` of the solution; none for sums that are not of finite numbers.
    pub fn error(&self) -> Option<f64> {
        let solution = Cholesky::new(self.gram.clone())?.solve(&self.cross);
        Some(self.energy - solution.dot(&self.cross))
    }

    /// `student` with the solution in the place of convolution `node`.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn solve(self, mut student: Block, node: usize) -> Result<Block, BlockError> {
        let Self { gram, cross: mut solution, .. } = self;
        let (features, outputs) = solution.shape();
        let Some(factor) = Cholesky::new(gram) else {
            log::warn!("{}: the solve met activations that are not finite; kept the pruned weights", student.name());
            return Ok(student);
        };
        factor.solve_mut(&mut solution);
        drop(factor);
        // Each output channel's weights lie together, its bias last.
        let mut kernel = Vec::with_capacity((features - 1) * outputs);
        let mut bias = Vec::with_capacity(outputs);
        for column in solution.as_slice().chunks_exact(features) {
            kernel.extend(column[..features - 1].iter().map(|&w| w as f32));
            bias.push(column[features - 1] as f32);
        }
        let places = student.nodes()[node].weights.clone();
        let mut values = student.take_values();
        for (&index, solved) in places.iter().zip([kernel, bias]) {
            values[usize::from(index)] = solved;
        }
        student.with_values(values)
    }
}

/// Lengths of the pieces of a lower triangle, [`ROWS`] rows each and as long as the last of them.
fn chunks(features: usize) -> impl Iterator<Item = usize> {
    (0..features).step_by(ROWS).map(move |first| ROWS.min(features - first) * features.min(first + ROWS))
}

/// Extents of a convolution's kernel: `[C_out, C_in / groups, K_h, K_w]`.
fn kernel_dims(block: &Block, node: usize) -> [usize; 4] {
    let dims = &block.weight(node, 0).expect("a convolution has a kernel").dims;
    [0, 1, 2, 3].map(|d| dims[d] as usize)
}
