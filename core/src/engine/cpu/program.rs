//! A block compiled for the CPU: its operators as kernels over the slots of an arena.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use super::{
    clear_absent,
    layout::{Layout, Pair},
};
use crate::{
    block::{
        Block,
        op::{OnCpu, Op, Plain},
    },
    heap::held,
    kernels::{
        conv::Convolution,
        correlate::Initial,
        elementwise::{self, Bounds, Read, Write},
        instructions::Arch,
        norm::{Moments, moments},
        plane::{Lanes, Plane},
    },
    tensor::Shape,
};

/// A block up to one of its values.
#[derive(Clone, Debug)]
pub struct Program {
    pub arch: Arch,
    pub layout: Layout,
    pub steps: Vec<Operation>,
}

/// One compiled node.
#[derive(Clone, Debug)]
pub struct Operation {
    pub kernel: Kernel,
    /// Slots of its inputs; an operator with one input repeats it.
    pub inputs: [usize; 2],
    /// Slot of its output.
    pub output: usize,
    /// The bounds of a clamp fused into it.
    clamp: Option<Bounds>,
}

/// An operator with its weights in the kernels' layout.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// A convolution, or a linear layer as a 1×1 convolution of 1×1 images.
    Conv {
        convolution: Convolution,
        packed: Vec<f32>,
        bias: Vec<f32>,
    },
    /// A batch norm.
    Norm(Norm),
    Clamp(Bounds),
    /// A clamp fused into the previous node.
    Done(Bounds),
    Add,
    /// Any other operator without weights.
    Plain(Op),
}

/// A batch norm as `gain · x + offset`.
#[derive(Clone, Debug, Default)]
pub struct Norm {
    pub epsilon: f32,
    pub gain: Vec<f32>,
    pub offset: Vec<f32>,
    pub mean: Vec<f32>,
    /// `1 / sqrt(variance + ε)`.
    pub inverse: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Norm {
    /// Sets scale, shift, mean and variance.
    fn set(&mut self, weights: [&[f32]; 4]) {
        let [scale, shift, mean, variance] = weights;
        let epsilon = self.epsilon;
        let pairs = [(&mut self.scale, scale), (&mut self.shift, shift), (&mut self.mean, mean)];
        pairs.into_iter().for_each(|(held, given)| replace(held, given.iter().copied()));
        replace(&mut self.inverse, variance.iter().map(|v| 1.0 / libm::sqrtf(v + epsilon)));
        self.refresh();
    }

    /// Sets mean and variance from a batch.
    fn set_moments(&mut self, moments: &[Moments]) {
        for ((mean, inverse), moments) in self.mean.iter_mut().zip(&mut self.inverse).zip(moments) {
            *mean = moments.mean as f32;
            *inverse = (1.0 / libm::sqrt(moments.variance() + f64::from(self.epsilon))) as f32;
        }
        self.refresh();
    }

    fn refresh(&mut self) {
        replace(&mut self.gain, self.scale.iter().zip(&self.inverse).map(|(scale, inverse)| scale * inverse));
        let terms = self.shift.iter().zip(self.mean.iter().zip(&self.gain));
        replace(&mut self.offset, terms.map(|(shift, (mean, gain))| shift - mean * gain));
    }
}

impl Program {
    /// Compiles the nodes up to value `last`, with the block's weights.
    pub fn new(block: &Block, last: usize, training: bool) -> Self {
        let layout = Layout::new(block, last, training);
        let plane = |value: usize| layout.slots.plane(layout.slot[value]);
        let step = |index: usize| {
            let node = &block.nodes()[index];
            let (input, output) = (usize::from(node.inputs[0]), index + 1);
            let done_before = input > 0 && layout.clamped[input - 1].is_some();
            let kernel = match node.op.operator().on_cpu() {
                OnCpu::Convolution(conv) => {
                    let dims = block.weight(index, 0).map_or(&[][..], |kernel| &kernel.dims);
                    let extent = [2, 3].map(|axis| dims.get(axis).map_or(1, |&taps| taps as usize));
                    Kernel::conv(Convolution::new(conv, extent, plane(input), plane(output)))
                }
                OnCpu::Norm(epsilon) => Kernel::Norm(Norm { epsilon, ..Norm::default() }),
                OnCpu::Clamp(bounds) if done_before => Kernel::Done(bounds),
                OnCpu::Clamp(bounds) => Kernel::Clamp(bounds),
                OnCpu::Add => Kernel::Add,
                OnCpu::Plain(_) => Kernel::Plain(node.op.clone()),
            };
            let slot = |which: usize| layout.slot[usize::from(*node.inputs.get(which).unwrap_or(&node.inputs[0]))];
            let (inputs, output) = ([slot(0), slot(1)], layout.slot[output]);
            Operation { kernel, inputs, output, clamp: layout.clamped[index] }
        };
        let steps = (0..last).map(step).collect();
        let mut program = Self { arch: Arch::new(), layout, steps };
        program.set_weights(block, |index| &block.weights()[index].data);
        program
    }

    /// Sets new weights, in the block's order.
    pub fn set_weights<'a>(&mut self, block: &Block, weights: impl Fn(usize) -> &'a [f32]) {
        for (step, node) in self.steps.iter_mut().zip(block.nodes()) {
            let weight = |slot: usize| node.weights.get(slot).map(|&index| weights(index.into()));
            match &mut step.kernel {
                Kernel::Conv { convolution, packed, bias } => {
                    convolution.pack(weight(0).unwrap_or_default(), packed);
                    replace(bias, weight(1).unwrap_or_default().iter().copied());
                }
                Kernel::Norm(norm) => norm.set([0, 1, 2, 3].map(|slot| weight(slot).unwrap_or_default())),
                _ => {}
            }
        }
    }

    /// Heap bytes, excluding arenas.
    pub fn heap_bytes(&self) -> usize {
        let of_operation = |step: &Operation| match &step.kernel {
            Kernel::Conv { packed, bias, .. } => held(packed) + held(bias),
            Kernel::Norm(Norm { gain, offset, mean, inverse, scale, shift, .. }) => {
                [gain, offset, mean, inverse, scale, shift].map(held).iter().sum()
            }
            _ => 0,
        };
        self.layout.heap_bytes() + held(&self.steps) + self.steps.iter().map(of_operation).sum::<usize>()
    }

    /// Shape of the last value.
    pub fn value(&self) -> Shape {
        self.layout.slots.plane(self.layout.slot[self.steps.len()]).shape
    }

    /// Vectors per arena.
    pub fn arena(&self) -> usize {
        self.layout.slots.len()
    }

    /// The slot for a group of inputs, in an arena that may have served another block.
    pub fn input<'a>(&self, arena: &'a mut [Lanes]) -> Write<'a> {
        self.layout.slots.clear_borders(arena);
        self.layout.slots.get_mut(arena, self.layout.slot[0])
    }

    /// Copies a group of inputs into an arena.
    pub fn load(&self, arena: &mut [Lanes], input: Read<'_>) {
        elementwise::copy(self.arch, self.input(arena), input);
    }

    /// Copies the last value of `lanes` images, `[C, H, W]`, out of an arena.
    pub fn store(&self, arena: &[Lanes], output: &mut [Lanes], lanes: usize) {
        let (values, plane) = self.output(arena);
        let flat = Plane { shape: plane.shape, border: 0 };
        elementwise::copy(self.arch, (output, flat), (values, plane));
        clear_absent((output, flat), lanes);
    }

    /// The last value, mutable.
    pub fn output_mut<'a>(&self, arena: &'a mut [Lanes]) -> Write<'a> {
        self.layout.slots.get_mut(arena, self.layout.slot[self.steps.len()])
    }

    /// The last value.
    pub fn output<'a>(&self, arena: &'a [Lanes]) -> Read<'a> {
        self.layout.slots.get(arena, self.layout.slot[self.steps.len()])
    }

    /// Runs of nodes that need no statistics of the whole batch: each ends before a batch norm, or at the end.
    pub fn segments(&self) -> Vec<Range<usize>> {
        let is_norm = |node: &usize| matches!(self.steps[*node].kernel, Kernel::Norm(_));
        let ends: Vec<usize> = (0..self.steps.len()).filter(is_norm).chain([self.steps.len()]).collect();
        let starts = [0].into_iter().chain(ends.iter().copied());
        starts.zip(ends.iter().copied()).map(|(start, end)| start..end).collect()
    }

    /// Channels of node `node` if it is a batch norm, else 0.
    pub fn norm_channels(&self, node: usize) -> usize {
        match self.steps.get(node) {
            Some(Operation { kernel: Kernel::Norm(norm), .. }) => norm.gain.len(),
            _ => 0,
        }
    }

    /// Computes the input moments of node `node`, if it is a batch norm, over the first `lanes` images of a group.
    pub fn moments(&self, node: usize, arena: &[Lanes], lanes: usize, found: &mut [Moments]) {
        if self.norm_channels(node) > 0 {
            moments(self.arch, self.layout.slots.get(arena, self.steps[node].inputs[0]), lanes, found);
        }
    }

    /// Sums the input moments of a batch's groups, `[groups, C]`, into `total`; empty if `node` is not a batch norm.
    pub fn total<'m>(&self, node: usize, groups: impl Iterator<Item = &'m [Moments]>, total: &mut Vec<Moments>) {
        total.clear();
        total.resize(self.norm_channels(node), Moments::default());
        groups.for_each(|group| total.iter_mut().zip(group).for_each(|(total, found)| *total = total.and(*found)));
    }

    /// Sets the statistics of batch norm `node`. Does nothing for other nodes.
    pub fn set_moments(&mut self, node: usize, moments: &[Moments]) {
        if let Some(Operation { kernel: Kernel::Norm(norm), .. }) = self.steps.get_mut(node) {
            norm.set_moments(moments);
        }
    }

    /// Runs all nodes on one group of images.
    pub fn forward(&self, arena: &mut [Lanes]) {
        (0..self.steps.len()).for_each(|node| self.step(node, arena));
    }

    /// Runs one node on one group of images.
    pub fn step(&self, node: usize, arena: &mut [Lanes]) {
        let Operation { kernel, inputs: [first, second], output, clamp } = &self.steps[node];
        let (arch, slots) = (self.arch, &self.layout.slots);
        match kernel {
            Kernel::Conv { convolution, packed, bias } => {
                let ((target, _), (source, _)) = slots.pair(arena, Pair { write: *output, read: *first });
                let start = if bias.is_empty() { Initial::Zero } else { Initial::Bias(bias) };
                convolution.forward(arch, source, packed, start, *clamp, target);
            }
            Kernel::Norm(Norm { gain, offset, .. }) if output == first => {
                elementwise::scale_shift_in_place(arch, slots.get_mut(arena, *output), gain, offset);
            }
            Kernel::Norm(Norm { gain, offset, .. }) => {
                let (target, source) = slots.pair(arena, Pair { write: *output, read: *first });
                elementwise::scale_shift(arch, target, source, gain, offset);
            }
            Kernel::Done(_) => {}
            Kernel::Clamp(bounds) if output == first => {
                elementwise::clamp_in_place(arch, slots.get_mut(arena, *output), *bounds);
            }
            Kernel::Clamp(bounds) => {
                let (target, source) = slots.pair(arena, Pair { write: *output, read: *first });
                elementwise::clamp(arch, target, source, *bounds);
            }
            Kernel::Add => {
                if output != first && output != second {
                    let (target, source) = slots.pair(arena, Pair { write: *output, read: *first });
                    elementwise::copy(arch, target, source);
                }
                let other = if output == second { first } else { second };
                let (target, source) = slots.pair(arena, Pair { write: *output, read: *other });
                match clamp {
                    Some(bounds) => elementwise::add_clamped(arch, target, source, *bounds),
                    None => elementwise::add(arch, target, source),
                }
            }
            Kernel::Plain(op) => {
                let (target, sources) = slots.open(arena, *output, [*first, *second]);
                plain(op).forward(arch, sources, target);
            }
        }
    }
}

/// The heap use of programs.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProgramBytes {
    /// Heap bytes, excluding arenas.
    pub held: u64,
    /// Vectors of an arena large enough for each of them.
    pub arena: usize,
}

impl ProgramBytes {
    /// The heap use of the program for value `value` of a block.
    pub fn of(block: &Block, value: usize) -> Self {
        let program = Program::new(block, value, false);
        Self { held: program.heap_bytes() as u64, arena: program.arena() }
    }

    /// The heap use of both.
    pub fn and(self, other: Self) -> Self {
        Self { held: self.held + other.held, arena: self.arena.max(other.arena) }
    }
}

/// The loops of a [`Kernel::Plain`] operator.
pub fn plain(op: &Op) -> &dyn Plain {
    match op.operator().on_cpu() {
        OnCpu::Plain(plain) => plain,
        _ => unreachable!("only an operator without weights becomes a plain kernel"),
    }
}

impl Kernel {
    fn conv(convolution: Convolution) -> Self {
        let packed = convolution.packed();
        Self::Conv { convolution, packed, bias: vec![] }
    }
}

/// Replaces the values, reusing the memory.
fn replace(held: &mut Vec<f32>, values: impl Iterator<Item = f32>) {
    held.clear();
    held.extend(values);
}
