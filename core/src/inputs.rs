//! What goes into a neighbourhood: batches from one noise source.

use alloc::vec::Vec;

use crate::{
    block::Shape,
    boundary::Boundary,
    images::Images,
    kernels::plane::LANES,
    noise::{Purpose, Stream, shuffle},
};

/// The inputs `a` of one neighbourhood. What is drawn follows from seed, block and purpose alone.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Where they come from.
    pub source: Source<'a>,
    /// The run's seed.
    pub seed: u64,
    /// The neighbourhood's number: its noise is its own.
    pub index: usize,
}

/// Where a neighbourhood's inputs come from.
#[derive(Debug)]
pub enum Source<'a> {
    /// `N(0, 1)` of this shape, drawn anew for every batch; nothing is kept.
    Fresh(Shape),
    /// Cached teacher activations; the last `held_out` images are for measuring only.
    Cached {
        /// The activations.
        boundary: &'a Boundary,
        /// Images that neither solve nor training sees.
        held_out: usize,
    },
}

/// Batches of inputs, drawn one after another into memory that is used again.
#[derive(Debug)]
pub struct Batches<'a> {
    source: &'a Source<'a>,
    stream: Stream,
    /// Cached images that may be seen: the first, and how many.
    first: usize,
    visible: usize,
    /// Inputs left, or `None` without end.
    left: Option<usize>,
    /// What is left of an epoch's order, and the images of a batch.
    order: Vec<usize>,
    chosen: Vec<usize>,
    /// Noise of one group of images.
    noise: Vec<f32>,
}

impl Inputs<'_> {
    /// One pass over `count` inputs, for the solve or to measure. A cache gives each image at most once, in order, so it
    /// may end earlier.
    pub fn pass(&self, purpose: Purpose, count: usize) -> Batches<'_> {
        let mut batches = self.batches(purpose);
        batches.left = Some(if let Source::Cached { .. } = self.source { count.min(batches.visible) } else { count });
        batches
    }

    /// Inputs for training, without end: a cache in a new random order each epoch.
    pub fn epochs(&self) -> Batches<'_> {
        self.batches(Purpose::Train)
    }

    fn batches(&self, purpose: Purpose) -> Batches<'_> {
        let (first, visible) = match &self.source {
            Source::Fresh(_) => (0, 0),
            Source::Cached { boundary, held_out } => {
                let trained = boundary.len().saturating_sub(*held_out);
                if purpose == Purpose::Measure { (trained, boundary.len() - trained) } else { (0, trained) }
            }
        };
        let stream = Stream::new(self.seed, purpose, self.index);
        let (order, chosen, noise) = (Vec::new(), Vec::new(), Vec::new());
        Batches { source: &self.source, stream, first, visible, left: None, order, chosen, noise }
    }
}

impl Batches<'_> {
    /// Draws the next `size` inputs, or as many as are left; `false` where there is none.
    pub fn next_into(&mut self, size: usize, images: &mut Images) -> bool {
        let count = self.left.map_or(size, |left| left.min(size));
        match self.source {
            Source::Fresh(shape) => self.draw(*shape, count, images),
            Source::Cached { boundary, .. } => {
                self.choose(count);
                boundary.gather(&self.chosen, images);
            }
        }
        count > 0
    }

    /// Noise comes image by image, so that a batch's size does not change what is drawn.
    fn draw(&mut self, shape: Shape, count: usize, images: &mut Images) {
        let elements = shape.elements();
        images.reset(shape, count);
        self.left = self.left.map(|left| left - count);
        for group in 0..count.div_ceil(LANES) {
            let lanes = images.lanes(group);
            self.noise.resize(lanes * elements, 0.0);
            self.stream.fill(&mut self.noise);
            images.fill_group(group, |lane, offset, chunk| {
                chunk.copy_from_slice(&self.noise[lane * elements + offset..][..chunk.len()]);
            });
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
