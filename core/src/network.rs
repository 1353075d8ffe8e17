//! Gradient steps on a whole network with labels: batch norms with the statistics of each batch, cross-entropy on its logits.

use alloc::{vec, vec::Vec};

use crate::{
    block::Block,
    block_error::BlockError,
    cpu::{Backward, PIECES, Program, add},
    images::Images,
    kernels::{
        elementwise::copy,
        norm::Moments,
        parallel::each,
        plane::{LANES, Lanes},
    },
    op::Op,
    optimizer::Optimizer,
    train::Training,
};

/// Share of a batch's statistics in the running ones (PyTorch's default).
const STATISTICS_RATE: f32 = 0.1;

/// A network in training on the CPU: weights, optimiser state, and every activation of a batch.
#[derive(Debug)]
pub struct NetworkTrainer<'a> {
    training: &'a Training,
    parts: Vec<Part<'a>>,
    pieces: Vec<Piece>,
    optimizer: Optimizer,
    step: usize,
}

/// One block.
#[derive(Debug)]
struct Part<'a> {
    block: &'a Block,
    program: Program,
    backward: Backward,
    weights: Vec<Vec<f32>>,
    gradients: Vec<Vec<f32>>,
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

impl<'a> NetworkTrainer<'a> {
    /// Starts from the blocks' weights; each block takes what the one before it gives, the last gives `[classes, 1, 1]`.
    pub fn new(blocks: &'a [Block], training: &'a Training) -> Self {
        let part = |(index, block): (usize, &'a Block)| {
            let program = Program::new(block, block.nodes().len(), true);
            let backward = Backward::new(block, &program, index > 0);
            let weights: Vec<Vec<f32>> = block.weights().iter().map(|weight| weight.data.clone()).collect();
            let gradients = weights.iter().map(|weight| vec![0.0; weight.len()]).collect();
            Part { block, program, backward, weights, gradients }
        };
        let sizes = blocks.iter().flat_map(|block| {
            let size = |(index, weight): (usize, &crate::tensor::Weight)| {
                if block.is_trained(index) { weight.data.len() } else { 0 }
            };
            block.weights().iter().enumerate().map(size)
        });
        let optimizer = Optimizer::new(training.update, training.weight_decay, sizes);
        let parts = blocks.iter().enumerate().map(part).collect();
        Self { training, parts, pieces: Vec::new(), optimizer, step: 0 }
    }

    /// One step towards `labels`; returns the mean cross-entropy before it.
    ///
    /// # Panics
    /// If the images do not fit the first block, or there are not as many labels.
    pub fn step(&mut self, images: &Images, labels: &[u16]) -> f32 {
        assert_eq!(images.len(), labels.len(), "each image has a label");
        for Part { block, program, backward, weights, .. } in &mut self.parts {
            program.set_weights(block, |index| &weights[index]);
            backward.set_weights(block, program, |index| &weights[index]);
        }
        self.prepare(images.len());
        self.forward(images);
        let loss = self.cross_entropy(labels);
        self.backward(images.len());
        for (index, Part { block, program, backward, gradients, .. }) in self.parts.iter_mut().enumerate() {
            gradients.iter_mut().for_each(|gradient| gradient.fill(0.0));
            if let Some((total, others)) = self.pieces.split_first_mut() {
                others.iter().for_each(|piece| add(&mut total.sums[index], &piece.sums[index]));
                backward.add_sums(block, program, &total.sums[index], gradients);
            }
        }
        let rate = self.training.schedule.rate(self.training.rate, self.step, self.training.steps);
        let pairs = self.parts.iter_mut().flat_map(|part| part.weights.iter_mut().zip(&part.gradients));
        self.optimizer.step(pairs, rate);
        self.step += 1;
        loss
    }

    /// The blocks with the weights and running statistics reached.
    ///
    /// # Errors
    /// [`BlockError::WeightValue`] if training diverged.
    pub fn finish(self) -> Result<Vec<Block>, BlockError> {
        let finish = |part: Part<'a>| {
            let mut weights = part.block.weights().to_vec();
            weights.iter_mut().zip(part.weights).for_each(|(weight, values)| weight.data = values);
            part.block.with_weights(weights)
        };
        self.parts.into_iter().map(finish).collect()
    }

    /// Arenas for `count` images; those of the last step, if it had as many.
    fn prepare(&mut self, count: usize) {
        let groups = count.div_ceil(LANES);
        let parts = &self.parts;
        let slopes = parts.iter().map(|part| part.backward.arena()).max().unwrap_or(0);
        let group = |index: usize| Group {
            index,
            lanes: count.min((index + 1) * LANES) - index * LANES,
            values: parts.iter().map(|part| vec![Lanes::ZERO; part.program.arena()]).collect(),
            slopes: [(); 2].map(|()| vec![Lanes::ZERO; slopes]),
        };
        let held: usize = self.pieces.iter().flat_map(|piece| &piece.groups).map(|group| group.lanes).sum();
        if held != count {
            let pieces = PIECES.min(groups);
            let piece = |piece: usize| Piece {
                groups: (piece * groups / pieces..(piece + 1) * groups / pieces).map(group).collect(),
                sums: parts.iter().map(|part| vec![0.0; part.backward.sums()]).collect(),
                ..Piece::default()
            };
            self.pieces = (0..pieces).map(piece).collect();
        }
        for piece in &mut self.pieces {
            piece.error = 0.0;
            piece.sums.iter_mut().for_each(|sums| sums.fill(0.0));
        }
    }

    fn forward(&mut self, images: &Images) {
        for index in 0..self.parts.len() {
            let (before, here) = self.parts.split_at_mut(index);
            let Part { block, program, weights, .. } = &mut here[0];
            for (segment, nodes) in program.segments().into_iter().enumerate() {
                let (channels, running) = (program.norm_channels(nodes.end).max(1), &*program);
                each(self.pieces.iter_mut(), |piece| {
                    piece.moments.resize(channels * piece.groups.len(), Moments::default());
                    let found = piece.moments.chunks_exact_mut(channels);
                    for (group, found) in piece.groups.iter_mut().zip(found) {
                        if segment == 0 {
                            let (done, values) = group.values.split_at_mut(index);
                            match before.last().zip(done.last()) {
                                Some((part, values_before)) => {
                                    running.load(&mut values[0], part.program.output(values_before))
                                }
                                None => running.load(&mut values[0], images.plane(group.index)),
                            }
                        }
                        let values = &mut group.values[index];
                        nodes.clone().for_each(|node| running.step(node, values));
                        running.moments(nodes.end, values, group.lanes, found);
                    }
                });
                let parts: Vec<Moments> = self.pieces.iter().flat_map(|piece| &piece.moments).copied().collect();
                let total = program.set_moments(nodes.end, &parts);
                update_running_statistics(block, nodes.end, &total, weights);
            }
        }
    }

    /// Sets the gradient by the logits; returns the mean cross-entropy.
    fn cross_entropy(&mut self, labels: &[u16]) -> f32 {
        let (Some(part), last) = (self.parts.last(), self.parts.len() - 1) else { return 0.0 };
        let scale = 1.0 / labels.len().max(1) as f32;
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
                    let logit = |class: usize| logits[plane.at(class, 0, 0)].0[lane];
                    let largest = (0..classes).map(logit).fold(f32::NEG_INFINITY, f32::max);
                    let total: f32 = (0..classes).map(|class| libm::expf(logit(class) - largest)).sum();
                    let label = usize::from(labels[*index * LANES + lane]);
                    piece.error += f64::from(libm::logf(total) + largest - logit(label));
                    for class in 0..classes {
                        let expected = if class == label { 1.0 } else { 0.0 };
                        let share = libm::expf(logit(class) - largest) / total;
                        slope[to.at(class, 0, 0)].0[lane] = scale * (share - expected);
                    }
                }
            }
        }
        self.pieces.iter().map(|piece| piece.error).sum::<f64>() as f32 * scale
    }

    fn backward(&mut self, count: usize) {
        for index in (0..self.parts.len()).rev() {
            let (before, here) = self.parts.split_at_mut(index);
            let Part { block, program, backward, .. } = &mut here[0];
            // From the end to a batch norm, whose gradient by its input waits for the sums of the whole batch.
            for nodes in program.segments().into_iter().rev() {
                let running = &*backward;
                let starts_with_norm = !nodes.is_empty() && program.norm_channels(nodes.start) > 0;
                each(self.pieces.iter_mut(), |piece| {
                    for Group { lanes, values, slopes, .. } in &mut piece.groups {
                        let (values, slopes) = (&values[index], &mut slopes[index % 2]);
                        let sums = &mut piece.sums[index];
                        if program.norm_channels(nodes.end) > 0 {
                            running.step(program, nodes.end, values, slopes, *lanes);
                        }
                        for node in nodes.clone().rev() {
                            running.sum(program, node, values, slopes, sums);
                            if node > nodes.start || !starts_with_norm {
                                running.step(program, node, values, slopes, *lanes);
                            }
                        }
                    }
                });
                if starts_with_norm {
                    let shape = block.shape(nodes.start + 1);
                    let parts = self.pieces.iter().map(|piece| piece.sums[index].as_slice());
                    backward.use_current_statistics(program, nodes.start, parts, count * shape.height * shape.width);
                }
            }
            let Some(previous) = before.last() else { return };
            let backward = &*backward;
            each(self.pieces.iter_mut(), |piece| {
                for Group { slopes, .. } in &mut piece.groups {
                    let [even, odd] = slopes;
                    let (here, there) = if index % 2 == 0 { (even, odd) } else { (odd, even) };
                    previous.backward.slots.clear_borders(there);
                    let target = previous.backward.gradient(there, previous.block.nodes().len());
                    if let Some((target, (source, plane))) = target.zip(backward.gradient(here, 0)) {
                        copy(program.arch, target, (source, plane));
                    }
                }
            });
        }
    }
}

/// Moves a batch norm's running mean and (unbiased) variance towards the batch's.
fn update_running_statistics(block: &Block, node: usize, moments: &[Moments], weights: &mut [Vec<f32>]) {
    let Some(node) = block.nodes().get(node).filter(|node| matches!(node.op, Op::BatchNorm(_))) else { return };
    let mut update = |slot: usize, value: &dyn Fn(&Moments) -> f64| {
        for (running, moments) in weights[usize::from(node.weights[slot])].iter_mut().zip(moments) {
            *running += STATISTICS_RATE * (value(moments) as f32 - *running);
        }
    };
    update(2, &|moments| moments.mean);
    update(3, &|moments| moments.scatter / (moments.count - 1.0).max(1.0));
}
