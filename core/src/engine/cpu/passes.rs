//! Forward and backward passes of a batch through a sequence of blocks.
//!
//! Each group of images goes forward through all blocks, and its gradient back, before the next group starts: a pass
//! needs one arena per worker, independent of the batch size, and the batch may come in parts. Only batch norms with
//! batch statistics make a pass stop. Then each group waits in its own arena or, if memory is short, is recomputed from
//! its input after every stop. Both give bit-identical results.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use super::{
    Arenas, Groups, Workspace,
    sequence::{Group, Place, Sequence, Stage},
};
use crate::{
    block::{Block, Statistics},
    engine::{Disturbance, Goals},
    heap::held,
    kernels::{
        norm::Moments,
        parallel::{each, share},
        plane::{LANES, Lanes},
    },
};

/// Pieces of a batch. Their gradients are summed separately, then in order: no result depends on the number of threads.
const PIECES: usize = 8;

/// The statistics that batch norms use, and whether passes stop at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// Running statistics: no stops.
    Running,
    /// The statistics of each batch.
    Current,
    /// Running statistics; batch statistics are computed and reported.
    Observed,
}

impl From<Statistics> for Norms {
    fn from(statistics: Statistics) -> Self {
        match statistics {
            Statistics::Running => Self::Running,
            Statistics::Current => Self::Current,
        }
    }
}

/// The passes of a batch, and their sums.
#[derive(Debug)]
pub struct Passes {
    sequence: Sequence,
    norms: Norms,
    /// Pieces of the current part, and what is left of a larger one. The first piece may have begun in the previous part.
    pieces: Vec<Piece>,
    /// Images of the batch, and its groups processed so far.
    count: usize,
    done: usize,
    /// Errors of all complete pieces, as in [`Piece`].
    errors: Vec<f64>,
    /// Input moments of the batch norm at the last stop.
    moments: Vec<Moments>,
}

/// The sums of some consecutive groups of a batch.
#[derive(Debug)]
struct Piece {
    /// Weight-gradient sums, stage by stage, each in the order of its [`Backward`].
    sums: Vec<f32>,
    /// The squared distance of each block's output from its goal, then the cross-entropy.
    errors: Vec<f64>,
    /// Moments of each group at the last stop.
    moments: Vec<Moments>,
}

/// The groups of a piece that are in the current part of a batch.
struct Task<'a> {
    piece: &'a mut Piece,
    groups: Range<usize>,
    /// Whether these are the piece's first groups.
    begins: bool,
    /// Arenas in which groups wait between stops; empty if a worker's arena is used.
    arenas: &'a mut [Vec<Lanes>],
    /// Destination of the image gradients; may be empty.
    slopes: &'a mut [Lanes],
}

/// One part of a batch, and how to process it.
pub struct Feed<'a> {
    pub images: &'a Groups,
    pub goals: Goals<'a>,
    /// Whether groups may wait in their own arenas at a stop.
    pub waits: bool,
    /// Destination of the image gradients.
    pub slopes: Option<&'a mut Groups>,
    /// Called at each stop.
    pub observe: &'a mut dyn FnMut(Stop<'_>),
}

/// A batch norm at which a pass stopped.
pub struct Stop<'a> {
    /// The block, and its stage.
    pub block: &'a Block,
    pub stage: &'a mut Stage,
    pub node: usize,
    /// The batch norm's input moments over the batch.
    pub moments: &'a [Moments],
}

impl Passes {
    /// Prepares passes through `blocks`, each of which reads the previous block's output. Gradients are computed for
    /// the weights of the first `trained` blocks or, if that is 0, for the images.
    pub fn new(blocks: &[Block], trained: usize, norms: Norms) -> Self {
        let sequence = Sequence::new(blocks, trained, norms);
        let errors = vec![0.0; blocks.len() + 1];
        Self { sequence, norms, pieces: Vec::new(), count: 0, done: 0, errors, moments: Vec::new() }
    }

    /// Heap bytes for batches of `count` images in parts of `part`, excluding arenas.
    pub fn heap_bytes(&self, count: usize, part: usize) -> usize {
        let Sequence { stages, places, stops, .. } = &self.sequence;
        let (groups, step) = (count.div_ceil(LANES), part.div_ceil(LANES).max(1));
        let pieces = (0..groups).step_by(step).map(|first| pieces_of(&(first..groups.min(first + step)), groups).len());
        let errors = held(&self.errors);
        let piece = size_of::<Piece>() + self.sequence.sums * size_of::<f32>() + errors;
        let of_stage = |stage: &Stage| stage.program.heap_bytes() + stage.backward.heap_bytes();
        held(stages)
            + held(places)
            + held(stops)
            + errors
            + stages.iter().map(of_stage).sum::<usize>()
            + pieces.max().unwrap_or(0) * piece
    }

    /// Vectors per arena.
    pub fn arena(&self) -> usize {
        self.sequence.arena()
    }

    /// Sets new weights of the trained blocks, in order.
    pub fn set_weights(&mut self, blocks: &[Block], weights: &[Vec<f32>]) {
        for (stage, block) in self.sequence.stages.iter_mut().zip(blocks).take(self.sequence.trained) {
            let weight = |index: usize| weights[stage.weights + index].as_slice();
            stage.program.set_weights(block, weight);
            stage.backward.set_weights(block, &stage.program, weight);
        }
    }

    /// Adds noise to the output of every neighbourhood in all passes that follow.
    pub fn disturb(&mut self, blocks: &[Block], disturbance: Disturbance) {
        self.sequence.disturb(blocks, disturbance);
    }

    /// Starts the batch of a step, of `count` images.
    pub fn begin(&mut self, count: usize, step: usize) {
        (self.count, self.done, self.sequence.step) = (count, 0, step);
        self.errors.fill(0.0);
    }

    /// Takes a part of the batch forward and back, and adds its weight gradients to `gradients`, those of all trained
    /// blocks in order. All parts but the last are whole groups of images.
    ///
    /// # Panics
    /// If a pass with stops is given less than the whole batch.
    pub fn add(&mut self, blocks: &[Block], mut feed: Feed<'_>, workspace: &mut Workspace, gradients: &mut [Vec<f32>]) {
        let groups = self.count.div_ceil(LANES);
        let part = self.done..self.done + feed.images.groups().len();
        let here = pieces_of(&part, groups);
        let last = self.sequence.stops.len();
        assert!(last == 0 || part == (0..groups), "statistics of a batch are of the whole batch");
        if self.pieces.len() < here.len() {
            let (sums, errors) = (self.sequence.sums, self.errors.len());
            let piece = || Piece { sums: vec![0.0; sums], errors: vec![0.0; errors], moments: Vec::new() };
            self.pieces.resize_with(here.len(), piece);
        }
        let waits = last > 0 && feed.waits;
        for segment in 0..last {
            self.forward(segment, waits, blocks, &mut feed, workspace);
        }
        for segment in (0..=last).rev() {
            self.backward(segment, waits, &mut feed, workspace);
        }
        for (index, piece) in here.enumerate() {
            if bounds(piece, groups).end <= part.end {
                let Piece { sums, errors, .. } = &self.pieces[index];
                self.sequence.add_gradients(blocks, sums, gradients);
                self.errors.iter_mut().zip(errors).for_each(|(total, error)| *total += error);
            } else {
                self.pieces.swap(0, index);
            }
        }
        self.done = part.end;
    }

    /// The squared distance of each block's output from its goal, over the batch.
    pub fn distances(&self) -> &[f64] {
        &self.errors[..self.errors.len() - 1]
    }

    /// The mean cross-entropy of the batch, without its weight.
    pub fn cross_entropy(&self) -> f32 {
        let total = self.errors.last().copied().unwrap_or(0.0);
        total as f32 * (1.0 / self.count.max(1) as f32)
    }

    /// Takes the batch forward to the stop that ends a segment, and sets the statistics of the batch norm there.
    fn forward(
        &mut self,
        segment: usize,
        waits: bool,
        blocks: &[Block],
        feed: &mut Feed<'_>,
        workspace: &mut Workspace,
    ) {
        let places = self.sequence.segment(segment);
        let Place { stage, node } = self.sequence.places[places.end];
        let channels = self.sequence.stages[stage].program.norm_channels(node);
        let (start, images, before) = (if waits { places.start } else { 0 }, feed.images, self.done);
        self.each_group(waits, images, None, workspace, |sequence, task, index, arena| {
            sequence.forward(start..places.end, arena, images.plane(index), before + index);
            // A batch norm may be the first node of its block.
            sequence.load(places.end, arena, images.plane(index), before + index);
            let found = &mut task.piece.moments;
            found.resize(channels * task.groups.len(), Moments::default());
            let found = &mut found[(index - task.groups.start) * channels..][..channels];
            let Stage { program, values, .. } = &sequence.stages[stage];
            program.moments(node, &arena[*values..], images.lanes(index), found);
        });
        let pieces = &self.pieces[..pieces_in(self.count.div_ceil(LANES))];
        let found = pieces.iter().flat_map(|piece| piece.moments.chunks_exact(channels));
        let here = &mut self.sequence.stages[stage];
        here.program.total(node, found, &mut self.moments);
        if self.norms == Norms::Current {
            here.program.set_moments(node, &self.moments);
        }
        (feed.observe)(Stop { block: &blocks[stage], stage: here, node, moments: &self.moments });
    }

    /// Takes the gradients back to a segment's start, where the batch norm first needs its sums over the whole batch.
    fn backward(&mut self, segment: usize, waits: bool, feed: &mut Feed<'_>, workspace: &mut Workspace) {
        let (places, end) = (self.sequence.segment(segment), self.sequence.places.len());
        let last = places.end == end;
        let (images, goals, count, before) = (feed.images, feed.goals, self.count, self.done);
        let slopes = feed.slopes.as_deref_mut().filter(|_| segment == 0);
        self.each_group(waits, images, slopes, workspace, |sequence, task, index, arena| {
            let Piece { sums, errors, .. } = &mut *task.piece;
            if last && task.begins && index == task.groups.start {
                sums.fill(0.0);
                errors.fill(0.0);
            }
            let group = Group { index, lanes: images.lanes(index), count };
            let top = if waits { places.end } else { end };
            if last || !waits {
                let start = if waits { places.start } else { 0 };
                sequence.forward(start..end, arena, images.plane(index), before + index);
                sequence.pull_last(&goals, group, arena, errors.as_mut_slice(), last);
            } else {
                sequence.step_back(top, &goals, group, arena, errors, true);
            }
            for place in (places.start..top).rev() {
                if places.contains(&place) {
                    sequence.sum(place, arena, sums);
                }
                if place > places.start || segment == 0 {
                    // Errors after the segment were counted with a later segment, which ran before.
                    sequence.step_back(place, &goals, group, arena, errors, place <= places.end);
                }
            }
        });
        if segment > 0 && self.norms == Norms::Current {
            let Place { stage, node } = self.sequence.places[places.start];
            let Stage { program, backward, sums, .. } = &mut self.sequence.stages[stage];
            let pieces = &self.pieces[..pieces_in(self.count.div_ceil(LANES))];
            let sums = pieces.iter().map(|piece| &piece.sums[*sums..]);
            backward.use_current_statistics(program, node, sums, self.count);
        }
    }

    /// Calls `work` for every group of the current part, with its task, index and arena; in order within a piece.
    fn each_group(
        &mut self,
        waits: bool,
        images: &Groups,
        slopes: Option<&mut Groups>,
        workspace: &mut Workspace,
        work: impl Fn(&Sequence, &mut Task<'_>, usize, &mut [Lanes]) + Sync,
    ) {
        let Self { sequence, pieces, count, done, .. } = self;
        let (sequence, groups) = (&*sequence, count.div_ceil(LANES));
        let part = *done..*done + images.groups().len();
        let (elements, len) = (images.shape().elements(), sequence.arena());
        let mut slopes = slopes.map_or(&mut [][..], Groups::values_mut);
        let (waiting, workers) = if waits { (part.len(), 0) } else { (0, pieces_of(&part, groups).len()) };
        let Arenas { mut waiting, workers } = workspace.split(waiting, workers, len);
        let tasks = pieces.iter_mut().zip(pieces_of(&part, groups)).map(|(piece, number)| {
            let bounds = bounds(number, groups);
            let groups = bounds.start.max(part.start) - part.start..bounds.end.min(part.end) - part.start;
            Task {
                piece,
                begins: bounds.start >= part.start,
                arenas: waiting.split_off_mut(..groups.len().min(waiting.len())).unwrap_or_default(),
                slopes: slopes.split_off_mut(..(elements * groups.len()).min(slopes.len())).unwrap_or_default(),
                groups,
            }
        });
        let through = |mut task: Task<'_>, arena: &mut [Lanes]| {
            let (arenas, slopes) = (core::mem::take(&mut task.arenas), core::mem::take(&mut task.slopes));
            let mut slopes = slopes.chunks_exact_mut(elements);
            for (place, index) in task.groups.clone().enumerate() {
                let arena = arenas.get_mut(place).map_or(&mut *arena, Vec::as_mut_slice);
                work(sequence, &mut task, index, arena);
                if let Some(slope) = slopes.next() {
                    sequence.store_slope(arena, slope);
                }
            }
        };
        if waits {
            each(tasks, |task| through(task, &mut []));
        } else {
            share(workers, tasks, |task, arena| through(task, arena));
        }
    }
}

/// The number of pieces of a batch of `groups` groups.
fn pieces_in(groups: usize) -> usize {
    PIECES.min(groups)
}

/// The groups of a piece in a batch of `groups` groups.
fn bounds(piece: usize, groups: usize) -> Range<usize> {
    let count = pieces_in(groups);
    piece * groups / count..(piece + 1) * groups / count
}

/// The pieces that the groups `part` belong to, in a batch of `groups` groups.
fn pieces_of(part: &Range<usize>, groups: usize) -> Range<usize> {
    let piece = |group: usize| (0..pieces_in(groups)).rfind(|&p| bounds(p, groups).start <= group).unwrap_or(0);
    if part.is_empty() { 0..0 } else { piece(part.start)..piece(part.end - 1) + 1 }
}
