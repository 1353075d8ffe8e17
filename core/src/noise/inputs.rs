//! What goes into a neighbourhood: batches from one source.

use alloc::vec::Vec;

use crate::{
    engine::{Batch, DeviceBlock, Engine, Workspace},
    noise::{Cache, Purpose, Side, Stream, shuffle},
    storage::ScratchError,
    tensor::Shape,
};

/// Inputs on which a block's error is measured.
pub const MEASURED_INPUTS: usize = 64;
/// Inputs of [`Purpose::Validate`] that say when training has done what it can.
pub const VALIDATED_INPUTS: usize = 64;

/// The inputs `a` of one neighbourhood. What is drawn follows from seed, block and purpose alone.
#[derive(Debug)]
pub struct Inputs<'a> {
    from: InputsFrom<'a>,
    seed: u64,
    /// The block's number: its noise is its own.
    index: usize,
    /// The neighbourhood inside the block, if they are for one.
    inner: Option<Inner<'a>>,
}

/// A neighbourhood inside a block.
#[derive(Clone, Copy, Debug)]
struct Inner<'a> {
    /// Its number in the block.
    number: usize,
    /// What leads to it from the block's input, where that takes anything and is what it is fed.
    before: Option<Before<'a>>,
    engine: &'a Engine,
}

/// What leads to a neighbourhood inside the block: the student's side, and, where inputs come in pairs, the teacher's.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    pub student: &'a DeviceBlock,
    pub teacher: &'a DeviceBlock,
}

/// Between the numbers of blocks and those of the neighbourhoods inside them, so that each has noise of its own.
const INNER: usize = 1 << 16;

/// Where a neighbourhood's inputs come from.
#[derive(Debug)]
pub enum InputsFrom<'a> {
    /// `N(0, 1)` of this shape, drawn anew for every batch; nothing is kept.
    Fresh(Shape),
    /// Cached activations. Where the students have a side of their own, it feeds the neighbourhood, and the teacher's makes the
    /// targets.
    Cached {
        /// The activations.
        cache: &'a mut Cache,
        /// Images at the end that neither solve nor training sees: those that judge, then [`MEASURED_INPUTS`] to measure on.
        held_out: usize,
    },
}

/// What drawing inputs takes.
#[derive(Clone, Copy, Debug)]
pub struct InputBytes {
    /// Whether they are cached activations.
    pub cached: bool,
    /// Whether the teacher takes other images than the student.
    pub paired: bool,
    /// Values of an input.
    pub elements: usize,
}

impl InputBytes {
    /// Values that lie beside an input, for the teacher.
    pub fn beside(&self) -> usize {
        if self.paired { self.elements } else { 0 }
    }

    /// Heap bytes beside the batches: of a cache the numbers of so many images, and of an epoch's order.
    pub fn bytes(&self, images: usize, order: usize) -> u64 {
        if self.cached { ((2 * images + order) * size_of::<usize>()) as u64 } else { 0 }
    }
}

/// Batches of inputs, drawn one after another into memory that is used again.
#[derive(Debug)]
pub struct Batches<'a> {
    from: InputsFrom<'a>,
    stream: Stream,
    /// Cached images that may be seen: the first, and how many.
    first: usize,
    visible: usize,
    /// Inputs left, or `None` without end.
    left: Option<usize>,
    /// What is left of an epoch's order, and the images of a batch.
    order: Vec<usize>,
    chosen: Vec<usize>,
    /// What leads to a neighbourhood inside the block, and the block's inputs on the way.
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
    /// Of block `index`.
    pub fn new(from: InputsFrom<'a>, seed: u64, index: usize) -> Self {
        Self { from, seed, index, inner: None }
    }

    /// Whether they are cached activations.
    pub(crate) fn are_cached(&self) -> bool {
        matches!(self.from, InputsFrom::Cached { .. })
    }

    /// Whether the teacher takes others at the same time.
    pub(crate) fn are_paired(&self) -> bool {
        matches!(&self.from, InputsFrom::Cached { cache, .. } if cache.has_students())
    }

    /// Those of a neighbourhood inside the block that takes `shape`; cached ones go through `before` to it.
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

    /// One pass over `count` inputs, for the solve or to measure. A cache gives each image at most once, in order, so it
    /// may end earlier.
    pub fn pass(&mut self, purpose: Purpose, count: usize) -> Batches<'_> {
        let mut batches = self.batches(purpose);
        let cached = matches!(batches.from, InputsFrom::Cached { .. });
        batches.left = Some(if cached { count.min(batches.visible) } else { count });
        batches
    }

    /// Inputs for training, without end: a cache in a new random order each epoch.
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
    /// Inputs of a pass that are left; 0 without end.
    pub fn left(&self) -> usize {
        self.left.unwrap_or(0)
    }

    /// Draws the next `size` inputs, or as many as are left; `false` where there is none.
    ///
    /// # Errors
    /// Of the storage that holds the cache.
    pub fn next_into(&mut self, size: usize, images: &mut Batch) -> Result<bool, ScratchError> {
        let count = self.left.map_or(size, |left| left.min(size));
        match self.from {
            // One image after another, so that a batch's size does not change what is drawn.
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

    /// What the teacher takes for the inputs drawn last: the same, or the others of their pairs, in `others`.
    ///
    /// # Errors
    /// Of the storage that holds the cache.
    pub fn teachers<'i>(&mut self, inputs: &'i Batch, others: &'i mut Batch) -> Result<&'i Batch, ScratchError> {
        if !matches!(&self.from, InputsFrom::Cached { cache, .. } if cache.has_students()) {
            return Ok(inputs);
        }
        self.gather(Side::Teacher, others)?;
        Ok(others)
    }

    /// The chosen images of a side, at the neighbourhood's input.
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
