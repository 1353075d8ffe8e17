//! Forward and backward passes of a whole network over a batch, every activation kept.

use alloc::{vec, vec::Vec};

use super::{Backward, PIECES, Program, add, clear_absent};
use crate::{
    block::{Block, Statistics},
    engine::{Images, batch::gather},
    kernels::{
        elementwise::{copy, zip_two},
        norm::Moments,
        parallel::each,
        plane::{LANES, Lanes},
    },
};

/// A network's blocks ready for passes, and the arenas of a batch.
#[derive(Debug)]
pub struct Passes<'a> {
    pub parts: Vec<Part<'a>>,
    pieces: Vec<Piece>,
    count: usize,
    /// Parts, from the first, whose gradients by the weights are summed.
    trained: usize,
}

/// One block.
#[derive(Debug)]
pub struct Part<'a> {
    pub block: &'a Block,
    pub program: Program,
    pub backward: Backward,
}

/// Some groups of a batch, whose sums are kept apart and added in order.
#[derive(Debug, Default)]
struct Piece {
    groups: Vec<Group>,
    /// Of each part, in its backward pass's order.
    sums: Vec<Vec<f32>>,
    moments: Vec<Moments>,
    error: f64,
}

#[derive(Debug, Default)]
struct Group {
    /// Number in the batch, and images that are there.
    index: usize,
    lanes: usize,
    /// Arena of each part.
    values: Vec<Vec<Lanes>>,
    /// Arenas of the gradients of the part in work, and of the one after it.
    slopes: [Vec<Lanes>; 2],
}

/// What the logits should say of each image.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// A probability for each class: `[N, classes]`.
    pub probabilities: &'a [f32],
    /// The logits are divided by it before the softmax.
    pub temperature: f32,
    /// Weight of the cross-entropy in the loss.
    pub weight: f32,
}

/// What a block's output should be.
#[derive(Clone, Debug)]
pub struct Goal {
    pub values: Images,
    /// Its pull is as many times the distance.
    pub scale: f32,
}

impl<'a> Passes<'a> {
    /// For blocks that each take what the one before gives. The weights of the first `trained` get gradients; if there is none, the
    /// images do.
    pub fn new(blocks: &'a [Block], trained: usize) -> Self {
        let part = |(index, block): (usize, &'a Block)| {
            let program = Program::new(block, block.nodes().len(), true);
            let backward = Backward::new(block, &program, index > 0 || trained == 0);
            Part { block, program, backward }
        };
        let parts = blocks.iter().enumerate().map(part).collect();
        Self { parts, pieces: Vec::new(), count: 0, trained }
    }

    /// Heap bytes of the arenas of one image of a full group.
    pub fn bytes_per_image(&self) -> usize {
        let values: usize = self.parts.iter().map(|part| part.program.arena()).sum();
        let slopes = self.parts.iter().map(|part| part.backward.arena()).max().unwrap_or(0);
        (values + 2 * slopes) * size_of::<f32>()
    }

    /// Arenas for `count` images; those of the last pass, if it had as many.
    pub fn prepare(&mut self, count: usize) {
        let groups = count.div_ceil(LANES);
        let parts = &self.parts;
        let slopes = parts.iter().map(|part| part.backward.arena()).max().unwrap_or(0);
        let group = |index: usize| Group {
            index,
            lanes: count.min((index + 1) * LANES) - index * LANES,
            values: parts.iter().map(|part| vec![Lanes::ZERO; part.program.arena()]).collect(),
            slopes: [(); 2].map(|()| vec![Lanes::ZERO; slopes]),
        };
        if self.count != count {
            let pieces = PIECES.min(groups);
            let piece = |piece: usize| Piece {
                groups: (piece * groups / pieces..(piece + 1) * groups / pieces).map(group).collect(),
                sums: parts.iter().map(|part| vec![0.0; part.backward.sums()]).collect(),
                ..Piece::default()
            };
            self.pieces = (0..pieces).map(piece).collect();
            self.count = count;
        }
        for piece in &mut self.pieces {
            piece.error = 0.0;
            piece.sums.iter_mut().for_each(|sums| sums.fill(0.0));
        }
    }

    /// Every value of `images`. `found` is told the moments of what each batch norm reads, with its part's number and its node's. With current
    /// statistics the norms then work with them.
    pub fn forward(
        &mut self,
        images: &Images,
        statistics: Statistics,
        mut found: impl FnMut(usize, &mut Part<'a>, usize, &[Moments]),
    ) {
        for index in 0..self.parts.len() {
            let (before, here) = self.parts.split_at_mut(index);
            let part = &mut here[0];
            for (segment, nodes) in part.program.segments().into_iter().enumerate() {
                let program = &part.program;
                let channels = program.norm_channels(nodes.end).max(1);
                each(self.pieces.iter_mut(), |piece| {
                    piece.moments.resize(channels * piece.groups.len(), Moments::default());
                    let found = piece.moments.chunks_exact_mut(channels);
                    for (group, found) in piece.groups.iter_mut().zip(found) {
                        if segment == 0 {
                            let (done, values) = group.values.split_at_mut(index);
                            match before.last().zip(done.last()) {
                                Some((part, values_before)) => {
                                    program.load(&mut values[0], part.program.output(values_before))
                                }
                                None => program.load(&mut values[0], images.plane(group.index)),
                            }
                        }
                        let values = &mut group.values[index];
                        nodes.clone().for_each(|node| program.step(node, values));
                        program.moments(nodes.end, values, group.lanes, found);
                    }
                });
                if program.norm_channels(nodes.end) > 0 {
                    let parts: Vec<Moments> = self.pieces.iter().flat_map(|piece| &piece.moments).copied().collect();
                    let total = part.program.total(nodes.end, &parts);
                    if statistics == Statistics::Current {
                        part.program.set_moments(nodes.end, &total);
                    }
                    found(index, part, nodes.end, &total);
                }
            }
        }
    }

    /// Sets the gradient by the logits; returns the mean cross-entropy, without its weight.
    pub fn cross_entropy(&mut self, target: Target<'_>) -> f32 {
        let (Some(part), last) = (self.parts.last(), self.parts.len() - 1) else { return 0.0 };
        let Target { probabilities, temperature, weight } = target;
        let scale = 1.0 / self.count.max(1) as f32;
        for piece in &mut self.pieces {
            for Group { index, lanes, values, slopes } in &mut piece.groups {
                part.backward.slots.clear_borders(&mut slopes[last % 2]);
                let (logits, plane) = part.program.output(&values[last]);
                let Some((slope, to)) = part.backward.gradient(&mut slopes[last % 2], part.block.nodes().len()) else {
                    continue;
                };
                let classes = plane.shape.channels;
                to.rows().for_each(|row| slope[row] = Lanes::ZERO);
                for lane in 0..*lanes {
                    let logit = |class: usize| logits[plane.at(class, 0, 0)].0[lane] / temperature;
                    let largest = (0..classes).map(logit).fold(f32::NEG_INFINITY, f32::max);
                    let total: f32 = (0..classes).map(|class| libm::expf(logit(class) - largest)).sum();
                    let wanted = &probabilities[(*index * LANES + lane) * classes..][..classes];
                    for (class, wanted) in wanted.iter().enumerate() {
                        let share = libm::expf(logit(class) - largest) / total;
                        piece.error += f64::from(wanted * (libm::logf(total) + largest - logit(class)));
                        slope[to.at(class, 0, 0)].0[lane] = scale * weight * (share - wanted) / temperature;
                    }
                }
            }
        }
        self.pieces.iter().map(|piece| piece.error).sum::<f64>() as f32 * scale
    }

    /// Pulls the last output to its goal: sets the gradient by it.
    pub fn pull_last(&mut self, Goal { values: wanted, scale }: &Goal) {
        let (Some(part), last) = (self.parts.last(), self.parts.len() - 1) else { return };
        each(self.pieces.iter_mut().flat_map(|piece| &mut piece.groups), |Group { index, lanes, values, slopes }| {
            part.backward.slots.clear_borders(&mut slopes[last % 2]);
            let slope = part.backward.gradient(&mut slopes[last % 2], part.block.nodes().len());
            let Some((slope, to)) = slope else { return };
            let pull = |_: f32, here: f32, there: f32| scale * (here - there);
            let output = part.program.output(&values[last]);
            zip_two(part.program.arch, (&mut *slope, to), output, wanted.plane(*index), pull);
            clear_absent((slope, to), *lanes);
        });
    }

    /// The squared distance of a part's output from its goal.
    pub fn distance(&self, part: usize, goal: &Goal) -> f64 {
        let mut distance = 0.0;
        for Group { index, lanes, values, .. } in self.pieces.iter().flat_map(|piece| &piece.groups) {
            let ((output, plane), wanted) = (self.parts[part].program.output(&values[part]), goal.values.group(*index));
            let width = plane.shape.width;
            for (row, wanted) in plane.rows().zip(wanted.chunks_exact(width)) {
                for (here, there) in output[row..row + width].iter().zip(wanted) {
                    let pairs = here.0[..*lanes].iter().zip(&there.0);
                    distance += f64::from(pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f32>());
                }
            }
        }
        distance
    }

    /// Gradients down to the weights or the images, once that by the last output is set. With current statistics a norm's waits
    /// for the sums of the whole batch. The outputs of the first blocks are pulled to their goals, as far as there are any.
    pub fn backward(&mut self, statistics: Statistics, goals: &[Goal]) {
        for index in (0..self.parts.len()).rev() {
            let (before, here) = self.parts.split_at_mut(index);
            let Part { block, program, backward } = &mut here[0];
            // From the end to a batch norm, whose gradient by its input waits for the sums of the whole batch.
            for nodes in program.segments().into_iter().rev() {
                let (running, trains) = (&*backward, index < self.trained);
                let starts_with_norm = !nodes.is_empty() && program.norm_channels(nodes.start) > 0;
                each(self.pieces.iter_mut(), |piece| {
                    for Group { lanes, values, slopes, .. } in &mut piece.groups {
                        let (values, slopes) = (&values[index], &mut slopes[index % 2]);
                        let sums = &mut piece.sums[index];
                        if program.norm_channels(nodes.end) > 0 {
                            running.step(program, nodes.end, values, slopes, *lanes);
                        }
                        for node in nodes.clone().rev() {
                            if trains {
                                running.sum(program, node, values, slopes, sums);
                            }
                            if node > nodes.start || !starts_with_norm {
                                running.step(program, node, values, slopes, *lanes);
                            }
                        }
                    }
                });
                if starts_with_norm && statistics == Statistics::Current {
                    let shape = block.shape(nodes.start + 1);
                    let parts = self.pieces.iter().map(|piece| piece.sums[index].as_slice());
                    let count = self.count * shape.height * shape.width;
                    backward.use_current_statistics(program, nodes.start, parts, count);
                }
            }
            let Some(previous) = before.last() else { return };
            let (backward, goal) = (&*backward, goals.get(index - 1));
            each(self.pieces.iter_mut(), |piece| {
                for Group { index: group, lanes, values, slopes } in &mut piece.groups {
                    let [even, odd] = slopes;
                    let (here, there) = if index % 2 == 0 { (even, odd) } else { (odd, even) };
                    previous.backward.slots.clear_borders(there);
                    let target = previous.backward.gradient(there, previous.block.nodes().len());
                    let Some(((target, to), (source, plane))) = target.zip(backward.gradient(here, 0)) else {
                        continue;
                    };
                    copy(program.arch, (target, to), (source, plane));
                    if let Some(Goal { values: wanted, scale }) = goal {
                        let output = previous.program.output(&values[index - 1]);
                        let pull = |slope: f32, here: f32, there: f32| slope + scale * (here - there);
                        zip_two(program.arch, (target, to), output, wanted.plane(*group), pull);
                        clear_absent((target, to), *lanes);
                    }
                }
            });
        }
    }

    /// Adds the gradients by the weights of each part to `gradients`, in the blocks' order.
    pub fn add_gradients(&mut self, gradients: &mut [Vec<Vec<f32>>]) {
        let Some((total, others)) = self.pieces.split_first_mut() else { return };
        for (index, (part, gradients)) in self.parts[..self.trained].iter().zip(gradients).enumerate() {
            others.iter().for_each(|piece| add(&mut total.sums[index], &piece.sums[index]));
            part.backward.add_sums(part.block, &part.program, &total.sums[index], gradients);
        }
    }

    /// Shows the gradient by each image to `target(image, offset, chunk)`, chunk by chunk.
    pub fn image_gradients(&mut self, mut target: impl FnMut(usize, usize, &[f32])) {
        let Some(part) = self.parts.first() else { return };
        for Group { index, lanes, slopes, .. } in self.pieces.iter_mut().flat_map(|piece| &mut piece.groups) {
            let Some((values, plane)) = part.backward.gradient(&mut slopes[0], 0) else { continue };
            gather(values, plane, *lanes, |lane, offset, chunk| target(*index * LANES + lane, offset, chunk));
        }
    }
}
