//! The inputs of one neighbourhood, in batches from one source.

use alloc::vec::Vec;

use crate::{
    engine::{Batch, DeviceBlock, Engine, Workspace},
    inputs::{Cache, Side},
    storage::ScratchError,
    stream::{Purpose, Stream, shuffle},
    tensor::Shape,
};

/// Number of inputs on which a block's error is measured.
pub const MEASURED_INPUTS: usize = 64;
/// Number of inputs ([`Purpose::Validate`]) on which early stopping is decided.
pub const VALIDATED_INPUTS: usize = 64;

/// The inputs `a` of one neighbourhood, determined by seed, block and purpose alone.
#[derive(Debug)]
pub struct Inputs<'a> {
    from: InputsFrom<'a>,
    seed: u64,
    /// The block's number, which gives it its own noise.
    index: usize,
    /// The neighbourhood inside the block, if these are its inputs.
    inner: Option<Inner<'a>>,
}

/// A neighbourhood inside a block.
#[derive(Clone, Copy, Debug)]
struct Inner<'a> {
    /// Its number in the block.
    number: usize,
    /// The nodes from the block's input to its own, if the inputs are cached and there are such nodes.
    before: Option<Before<'a>>,
    engine: &'a Engine,
}

/// The nodes before a neighbourhood inside the block: the student's and, for paired inputs, the teacher's.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    pub student: &'a DeviceBlock,
    pub teacher: &'a DeviceBlock,
}

/// Offset of a stream's index per neighbourhood inside a block, larger than any block's number, for noise of its own.
const INNER: usize = 1 << 16;

/// The source of a neighbourhood's inputs.
#[derive(Debug)]
pub enum InputsFrom<'a> {
    /// `N(0, 1)` of this shape, drawn anew for every batch and not stored.
    Fresh(Shape),
    /// Cached activations. If the students have their own side, it holds the inputs, the teacher's the targets.
    Cached {
        /// The activations.
        cache: &'a mut Cache,
        /// Images at the end that solve and training never use: those for early stopping, then [`MEASURED_INPUTS`].
        held_out: usize,
    },
}

/// The memory needed to draw inputs.
#[derive(Clone, Copy, Debug)]
pub struct InputBytes {
    /// Whether the inputs are cached activations.
    pub cached: bool,
    /// Whether teacher and student have different inputs.
    pub paired: bool,
    /// Values per input.
    pub elements: usize,
}

impl InputBytes {
    /// Values per input that the teacher needs in addition.
    pub fn beside(&self) -> usize {
        if self.paired { self.elements } else { 0 }
    }

    /// Heap bytes in addition to the batches: for a cache, the indices of `images` images and of an epoch's `order`.
    pub fn bytes(&self, images: usize, order: usize) -> u64 {
        if self.cached { ((2 * images + order) * size_of::<usize>()) as u64 } else { 0 }
    }
}

/// Batches of inputs, drawn one after another into reused memory.
#[derive(Debug)]
pub struct Batches<'a> {
    from: InputsFrom<'a>,
    stream: Stream,
    /// Cached images that may be used: the first, and their number.
    first: usize,
    visible: usize,
    /// Inputs left; `None` if unlimited.
    left: Option<usize>,
    /// The rest of an epoch's order, and the image indices of the current batch.
    order: Vec<usize>,
    chosen: Vec<usize>,
    /// The nodes before a neighbourhood inside the block, with buffers for the block's inputs.
    before: Option<(Before<'a>, Batch, Workspace)>,
}

impl<'a> InputsFrom<'a> {
    fn reborrow(&mut self) -> InputsFrom<'_> {
        match self {
            Self::Fresh(shape) => InputsFrom::Fresh(*shape),
            Self::Cached { cache, held_out } => InputsFrom::Cached { cache, held_out: *held_out },
        }
    }
}

impl<'a> Inputs<'a> {
    /// The inputs of block `index`.
    pub fn new(from: InputsFrom<'a>, seed: u64, index: usize) -> Self {
        Self { from, seed, index, inner: None }
    }

    /// Whether the inputs are cached activations.
    pub(crate) fn are_cached(&self) -> bool {
        matches!(self.from, InputsFrom::Cached { .. })
    }

    /// Whether teacher and student have different inputs.
    pub(crate) fn are_paired(&self) -> bool {
        matches!(&self.from, InputsFrom::Cached { cache, .. } if cache.has_students())
    }

    /// The inputs, of shape `shape`, of a neighbourhood inside the block; cached inputs are passed through `before`.
    pub(crate) fn of_inner<'b>(
        &'b mut self,
        number: usize,
        shape: Shape,
        before: Option<Before<'b>>,
        engine: &'b Engine,
    ) -> Inputs<'b> {
        let from = match &mut self.from {
            InputsFrom::Fresh(_) => InputsFrom::Fresh(shape),
            cached => cached.reborrow(),
        };
        Inputs { from, seed: self.seed, index: self.index, inner: Some(Inner { number, before, engine }) }
    }

    /// Starts a pass over `count` inputs, to solve or to measure. A cache returns each image at most once, in order, so
    /// the pass may be shorter.
    pub fn pass(&mut self, purpose: Purpose, count: usize) -> Batches<'_> {
        let mut batches = self.batches(purpose);
        let cached = matches!(batches.from, InputsFrom::Cached { .. });
        batches.left = Some(if cached { count.min(batches.visible) } else { count });
        batches
    }

    /// Starts an unlimited sequence of training inputs; a cache is shuffled anew for each epoch.
    pub fn epochs(&mut self) -> Batches<'_> {
        self.batches(Purpose::Train)
    }

    fn batches(&mut self, purpose: Purpose) -> Batches<'_> {
        let (first, visible) = match &self.from {
            InputsFrom::Fresh(_) => (0, 0),
            InputsFrom::Cached { cache, held_out } => {
                let all = cache.len();
                let trained = all.saturating_sub(*held_out);
                let measured = MEASURED_INPUTS.min(all - trained);
                match purpose {
                    Purpose::Validate => (trained, all - trained - measured),
                    Purpose::Measure => (all - measured, measured),
                    _ => (0, trained),
                }
            }
        };
        let index = self.index + self.inner.map_or(0, |inner| (inner.number + 1) * INNER);
        let before = self.inner.and_then(|Inner { before, engine, .. }| {
            before.map(|before| (before, Batch::new(&engine.device), engine.workspace()))
        });
        Batches {
            from: self.from.reborrow(),
            stream: Stream::new(self.seed, purpose, index),
            first,
            visible,
            left: None,
            order: Vec::new(),
            chosen: Vec::new(),
            before,
        }
    }
}

impl Batches<'_> {
    /// Inputs left in a pass; 0 if unlimited.
    pub fn left(&self) -> usize {
        self.left.unwrap_or(0)
    }

    /// Draws the next `size` inputs, or fewer at the end of a pass; returns `false` if none are left.
    ///
    /// # Errors
    /// The errors of the storage that holds the cache.
    pub fn next_into(&mut self, size: usize, images: &mut Batch) -> Result<bool, ScratchError> {
        let count = self.left.map_or(size, |left| left.min(size));
        match self.from {
            // Draw image by image: the batch size must not change the noise.
            InputsFrom::Fresh(shape) => {
                let stream = &mut self.stream;
                images.fill_in_order(shape, count, |_, _, chunk| {
                    stream.fill(chunk);
                    Ok::<(), ScratchError>(())
                })?;
                self.left = self.left.map(|left| left - count);
            }
            InputsFrom::Cached { .. } => {
                self.choose(count);
                self.gather(Side::Student, images)?;
            }
        }
        Ok(count > 0)
    }

    /// Returns the teacher's inputs for the batch drawn last: `inputs` or, if paired, its counterparts in `others`.
    ///
    /// # Errors
    /// The errors of the storage that holds the cache.
    pub fn teachers<'i>(&mut self, inputs: &'i Batch, others: &'i mut Batch) -> Result<&'i Batch, ScratchError> {
        if !matches!(&self.from, InputsFrom::Cached { cache, .. } if cache.has_students()) {
            return Ok(inputs);
        }
        self.gather(Side::Teacher, others)?;
        Ok(others)
    }

    /// Copies the chosen images of a side to the neighbourhood's input.
    fn gather(&mut self, side: Side, images: &mut Batch) -> Result<(), ScratchError> {
        let InputsFrom::Cached { cache, .. } = &mut self.from else { return Ok(()) };
        match &mut self.before {
            Some((before, input, workspace)) => {
                cache.gather(side, &self.chosen, input)?;
                let before = if side == Side::Student { before.student } else { before.teacher };
                before.forward_into(input, images, workspace);
                Ok(())
            }
            None => cache.gather(side, &self.chosen, images),
        }
    }

    fn choose(&mut self, count: usize) {
        self.chosen.clear();
        match self.left {
            Some(left) => {
                self.chosen.extend(self.first..self.first + count);
                self.first += count;
                self.left = Some(left - count);
            }
            None => {
                while self.chosen.len() < count && self.visible > 0 {
                    if self.order.is_empty() {
                        shuffle(&mut self.stream, &mut self.order, self.visible);
                    }
                    self.chosen.extend(self.order.pop());
                }
            }
        }
    }
}
