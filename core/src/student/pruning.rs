//! Weights that a kernel can do without: which go together, and the smallest (magnitude pruning).

use alloc::{format, vec, vec::Vec};

use crate::{
    block::{Block, BlockError, Change, op::Op},
    kernels::conv::Conv,
    recipe::{Pattern, Recipe, Sparsity},
    tensor::Weight,
};

/// The extents of a kernel: `[outputs, inputs, taps]`.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    pub outputs: usize,
    pub inputs: usize,
    pub taps: usize,
}

/// Weights of an output of which some go: the same tap of neighbouring inputs.
pub struct Group {
    pub members: Vec<usize>,
    pub goes: usize,
}

/// The nodes of a block that weights are removed from: the convolutions whose outputs depend on all inputs.
pub fn prunable(block: &Block) -> impl Iterator<Item = usize> {
    (0..block.nodes().len()).filter(|&node| matches!(block.nodes()[node].op, Op::Conv(Conv { groups: 1, .. })))
}

impl Recipe {
    /// The nodes of a folded block that lose weights, and how.
    pub(crate) fn pruned(&self, block: &Block) -> Vec<(usize, Sparsity)> {
        let of = |node| {
            let sparsity = self.sparsity_of(&block.weight(node, 0)?.name)?;
            Kernel::of(block, node).loses(sparsity).then_some((node, sparsity))
        };
        prunable(block).filter_map(of).collect()
    }
}

impl Kernel {
    /// That of a convolution.
    pub fn of(block: &Block, node: usize) -> Self {
        let extents: Vec<usize> =
            block.weight(node, 0).map_or_else(Vec::new, |kernel| kernel.dims.iter().map(|&e| e as usize).collect());
        let extent = |axis: usize| extents.get(axis).copied().unwrap_or(1);
        Self { outputs: extent(0), inputs: extent(1), taps: extent(2) * extent(3) }
    }

    /// Weights of an output, without its bias.
    pub fn row(self) -> usize {
        self.inputs * self.taps
    }

    /// Weights that go together or not at all.
    pub fn unit(self, pattern: Pattern) -> usize {
        if pattern == Pattern::Kernels { self.taps } else { 1 }
    }

    /// The groups of a pattern; a last group with fewer members loses fewer.
    pub fn groups(self, pattern: Pattern) -> Vec<Group> {
        let Pattern::OfEach { kept, of } = pattern else { return Vec::new() };
        let (kept, of) = (usize::from(kept), usize::from(of));
        let group = |first: usize, tap: usize| {
            let members: Vec<usize> =
                (first..self.inputs.min(first + of)).map(|input| input * self.taps + tap).collect();
            let goes = members.len() * (of - kept) / of;
            Group { members, goes }
        };
        (0..self.inputs)
            .step_by(of)
            .flat_map(|first| (0..self.taps).map(move |tap| (first, tap)))
            .map(|(first, tap)| group(first, tap))
            .collect()
    }

    /// Whether so small a kernel loses anything.
    fn loses(self, sparsity: Sparsity) -> bool {
        match sparsity.pattern {
            Pattern::OfEach { .. } => self.groups(sparsity.pattern).iter().any(|group| group.goes > 0),
            pattern => sparsity.removed(self.outputs * self.row() / self.unit(pattern)) > 0,
        }
    }

    /// Sets the smallest values of a kernel to zero, this part of all that go (from 0 to 1).
    pub fn prune(self, sparsity: Sparsity, part: f32, values: &mut [f32]) {
        let size = |values: &[f32]| values.iter().map(|value| value * value).sum::<f32>();
        let groups = self.groups(sparsity.pattern);
        if groups.is_empty() {
            let unit = self.unit(sparsity.pattern);
            let sizes: Vec<f32> = values.chunks(unit).map(size).collect();
            let goes = cheapest(&sizes, (f64::from(part) * sparsity.removed(sizes.len()) as f64) as usize);
            values.chunks_mut(unit).zip(goes).filter(|(_, goes)| *goes).for_each(|(unit, _)| unit.fill(0.0));
            return;
        }
        for values in values.chunks_mut(self.row()) {
            for Group { members, goes } in &groups {
                let sizes: Vec<f32> = members.iter().map(|&member| values[member].abs()).collect();
                let goes = cheapest(&sizes, (part * *goes as f32) as usize);
                members.iter().zip(goes).filter(|(_, goes)| *goes).for_each(|(&member, _)| values[member] = 0.0);
            }
        }
    }

    /// Heap bytes of [`prune`](Self::prune).
    pub fn pruning_bytes(self, pattern: Pattern) -> u64 {
        // A size, its place in the order, and whether it goes.
        let places = self.outputs * self.row() * (size_of::<f32>() + size_of::<usize>() + size_of::<bool>());
        self.group_bytes(pattern) + places as u64
    }

    /// Heap bytes of [`groups`](Self::groups).
    pub fn group_bytes(self, pattern: Pattern) -> u64 {
        let Pattern::OfEach { of, .. } = pattern else { return 0 };
        let groups = self.inputs.div_ceil(of.into()) * self.taps;
        (self.row() * size_of::<usize>() + groups * size_of::<Group>()) as u64
    }
}

/// A folded student in which every convolution that is to be fitted without some of its weights has a bias.
///
/// # Errors
/// As [`Block::new`].
pub fn with_biases(student: Block, recipe: &Recipe) -> Result<Block, BlockError> {
    let lacks = |node: usize| student.weight(node, 1).is_none();
    let nodes: Vec<usize> =
        recipe.pruned(&student).into_iter().map(|(node, _)| node).filter(|&node| lacks(node)).collect();
    if nodes.is_empty() || !recipe.solve {
        return Ok(student);
    }
    let change = |node: usize| match student.weight(node, 0).filter(|_| nodes.contains(&node)) {
        Some(kernel) => {
            let name = format!("{}.bias", kernel.name.strip_suffix(".weight").unwrap_or(&kernel.name));
            let outputs = Kernel::of(&student, node).outputs;
            let bias = Weight::new(name, &[outputs], vec![0.0; outputs]);
            Change::Replace(student.nodes()[node].op.clone(), vec![kernel.clone(), bias])
        }
        None => Change::Keep,
    };
    Ok(student.rewrite(change)?.block)
}

/// Removes the smallest weights of a folded student, as many as the recipe says.
///
/// # Errors
/// As [`Block::new`].
pub fn prune(mut student: Block, recipe: &Recipe) -> Result<Block, BlockError> {
    let kernels: Vec<_> = recipe
        .pruned(&student)
        .into_iter()
        .map(|(node, sparsity)| (node, sparsity, Kernel::of(&student, node)))
        .collect();
    let mut values = student.take_values();
    for (node, sparsity, kernel) in kernels {
        kernel.prune(sparsity, 1.0, &mut values[usize::from(student.nodes()[node].weights[0])]);
    }
    student.with_values(values)
}

/// Marks the `count` cheapest; of equal ones the first.
pub fn cheapest(costs: &[f32], count: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    if count > 0 && count < costs.len() {
        order.select_nth_unstable_by(count - 1, |a, b| costs[*a].total_cmp(&costs[*b]).then(a.cmp(b)));
    }
    let mut goes = vec![false; costs.len()];
    order[..count].iter().for_each(|&place| goes[place] = true);
    goes
}
