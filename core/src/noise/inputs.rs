//! What goes into a neighbourhood: batches from one noise source.

use alloc::vec::Vec;

use crate::{
    engine::{DeviceBlock, Images, cpu::Workspace},
    noise::{Boundary, Purpose, Stream, shuffle},
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
    /// Where they come from.
    pub source: Source<'a>,
    /// The run's seed.
    pub seed: u64,
    /// The block's number: its noise is its own.
    pub index: usize,
    /// The neighbourhood inside the block, if they are for one.
    pub(crate) part: Option<Part<'a>>,
}

/// A neighbourhood inside a block.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Its number in the block.
    number: usize,
    /// What leads to it from the block's input, where that takes anything and is what it is fed.
    before: Option<Before<'a>>,
    /// Groups of images in work at the same time.
    workers: usize,
}

/// What leads to a neighbourhood inside the block: the student's side, and, where inputs come in pairs, the teacher's.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    pub inputs: &'a DeviceBlock,
    pub teachers: &'a DeviceBlock,
}

/// Between the numbers of blocks and those of their parts, so that each has noise of its own.
const PARTS: usize = 1 << 16;

/// Where a neighbourhood's inputs come from.
#[derive(Debug)]
pub enum Source<'a> {
    /// `N(0, 1)` of this shape, drawn anew for every batch; nothing is kept.
    Fresh(Shape),
    /// Cached activations; the last `held_out` images are for measuring and judging only.
    Cached {
        /// The activations: the teacher's, or as many of the student's behind them.
        boundary: &'a mut Boundary,
        /// Images that neither solve nor training sees: those that judge, behind them [`MEASURED_INPUTS`] to measure on.
        held_out: usize,
        /// Whether the student's prefix feeds the neighbourhood, and the teacher's makes the targets.
        paired: bool,
    },
}

/// Batches of inputs, drawn one after another into memory that is used again.
#[derive(Debug)]
pub struct Batches<'a> {
    source: Source<'a>,
    stream: Stream,
    /// Cached images that may be seen: the first, and how many.
    first: usize,
    visible: usize,
    /// Inputs left, or `None` without end.
    left: Option<usize>,
    /// What is left of an epoch's order, and the images of a batch.
    order: Vec<usize>,
    chosen: Vec<usize>,
    /// Noise of one image.
    noise: Vec<f32>,
    /// What leads to a neighbourhood inside the block, and the block's inputs on the way.
    before: Option<(Before<'a>, Images, Workspace)>,
}

impl<'a> Inputs<'a> {
    /// Of block `index`.
    pub fn new(source: Source<'a>, seed: u64, index: usize) -> Self {
        Self { source, seed, index, part: None }
    }

    /// Whether they are cached activations.
    pub(crate) fn are_cached(&self) -> bool {
        matches!(self.source, Source::Cached { .. })
    }

    /// Whether the teacher takes others at the same time.
    pub(crate) fn are_paired(&self) -> bool {
        matches!(self.source, Source::Cached { paired: true, .. })
    }

    /// Those of a neighbourhood inside the block that takes `shape`; cached ones go through `before` to it.
    pub(crate) fn of_part<'b>(
        &'b mut self,
        number: usize,
        shape: Shape,
        before: Option<Before<'b>>,
        workers: usize,
    ) -> Inputs<'b> {
        let source = match &mut self.source {
            Source::Fresh(_) => Source::Fresh(shape),
            Source::Cached { boundary, held_out, paired } => {
                Source::Cached { boundary, held_out: *held_out, paired: *paired }
            }
        };
        Inputs { source, seed: self.seed, index: self.index, part: Some(Part { number, before, workers }) }
    }

    /// One pass over `count` inputs, for the solve or to measure. A cache gives each image at most once, in order, so it
    /// may end earlier.
    pub fn pass(&mut self, purpose: Purpose, count: usize) -> Batches<'_> {
        let mut batches = self.batches(purpose);
        batches.left =
            Some(if let Source::Cached { .. } = batches.source { count.min(batches.visible) } else { count });
        batches
    }

    /// Inputs for training, without end: a cache in a new random order each epoch.
    pub fn epochs(&mut self) -> Batches<'_> {
        self.batches(Purpose::Train)
    }

    fn batches(&mut self, purpose: Purpose) -> Batches<'_> {
        let (source, (first, visible)) = match &mut self.source {
            Source::Fresh(shape) => (Source::Fresh(*shape), (0, 0)),
            Source::Cached { boundary, held_out, paired } => {
                let all = if *paired { boundary.len() / 2 } else { boundary.len() };
                let trained = all.saturating_sub(*held_out);
                let measured = MEASURED_INPUTS.min(all - trained);
                let seen = match purpose {
                    Purpose::Validate => (trained, all - trained - measured),
                    Purpose::Measure => (all - measured, measured),
                    _ => (0, trained),
                };
                (Source::Cached { boundary, held_out: *held_out, paired: *paired }, seen)
            }
        };
        let stream =
            Stream::new(self.seed, purpose, self.index + self.part.map_or(0, |part| (part.number + 1) * PARTS));
        let (order, chosen, noise) = (Vec::new(), Vec::new(), Vec::new());
        let before = self.part.and_then(|Part { before, workers, .. }| {
            before.map(|before| (before, Images::zeros(before.inputs.input(), 0), Workspace::new(workers)))
        });
        Batches { source, stream, first, visible, left: None, order, chosen, noise, before }
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
    pub fn next_into(&mut self, size: usize, images: &mut Images) -> Result<bool, ScratchError> {
        let count = self.left.map_or(size, |left| left.min(size));
        if let Source::Fresh(shape) = self.source {
            self.draw(shape, count, images);
        } else {
            self.choose(count);
        }
        if let Source::Cached { boundary, paired, .. } = &mut self.source {
            // The student's lie behind the teacher's.
            let behind = if *paired { boundary.len() / 2 } else { 0 };
            match &mut self.before {
                Some((before, input, workspace)) => {
                    boundary.gather(behind, &self.chosen, input)?;
                    before.inputs.forward_into(input, images, workspace);
                }
                None => boundary.gather(behind, &self.chosen, images)?,
            }
        }
        Ok(count > 0)
    }

    /// What the teacher takes for the inputs drawn last: the same, or the others of their pairs, in `others`.
    ///
    /// # Errors
    /// Of the storage that holds the cache.
    pub fn teachers<'i>(&mut self, inputs: &'i Images, others: &'i mut Images) -> Result<&'i Images, ScratchError> {
        let Source::Cached { boundary, paired: true, .. } = &mut self.source else { return Ok(inputs) };
        match &mut self.before {
            Some((before, input, workspace)) => {
                boundary.gather(0, &self.chosen, input)?;
                before.teachers.forward_into(input, others, workspace);
            }
            None => boundary.gather(0, &self.chosen, others)?,
        }
        Ok(others)
    }

    /// Noise comes image by image, so that a batch's size does not change what is drawn.
    fn draw(&mut self, shape: Shape, count: usize, images: &mut Images) {
        let elements = shape.elements();
        images.reset(shape, count);
        self.left = self.left.map(|left| left - count);
        self.noise.resize(elements, 0.0);
        for image in 0..count {
            self.stream.fill(&mut self.noise);
            images.fill_image(image, |offset, chunk| chunk.copy_from_slice(&self.noise[offset..][..chunk.len()]));
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
