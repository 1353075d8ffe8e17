//! What goes into a neighbourhood: batches from one noise source.

use alloc::vec::Vec;

use burn::tensor::{Device, Tensor};

use crate::{
    block::Shape,
    boundary::Boundary,
    forward::images,
    noise::{Purpose, Stream, shuffled},
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
    /// Where the tensors are made.
    pub device: &'a Device,
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

impl Inputs<'_> {
    /// One pass over `count` inputs in batches of `size`, for the solve or to measure. A cache gives
    /// each image at most once, so it may end earlier.
    ///
    /// # Shapes
    /// - items `[size, C, H, W]`; the last of a cache may be smaller
    pub fn pass(&self, purpose: Purpose, count: usize, size: usize) -> impl Iterator<Item = Tensor<4>> + '_ {
        let mut stream = Stream::new(self.seed, purpose, self.index);
        let visible = self.visible(purpose);
        let count = if let Source::Cached { .. } = self.source { count.min(visible.len()) } else { count };
        (0..count).step_by(size).map(move |start| {
            let end = count.min(start + size);
            match &self.source {
                Source::Fresh(shape) => images(stream.images(end - start, *shape), *shape, self.device),
                Source::Cached { boundary, .. } => boundary.gather(&visible[start..end], self.device),
            }
        })
    }

    /// Training batches of `size`, without end: a cache in a new random order each epoch.
    ///
    /// # Shapes
    /// - items `[size, C, H, W]`
    pub fn epochs(&self, size: usize) -> impl Iterator<Item = Tensor<4>> + '_ {
        let mut stream = Stream::new(self.seed, Purpose::Train, self.index);
        let visible = self.visible(Purpose::Train).len();
        let mut order: Vec<usize> = Vec::new();
        core::iter::repeat_with(move || match &self.source {
            Source::Fresh(shape) => images(stream.images(size, *shape), *shape, self.device),
            Source::Cached { boundary, .. } => {
                let mut chosen = Vec::with_capacity(size);
                while chosen.len() < size {
                    if order.is_empty() {
                        order = shuffled(&mut stream, visible);
                    }
                    chosen.extend(order.pop());
                }
                boundary.gather(&chosen, self.device)
            }
        })
    }

    /// Indices of the cached images that a purpose may see.
    fn visible(&self, purpose: Purpose) -> Vec<usize> {
        match &self.source {
            Source::Fresh(_) => Vec::new(),
            Source::Cached { boundary, held_out } => {
                let trained = boundary.len().saturating_sub(*held_out);
                if purpose == Purpose::Measure { (trained..boundary.len()).collect() } else { (0..trained).collect() }
            }
        }
    }
}
