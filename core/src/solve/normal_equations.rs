//! The optimal last convolution in closed form: ridge regression on a block's hidden activations.
//!
//! The last convolution of a residual block is linear in the activations `h` it reads: in the patches of `h` (im2col),
//! each followed by a 1 for the bias. One pass over the inputs suffices, without gradient steps.

use alloc::{vec, vec::Vec};

use nalgebra::DMatrix;

use crate::{
    block::{Block, BlockError, op::Op},
    engine::{Batch, cpu::energy},
    kernels::{
        conv::{Conv, patch_starts},
        elementwise::copy,
        instructions::Arch,
        parallel::{share, threads},
        plane::{Lanes, Plane},
        products::{Factor, products},
    },
    recipe::Ridge,
    solve::ridge::{Held, ROWS, Sums, System, chunks},
    tensor::Shape,
};

/// Of every `ROUND` inputs the last [`HELD_OUT`] are held out. Both are whole groups of images on every target.
const ROUND: usize = 128;
const HELD_OUT: usize = ROUND / 8;

/// The corresponding convolutions (or linear layers, which are 1×1 convolutions of vectors) of a student and its teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solvable {
    /// The convolution that a solve replaces.
    pub student: usize,
    /// The teacher's convolution of the same name.
    pub teacher: usize,
}

/// Finds the convolution that a solve replaces, and the teacher's of the same name: the last dense one with the
/// teacher's output shape and different layers or input shape before it; a gate's only if there is no other. Returns
/// `None` without such a convolution.
pub fn solvable(student: &Block, teacher: &Block) -> Option<Solvable> {
    let solvable = |node: usize| {
        let dense = dense(&student.nodes()[node].op).is_some();
        let same = counterpart(student, node, teacher).filter(|_| dense && student.weight(node, 1).is_some())?;
        let value = |block: &Block, node: usize| block.shape(block.nodes()[node].inputs[0].into());
        let ops = |block: &Block, node: usize| {
            let needed = block.needed(0, block.nodes()[node].inputs[0].into());
            let nodes = block.nodes().iter().enumerate().filter(|(index, _)| needed.get(index + 1) == Some(&true));
            nodes.map(|(_, node)| node.op.clone()).collect::<Vec<_>>()
        };
        let differs = value(student, node) != value(teacher, same) || ops(student, node) != ops(teacher, same);
        (student.shape(node + 1) == teacher.shape(same + 1) && differs)
            .then_some(Solvable { student: node, teacher: same })
    };
    let is_vector = |shape: Shape| shape.height * shape.width == 1;
    let gates = |node: &usize| is_vector(student.shape(node + 1)) && !is_vector(student.output());
    let nodes = || (0..student.nodes().len()).rev();
    nodes().filter(|node| !gates(node)).find_map(solvable).or_else(|| nodes().filter(gates).find_map(solvable))
}

/// The teacher's node with the name of the student's `node`; several of one name are matched by their position from the end.
pub fn counterpart(student: &Block, node: usize, teacher: &Block) -> Option<usize> {
    let named = |block: &Block, name: &str| -> Vec<usize> {
        (0..block.nodes().len()).rev().filter(|&node| block.nodes()[node].name == name).collect()
    };
    let name = &student.nodes()[node].name;
    let place = named(student, name).iter().position(|&other| other == node)?;
    named(teacher, name).get(place).copied()
}

/// The convolution of a layer whose every output depends on all input channels.
pub fn dense(op: &Op) -> Option<Conv> {
    match *op {
        Op::Conv(conv) if conv.groups == 1 => Some(conv),
        Op::Linear => Some(Conv::square(1, 0)),
        _ => None,
    }
}

/// Gram matrix and cross products of one convolution, accumulated batch by batch.
#[derive(Debug)]
pub struct NormalEquations {
    node: usize,
    conv: Conv,
    /// Rows and columns of the kernel.
    kernel: [usize; 2],
    ridge: Ridge,
    fitted: Sums,
    /// Sums over the inputs held out to choose the ridge's strength.
    held_out: Option<Sums>,
    /// Number of inputs so far.
    inputs: usize,
    /// One group of hidden activations in zero-padded planes, and a plane of ones.
    planes: Vec<Lanes>,
    /// Each worker's sums over one group.
    workers: Vec<Vec<f32>>,
}

impl NormalEquations {
    /// Empty sums for convolution `node` of `student`, to be solved with `ridge`, for at most `workers` threads.
    ///
    /// # Panics
    /// If the node is not dense; [`solvable`] returns dense ones only.
    pub fn new(student: &Block, node: usize, ridge: Ridge, workers: usize) -> Self {
        let conv = dense(&student.nodes()[node].op).expect("a solvable node is dense");
        let [outputs, inputs, rows, columns] = kernel_dims(student, node);
        let features = inputs * rows * columns + 1;
        Self {
            node,
            conv,
            kernel: [rows, columns],
            ridge,
            fitted: Sums::new(features, outputs),
            held_out: (ridge == Ridge::HeldOut).then(|| Sums::new(features, outputs)),
            inputs: 0,
            planes: Vec::new(),
            workers: vec![vec![0.0; ROWS * features]; threads().min(workers)],
        }
    }

    /// Adds one batch: the input of the student's convolution, and the target for its output.
    ///
    /// # Shapes
    /// - hidden `[N, C_in, H, W]`, target `[N, C_out, H', W']`
    pub fn add(&mut self, hidden: &Batch, target: &Batch) {
        let (hidden, target) = (hidden.on_cpu(), target.on_cpu());
        let (arch, features, stride) = (Arch::new(), self.fitted.features, self.conv.stride.map(usize::from));
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
            let held_out = self.held_out.as_mut().filter(|_| self.inputs % ROUND >= ROUND - HELD_OUT);
            let sums = held_out.unwrap_or(&mut self.fitted);
            self.inputs += hidden.lanes(index);
            sums.energy += energy(target_group);
            let mut one = Lanes::splat(1.0);
            one.0[hidden.lanes(index)..].fill(0.0);
            self.planes[plane.len()..].fill(one);
            let right =
                |starts| Factor { values: &self.planes, starts, pitch: plane.pitch() * stride[0], step: stride[1] };
            let of_targets = |starts| Factor { values: target_group, starts, pitch: extent[1], step: 1 };
            // Start with the longest rows of the triangle, to balance the threads.
            let rows = sums.patches.iter_mut().enumerate().rev();
            let rows = rows.map(|(chunk, sums)| {
                let last = features.min((chunk + 1) * ROWS);
                (right(&patches[chunk * ROWS..last]), right(&patches[..last]), sums.as_mut_slice())
            });
            let others = sums.targets.chunks_mut(ROWS * features).zip(outputs.chunks(ROWS));
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

    /// Replaces the student's convolution by the solution.
    ///
    /// Returns the student unchanged if there is no solution, which only non-finite activations cause.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn solve(self, student: Block) -> Result<Block, BlockError> {
        let node = self.node;
        Ok(put_solution(self.system(&student, None), student, node)?.0)
    }

    /// The system of the mean sums, with a ridge (λ if given) towards the convolution's weights in `block`.
    pub(crate) fn system(self, block: &Block, ridge: Option<f64>) -> System {
        let Self { node, ridge: rule, mut fitted, held_out, planes, workers, .. } = self;
        drop((planes, workers));
        let values = |slot| block.weight(node, slot).map_or(&[][..], |weight| &weight.data);
        let pruned = Held { kernel: values(0), bias: values(1) };
        let strength = match (rule, held_out) {
            (Ridge::Strength(strength), _) => strength,
            (Ridge::HeldOut, held_out) => {
                let held_out = held_out.unwrap_or_else(|| Sums::new(0, 0));
                let choose = ridge.is_none() && held_out.count() > 0.0;
                let best = if choose { fitted.best_strength(&held_out, pruned) } else { Ridge::STRENGTH };
                fitted.add(held_out);
                best
            }
        };
        let ridge = ridge.unwrap_or(strength * fitted.mean_square());
        fitted.system(ridge, pruned)
    }
}

/// The heap use of normal equations.
#[derive(Clone, Copy, Debug)]
pub struct EquationBytes {
    features: usize,
    outputs: usize,
    /// Features per channel.
    area: usize,
    /// Bytes of a group's planes, and of the offsets of patches and targets.
    planes: u64,
    /// Whether each output has a system of its own, for a kernel with zeros.
    sparse: bool,
}

impl EquationBytes {
    /// For convolution `node` of `block`; zero for any other node.
    pub fn new(block: &Block, node: usize) -> Self {
        let Some(conv) = dense(&block.nodes()[node].op) else {
            return Self { features: 0, outputs: 0, area: 0, planes: 0, sparse: false };
        };
        let [outputs, inputs, rows, columns] = kernel_dims(block, node);
        let (area, features) = (rows * columns, inputs * rows * columns + 1);
        let plane = Plane { shape: block.shape(block.nodes()[node].inputs[0].into()), border: conv.border() };
        let starts = (features + outputs) * size_of::<usize>();
        let planes = (plane.len() + plane.area()) * size_of::<Lanes>() + starts;
        let sparse = block.weight(node, 0).is_some_and(|kernel| kernel.data.contains(&0.0));
        Self { features, outputs, area, planes: planes as u64, sparse }
    }

    /// The same with zeros in the kernel.
    pub fn with_zeros(self) -> Self {
        Self { sparse: true, ..self }
    }

    fn values(rows: usize, columns: usize) -> u64 {
        rows as u64 * columns as u64 * size_of::<f64>() as u64
    }

    /// Bytes of one set of sums: triangle and targets.
    fn sums(&self) -> [u64; 2] {
        [chunks(self.features).map(|len| Self::values(len, 1)).sum(), Self::values(self.outputs, self.features)]
    }

    fn sets(ridge: Ridge) -> u64 {
        if ridge == Ridge::HeldOut { 2 } else { 1 }
    }

    /// Bytes while summing.
    pub fn summing(&self, ridge: Ridge, workers: usize) -> u64 {
        let scratch = threads().min(workers) * ROWS * self.features * size_of::<f32>();
        Self::sets(ridge) * self.sums().iter().sum::<u64>() + self.planes + scratch as u64
    }

    /// Bytes while solving: the sums, one matrix, that of an output with zeros and, if strengths are tried, a second solution.
    pub fn solving(&self, ridge: Ridge) -> u64 {
        let [triangle, targets] = self.sums();
        let matrix = Self::values(self.features, self.features);
        // The largest factor of an output, and which features each reads.
        let own = if self.sparse { matrix + (self.features * self.outputs) as u64 } else { 0 };
        match ridge {
            // The sums are gone when the outputs are solved.
            Ridge::Strength(_) => targets + matrix + triangle.max(own),
            // A solution's error needs its transpose, after the matrix is dropped.
            Ridge::HeldOut => 2 * triangle + 3 * targets + (matrix + own).max(targets),
        }
    }

    /// Bytes while choosing channels, at most `together` of which leave at a time: a factor and its inverse, then the
    /// inverse and one update of it.
    pub fn choosing(&self, together: usize) -> u64 {
        let Self { features, outputs, .. } = *self;
        let area = together * self.area;
        let [_, solution] = self.sums();
        let matrix = Self::values(features, features);
        let change = 3 * Self::values(features, area) + 3 * Self::values(outputs, area);
        solution + matrix + matrix.max(change + Self::values(features, 1))
    }
}

/// Replaces convolution `node` by the solution; returns the error, too. Without a solution, `student` is unchanged and
/// the error infinite.
///
/// # Errors
/// As [`Block::new`].
pub fn put_solution(system: System, student: Block, node: usize) -> Result<(Block, f64), BlockError> {
    let Some((solution, error)) = system.solved() else {
        log::warn!("{}: the activations of the solve are not finite; kept the pruned weights", student.name());
        return Ok((student, f64::INFINITY));
    };
    Ok((put(&solution, student, node)?, error))
}

/// Replaces convolution `node` by weights and biases, those of an output in a column.
///
/// # Errors
/// As [`Block::new`].
pub fn put(solution: &DMatrix<f64>, mut student: Block, node: usize) -> Result<Block, BlockError> {
    let (features, outputs) = solution.shape();
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

/// Extents of a dense layer's kernel: `[C_out, C_in, K_h, K_w]`.
pub fn kernel_dims(block: &Block, node: usize) -> [usize; 4] {
    let dims = &block.weight(node, 0).expect("a layer has a kernel").dims;
    [0, 1, 2, 3].map(|d| dims.get(d).map_or(1, |&extent| extent as usize))
}
