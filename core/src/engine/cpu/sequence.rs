//! Blocks that follow each other, and how one group of images goes forward through them and its gradient back.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Backward, Norms, Program, clear_absent};
use crate::{
    block::{Block, Role},
    engine::{Classes, Disturbance, Goal, Goals},
    kernels::{
        elementwise::{Read, Write, copy, squared_error},
        plane::{LANES, Lanes, Plane, floats_mut},
    },
    stream::{Purpose, Stream},
};

/// One block of the sequence.
#[derive(Debug)]
pub struct Stage {
    pub program: Program,
    pub backward: Backward,
    /// Where its values begin in an arena, its sums in a piece, and its weights in those of all blocks.
    pub values: usize,
    pub sums: usize,
    pub weights: usize,
    /// Whether noise is added to its output.
    pub is_disturbed: bool,
}

/// A sequence of blocks and its stops.
#[derive(Debug)]
pub struct Sequence {
    pub stages: Vec<Stage>,
    /// All nodes of all stages, in order.
    pub places: Vec<Place>,
    /// Indices into `places` of the batch norms at which passes stop.
    pub stops: Vec<usize>,
    /// Number of trained stages, from the first. If 0, the gradient of the images is computed instead.
    pub trained: usize,
    /// Sums of all trained stages.
    pub sums: usize,
    /// Where gradients begin in an arena, and the largest length of one stage's gradients.
    slopes: usize,
    slope: usize,
    /// What is added to the output of each disturbed stage in `step`.
    disturbance: Disturbance,
    pub step: usize,
}

/// A node of a stage.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub stage: usize,
    pub node: usize,
}

/// A group: its index in the part of a batch, its number of images, and that of the whole batch.
#[derive(Clone, Copy)]
pub struct Group {
    pub index: usize,
    pub lanes: usize,
    pub count: usize,
}

impl Sequence {
    /// See [`Passes::new`](super::Passes::new).
    pub fn new(blocks: &[Block], trained: usize, norms: Norms) -> Self {
        let (mut stages, mut places, mut stops) = (Vec::new(), Vec::new(), Vec::new());
        let (mut values, mut sums, mut weights) = (0, 0, 0);
        for (index, block) in blocks.iter().enumerate() {
            let program = Program::new(block, block.nodes().len(), true);
            let backward = Backward::new(block, &program, index > 0 || trained == 0);
            for node in 0..block.nodes().len() {
                if norms != Norms::Running && program.norm_channels(node) > 0 {
                    stops.push(places.len());
                }
                places.push(Place { stage: index, node });
            }
            let of_stage = if index < trained { backward.sums() } else { 0 };
            let lengths = [program.arena(), of_stage, block.weights().len()];
            stages.push(Stage { program, backward, values, sums, weights, is_disturbed: false });
            (values, sums, weights) = (values + lengths[0], sums + lengths[1], weights + lengths[2]);
        }
        let slope = stages.iter().map(|stage| stage.backward.arena()).max().unwrap_or(0);
        let disturbance = Disturbance::default();
        Self { stages, places, stops, trained, sums, slopes: values, slope, disturbance, step: 0 }
    }

    pub fn arena(&self) -> usize {
        // Two stages' gradients: they are passed from one stage to the previous one.
        self.slopes + self.slope * self.stages.len().min(2)
    }

    /// Places between two stops.
    pub fn segment(&self, segment: usize) -> Range<usize> {
        let start = if segment == 0 { 0 } else { self.stops[segment - 1] };
        start..self.stops.get(segment).copied().unwrap_or(self.places.len())
    }

    /// The range of a stage's gradients, counted from the end of the values.
    fn slope(&self, stage: usize) -> Range<usize> {
        let start = stage % 2 * self.slope;
        start..start + self.slope
    }

    /// See [`Passes::disturb`](super::Passes::disturb).
    pub fn disturb(&mut self, blocks: &[Block], disturbance: Disturbance) {
        self.disturbance = disturbance;
        let last = blocks.len().saturating_sub(1);
        for (index, (stage, block)) in self.stages.iter_mut().zip(blocks).enumerate() {
            stage.is_disturbed = disturbance.deviation > 0.0 && block.role() == Role::Neighbourhood && index < last;
        }
    }

    /// Takes a group, the `group`th of its batch, forward through some places.
    pub fn forward(&self, places: Range<usize>, arena: &mut [Lanes], input: Read<'_>, group: usize) {
        for place in places {
            self.load(place, arena, input, group);
            let Place { stage, node } = self.places[place];
            let Stage { program, values, .. } = &self.stages[stage];
            program.step(node, &mut arena[*values..]);
        }
    }

    /// Copies the input of a stage to where its first node reads it: the output of the stage before, or the images. What
    /// disturbs it is the same whenever the group is loaded again.
    pub fn load(&self, place: usize, arena: &mut [Lanes], input: Read<'_>, group: usize) {
        let Place { stage: index, node: 0 } = self.places[place] else { return };
        let stage = &self.stages[index];
        let (before, here) = arena.split_at_mut(stage.values);
        let previous = index.checked_sub(1).map(|previous| &self.stages[previous]);
        let input = previous.map_or(input, |previous| previous.program.output(&before[previous.values..]));
        stage.program.load(here, input);
        if previous.is_some_and(|previous| previous.is_disturbed) {
            let Disturbance { deviation, seed } = self.disturbance;
            let mut stream = Stream::new(seed, Purpose::Disturb, (self.step << 24) ^ (group << 12) ^ index);
            let (values, plane) = stage.program.input(here);
            for row in plane.rows() {
                stream.disturb(deviation, floats_mut(&mut values[row..row + plane.shape.width]));
            }
        }
    }

    /// Sets the gradient of the last output.
    pub fn pull_last(&self, goals: &Goals<'_>, group: Group, arena: &mut [Lanes], errors: &mut [f64], counts: bool) {
        let Some(last) = self.stages.len().checked_sub(1) else { return };
        let Stage { program, backward, values: start, .. } = &self.stages[last];
        let (values, slopes) = arena.split_at_mut(self.slopes);
        let (values, slopes) = (&mut values[*start..], &mut slopes[self.slope(last)]);
        backward.slots.clear_borders(slopes);
        let Some((slope, to)) = backward.gradient(slopes, program.steps.len()) else { return };
        match goals.outputs.get(last) {
            Some(goal) => {
                let error = pull(program, goal, group, values, (&mut *slope, to), false);
                errors[last] += if counts { error } else { 0.0 };
            }
            None => to.rows().for_each(|row| slope[row..row + to.shape.width].fill(Lanes::ZERO)),
        }
        for classes in goals.classes {
            let error = cross_entropy(classes, group, program.output(values), (&mut *slope, to));
            errors[last + 1] += if counts { error } else { 0.0 };
        }
    }

    /// Adds a node's weight gradients to the sums.
    pub fn sum(&self, place: usize, arena: &[Lanes], sums: &mut [f32]) {
        let Place { stage, node } = self.places[place];
        if stage < self.trained {
            let (values, slopes) = arena.split_at(self.slopes);
            let Stage { program, backward, values: start, sums: first, .. } = &self.stages[stage];
            backward.sum(program, node, &values[*start..], &slopes[self.slope(stage)], &mut sums[*first..]);
        }
    }

    /// Computes a node's input gradients. A stage's first node passes its gradient to the previous stage and its goal.
    pub fn step_back(
        &self,
        place: usize,
        goals: &Goals<'_>,
        group: Group,
        arena: &mut [Lanes],
        errors: &mut [f64],
        counts: bool,
    ) {
        let Place { stage, node } = self.places[place];
        let Stage { program, backward, values: start, .. } = &self.stages[stage];
        let (values, slopes) = arena.split_at_mut(self.slopes);
        backward.step(program, node, &values[*start..], &mut slopes[self.slope(stage)], group.lanes);
        let Some(index) = stage.checked_sub(1).filter(|_| node == 0) else { return };
        let previous = &self.stages[index];
        let Ok([here, there]) = slopes.get_disjoint_mut([self.slope(stage), self.slope(index)]) else { return };
        previous.backward.slots.clear_borders(there);
        let target = previous.backward.gradient(there, previous.program.steps.len());
        let Some(((slope, to), (source, plane))) = target.zip(backward.gradient(here, 0)) else { return };
        copy(program.arch, (&mut *slope, to), (source, plane));
        if let Some(goal) = goals.outputs.get(index) {
            let error = pull(&previous.program, goal, group, &mut values[previous.values..], (slope, to), true);
            errors[index] += if counts { error } else { 0.0 };
        }
    }

    /// Copies the gradient of a group of images, `[C, H, W]`.
    pub fn store_slope(&self, arena: &mut [Lanes], target: &mut [Lanes]) {
        let Some(Stage { program, backward, .. }) = self.stages.first() else { return };
        let slopes = &mut arena[self.slopes..][self.slope(0)];
        if let Some((slope, plane)) = backward.gradient(slopes, 0) {
            copy(program.arch, (target, Plane { border: 0, ..plane }), (slope, plane));
        }
    }

    pub fn add_gradients(&self, blocks: &[Block], sums: &[f32], gradients: &mut [Vec<f32>]) {
        for (stage, block) in self.stages.iter().zip(blocks).take(self.trained) {
            stage.backward.add_sums(block, &stage.program, &sums[stage.sums..], &mut gradients[stage.weights..]);
        }
    }
}

/// Computes the gradient of the squared distance between an output and its goal; returns that distance.
fn pull(program: &Program, goal: &Goal, group: Group, values: &mut [Lanes], slope: Write<'_>, add: bool) -> f64 {
    clear_absent(program.output_mut(values), group.lanes);
    let wanted = goal.output.on_cpu();
    squared_error(program.arch, program.output(values), wanted.group(group.index), slope, 2.0 * goal.weight, add)
}

/// Adds the gradient of the cross-entropy to that of the logits; returns the weighted sum of the images' cross-entropies.
fn cross_entropy(classes: &Classes<'_>, group: Group, (logits, plane): Read<'_>, (slope, to): Write<'_>) -> f64 {
    let &Classes { probabilities, temperature, weight } = classes;
    let (count, scale, mut error) = (plane.shape.channels, 1.0 / group.count.max(1) as f32, 0.0);
    for lane in 0..group.lanes {
        let logit = |class: usize| logits[plane.at(class, 0, 0)].0[lane] / temperature;
        let largest = (0..count).map(logit).fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = (0..count).map(|class| libm::expf(logit(class) - largest)).sum();
        let wanted = &probabilities[(group.index * LANES + lane) * count..][..count];
        for (class, wanted) in wanted.iter().enumerate() {
            let share = libm::expf(logit(class) - largest) / total;
            error += f64::from(wanted * (libm::logf(total) + largest - logit(class)));
            slope[to.at(class, 0, 0)].0[lane] += scale * weight * (share - wanted) / temperature;
        }
    }
    f64::from(weight) * error
}
