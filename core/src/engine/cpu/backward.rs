//! The backward pass of a block, one group of images at a time.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use super::{
    clear_absent,
    layout::{Pair, Slots},
    program::{Kernel, Program, plain},
};
use crate::{
    block::{
        Block,
        op::{Op, Slopes},
    },
    heap::held,
    kernels::{
        conv::{InputGradient, WeightGradient},
        elementwise::{self, Write},
        norm::{combine, gradient_sums},
        plane::{Lanes, Plane},
    },
};

/// The backward pass of a [`Program`] built for training. Its gradients have their own arena.
#[derive(Clone, Debug)]
pub struct Backward {
    /// The slots of the gradients.
    pub slots: Slots,
    /// The slot of each value's gradient, `None` if it is not needed.
    slot: Vec<Option<usize>>,
    steps: Vec<Slope>,
    /// Number of weight-gradient sums that a pass accumulates.
    sums: usize,
}

/// The backward pass of one node.
#[derive(Clone, Debug)]
struct Slope {
    /// Slot of its output's gradient; `None` if the gradient is not needed.
    gradient: Option<usize>,
    /// Slots of its inputs' gradients, and whether to add to them. `None` if not needed, or if computed in place.
    inputs: [Option<(usize, bool)>; 2],
    /// The range of its sums.
    sums: Range<usize>,
    weights: Option<Weights>,
}

#[derive(Clone, Debug)]
enum Weights {
    Conv {
        by_input: Option<InputGradient>,
        by_weights: WeightGradient,
    },
    /// `[a, b, d]` per channel: the input gradient is `a · gradient + b · input + d`.
    Norm {
        factors: Vec<[f32; 3]>,
    },
}

impl Backward {
    /// Prepares the backward pass of `program`, built from `block` for training; `by_input` adds the input's gradient.
    pub fn new(block: &Block, program: &Program, by_input: bool) -> Self {
        let nodes = block.nodes();
        let mut needed = vec![by_input];
        for node in nodes {
            let trained = node.weights.iter().any(|&index| block.is_trained(index.into()));
            needed.push(trained || node.inputs.iter().any(|&value| needed[usize::from(value)]));
        }
        // The loss is computed on the output, trained or not.
        needed[nodes.len()] = true;
        let slot_of = |value: usize| program.layout.slot[value];
        // Values that share a slot share a gradient, with the border that the convolutions writing the slot need.
        let mut slots = Slots::default();
        let mut slot = vec![None; nodes.len() + 1];
        for value in (0..=nodes.len()).filter(|&value| needed[value]) {
            let members = || (0..=nodes.len()).filter(|&other| slot_of(other) == slot_of(value));
            slot[value] = members().filter(|&other| other < value).find_map(|other| slot[other]).or_else(|| {
                let border = members().filter(|&member| member > 0).map(|member| match nodes[member - 1].op {
                    Op::Conv(conv) => {
                        let input = block.shape(nodes[member - 1].inputs[0].into());
                        InputGradient::border(conv, kernel_extent(block, member - 1), input, block.shape(member))
                    }
                    _ => 0,
                });
                let border = border.max().unwrap_or(0);
                Some(slots.push(Plane { shape: block.shape(value), border }))
            });
        }
        // The loss sets the output's gradient.
        let mut touched = vec![false; nodes.len() + 1];
        slot[nodes.len()].into_iter().for_each(|output: usize| touched[output] = true);
        let (mut steps, mut sums) = (Vec::new(), 0);
        for (index, node) in nodes.iter().enumerate().rev() {
            let gradient = slot[index + 1];
            let mut inputs = [None; 2];
            for (which, &value) in node.inputs.iter().enumerate() {
                let Some(target) = slot[usize::from(value)].filter(|&target| Some(target) != gradient) else {
                    continue;
                };
                inputs[which] = Some((target, touched[target]));
                touched[target] = true;
            }
            let trained = node.weights.iter().map(|&weight| usize::from(weight)).filter(|&w| block.is_trained(w));
            let start = sums;
            sums += trained.map(|weight| block.weights()[weight].data.len()).sum::<usize>();
            let weights = match &program.steps[index].kernel {
                Kernel::Conv { convolution, .. } => gradient.map(|gradient| {
                    let plane = slots.plane(gradient);
                    let by_input = |(target, _)| InputGradient::new(convolution, plane, slots.plane(target));
                    Weights::Conv {
                        by_input: inputs[0].map(by_input),
                        by_weights: WeightGradient::new(convolution, plane),
                    }
                }),
                Kernel::Norm(_) => Some(Weights::Norm { factors: vec![[0.0; 3]; block.shape(index + 1).channels] }),
                _ => None,
            };
            steps.push(Slope { gradient, inputs, sums: start..sums, weights });
        }
        steps.reverse();
        let mut backward = Self { slots, slot, steps, sums };
        backward.set_weights(block, program, |index| &block.weights()[index].data);
        backward
    }

    /// Sets new weights, in the block's order, after the program's.
    pub fn set_weights<'a>(&mut self, block: &Block, program: &Program, weights: impl Fn(usize) -> &'a [f32]) {
        for ((step, node), forward) in self.steps.iter_mut().zip(block.nodes()).zip(&program.steps) {
            match (&mut step.weights, &forward.kernel) {
                (Some(Weights::Conv { by_input: Some(by_input), .. }), Kernel::Conv { convolution, .. }) => {
                    by_input.pack(convolution, weights(node.weights[0].into()));
                }
                (Some(Weights::Norm { factors }), Kernel::Norm(norm)) => {
                    factors.iter_mut().zip(&norm.gain).for_each(|(factors, gain)| *factors = [*gain, 0.0, 0.0]);
                }
                _ => {}
            }
        }
    }

    /// Heap bytes, excluding arenas and sums.
    pub fn heap_bytes(&self) -> usize {
        let of_slope = |step: &Slope| match &step.weights {
            Some(Weights::Conv { by_input, by_weights }) => {
                by_input.as_ref().map_or(0, InputGradient::heap_bytes) + by_weights.heap_bytes()
            }
            Some(Weights::Norm { factors }) => held(factors),
            None => 0,
        };
        self.slots.heap_bytes() + held(&self.slot) + held(&self.steps) + self.steps.iter().map(of_slope).sum::<usize>()
    }

    /// Vectors per gradient arena.
    pub fn arena(&self) -> usize {
        self.slots.len()
    }

    /// Number of sums that a pass accumulates.
    pub fn sums(&self) -> usize {
        self.sums
    }

    /// The gradient of value `value`, if it is computed.
    pub fn gradient<'a>(&self, gradients: &'a mut [Lanes], value: usize) -> Option<Write<'a>> {
        Some(self.slots.get_mut(gradients, self.slot[value]?))
    }

    /// Adds one node's weight gradients to `sums`. Call it before the node's [`step`](Self::step); a batch norm with
    /// batch statistics needs the sums of the whole batch before its step.
    pub fn sum(&self, program: &Program, node: usize, values: &[Lanes], gradients: &[Lanes], sums: &mut [f32]) {
        let (arch, step, forward) = (program.arch, &self.steps[node], &program.steps[node]);
        let Some(gradient) = step.gradient.map(|slot| self.slots.get(gradients, slot)) else { return };
        let input = program.layout.slots.get(values, forward.inputs[0]);
        let sums = &mut sums[step.sums.clone()];
        match (&step.weights, &forward.kernel) {
            (Some(Weights::Conv { by_weights, .. }), Kernel::Conv { convolution, .. }) => {
                let (kernel, bias) = sums.split_at_mut(convolution.weights());
                by_weights.run(arch, input.0, gradient.0, kernel);
                if !bias.is_empty() {
                    elementwise::channel_sums(arch, gradient, bias);
                }
            }
            (Some(Weights::Norm { factors }), Kernel::Norm(norm)) => {
                let (products, totals) = sums.split_at_mut(factors.len());
                gradient_sums(arch, gradient, input, &norm.mean, totals, products);
            }
            _ => {}
        }
    }

    /// Switches batch norm `node`'s gradient to current statistics over `images` images, given the sums of the batch's
    /// parts in order. Does nothing for other nodes.
    pub fn use_current_statistics<'s>(
        &mut self,
        program: &Program,
        node: usize,
        parts: impl Iterator<Item = &'s [f32]> + Clone,
        images: usize,
    ) {
        let step = &mut self.steps[node];
        if let (Some(Weights::Norm { factors }), Kernel::Norm(norm)) = (&mut step.weights, &program.steps[node].kernel)
        {
            let shape = program.layout.slots.plane(program.steps[node].output).shape;
            let (channels, count) = (factors.len(), images * shape.height * shape.width);
            for (channel, factors) in factors.iter_mut().enumerate() {
                let mean_of =
                    |at: usize| parts.clone().map(|sums| sums[step.sums.start + at]).sum::<f32>() / count as f32;
                let (product, total) = (mean_of(channel), mean_of(channels + channel));
                let (gain, inverse, mean) = (norm.gain[channel], norm.inverse[channel], norm.mean[channel]);
                let slope = -gain * inverse * inverse * product;
                *factors = [gain, slope, -gain * total - slope * mean];
            }
        }
    }

    /// Adds the gradient of a loss on batch norm `node`'s input: `slope · input + offset` per channel.
    pub fn pull(&mut self, program: &Program, node: usize, pulls: impl Iterator<Item = [f32; 2]>) {
        if let (Some(Weights::Norm { factors }), Kernel::Norm(norm)) =
            (&mut self.steps[node].weights, &program.steps[node].kernel)
        {
            for ((factors, gain), [slope, offset]) in factors.iter_mut().zip(&norm.gain).zip(pulls) {
                *factors = [*gain, slope, offset];
            }
        }
    }

    /// Computes one node's input gradients for one group of `lanes` images.
    pub fn step(&self, program: &Program, node: usize, values: &[Lanes], gradients: &mut [Lanes], lanes: usize) {
        let (arch, step, forward) = (program.arch, &self.steps[node], &program.steps[node]);
        let Some(gradient) = step.gradient else { return };
        let value = |slot: usize| program.layout.slots.get(values, slot);
        if let (Kernel::Clamp(bounds) | Kernel::Done(bounds), None) = (&forward.kernel, step.inputs[0]) {
            elementwise::mask(arch, self.slots.get_mut(gradients, gradient), value(forward.output), *bounds);
        }
        let inputs = step.inputs.into_iter().enumerate();
        for (which, (target, add)) in inputs.filter_map(|(which, input)| Some((which, input?))) {
            let ((target, to), (gradient, of)) = self.slots.pair(gradients, Pair { write: target, read: gradient });
            match (&forward.kernel, &step.weights) {
                (Kernel::Conv { .. }, Some(Weights::Conv { by_input: Some(by_input), .. })) => {
                    by_input.run(arch, gradient, add, target);
                }
                (Kernel::Norm(_), Some(Weights::Norm { factors })) => {
                    combine(arch, (target, to, add), (gradient, of), value(forward.inputs[0]), factors);
                    clear_absent((target, to), lanes);
                }
                _ => {
                    if !add {
                        to.rows().for_each(|row| target[row..row + to.shape.width].fill(Lanes::ZERO));
                    }
                    let (inputs, output) = (forward.inputs.map(value), value(forward.output));
                    let slopes = Slopes { arch, which, inputs, output, gradient: (gradient, of) };
                    spread(&forward.kernel, &slopes, (target, to));
                }
            }
        }
    }

    /// Adds `sums` to the weight gradients, in the block's order and shapes.
    pub fn add_sums(&self, block: &Block, program: &Program, sums: &[f32], gradients: &mut [Vec<f32>]) {
        for ((step, node), forward) in self.steps.iter().zip(block.nodes()).zip(&program.steps) {
            let sums = &sums[step.sums.clone()];
            let mut add = |slot: usize, values: &[f32], scale: &dyn Fn(usize) -> f32| {
                let target = &mut gradients[usize::from(node.weights[slot])];
                target.iter_mut().zip(values).enumerate().for_each(|(i, (target, sum))| *target += scale(i) * sum);
            };
            match &forward.kernel {
                Kernel::Conv { convolution, bias, .. } if !sums.is_empty() => {
                    let (kernel, by_bias) = sums.split_at(convolution.weights());
                    if !bias.is_empty() {
                        add(1, by_bias, &|_| 1.0);
                    }
                    WeightGradient::add_to(convolution, kernel, &mut gradients[usize::from(node.weights[0])]);
                }
                Kernel::Norm(norm) if !sums.is_empty() => {
                    let (products, totals) = sums.split_at(norm.mean.len());
                    add(0, products, &|channel| norm.inverse[channel]);
                    add(1, totals, &|_| 1.0);
                }
                _ => {}
            }
        }
    }
}

/// Adds the input gradient of an operator without weights to `target`.
fn spread(kernel: &Kernel, slopes: &Slopes<'_>, target: Write<'_>) {
    let &Slopes { arch, gradient, output, .. } = slopes;
    match kernel {
        Kernel::Clamp(bounds) | Kernel::Done(bounds) => {
            elementwise::add_masked(arch, target, gradient, output, *bounds);
        }
        Kernel::Add => elementwise::add(arch, target, gradient),
        Kernel::Plain(op) => plain(op).backward(slopes, target),
        Kernel::Conv { .. } | Kernel::Norm(_) => unreachable!("a convolution and a batch norm have weights"),
    }
}

/// Rows and columns of a convolution's kernel; 1×1 for a linear layer.
fn kernel_extent(block: &Block, node: usize) -> [usize; 2] {
    let dims = block.weight(node, 0).map_or(&[][..], |kernel| &kernel.dims);
    [2, 3].map(|axis| dims.get(axis).map_or(1, |&taps| taps as usize))
}
