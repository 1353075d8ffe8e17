//! What goes into a neighbourhood: batches of one noise source, without end.

use alloc::vec::Vec;

use burn::tensor::{Device, Tensor};

use crate::{
    block::Shape,
    boundary::Boundary,
    forward::images,
    noise::{Purpose, Stream, shuffled},
};

/// Inputs `a` of one neighbourhood (science: eq. 2), drawn for a purpose.
#[derive(Debug)]
pub enum Inputs<'a> {
    /// Drawn anew for every batch; nothing is kept.
    Fresh {
        /// The block's place in the network: its noise is its own.
        index: usize,
        /// The block's input shape.
        shape: Shape,
    },
    /// Taken from the cache of teacher activations; the last `held_out` images are for measuring only.
    Cached {
        /// The block's place in the network.
        index: usize,
        /// The activations.
        boundary: &'a Boundary,
        /// Images the training never sees.
        held_out: usize,
    },
}

impl Inputs<'_> {
    /// `count` batches of `size` inputs each (the last of a cache may be smaller), for the solve
    /// or to measure: every cached image at most once.
    pub fn pass<'s>(
        &'s self,
        seed: u64,
        purpose: Purpose,
        count: usize,
        size: usize,
        device: &'s Device,
    ) -> impl Iterator<Item = Tensor<4>> + 's {
        let mut stream = Stream::new(seed, purpose, self.index());
        let mut order = self.visible(purpose);
        order.truncate(count * size);
        let batches = match self {
            Self::Fresh { .. } => count,
            Self::Cached { .. } => order.len().div_ceil(size),
        };
        (0..batches).map(move |batch| match self {
            Self::Fresh { shape, .. } => images(stream.images(size, *shape), *shape, device),
            Self::Cached { boundary, .. } => {
                let end = order.len().min((batch + 1) * size);
                boundary.gather(&order[batch * size..end], device)
            }
        })
    }

    /// Training batches of `size`, without end: a cache in a new random order each epoch.
    pub fn epochs<'s>(&'s self, seed: u64, size: usize, device: &'s Device) -> impl Iterator<Item = Tensor<4>> + 's {
        let mut stream = Stream::new(seed, Purpose::Train, self.index());
        let images_seen = self.visible(Purpose::Train).len();
        let mut order: Vec<usize> = Vec::new();
        core::iter::repeat_with(move || match self {
            Self::Fresh { shape, .. } => images(stream.images(size, *shape), *shape, device),
            Self::Cached { boundary, .. } => {
                let mut chosen = Vec::with_capacity(size);
                while chosen.len() < size.min(images_seen) {
                    if order.is_empty() {
                        order = shuffled(&mut stream, images_seen);
                    }
                    chosen.extend(order.pop());
                }
                boundary.gather(&chosen, device)
            }
        })
    }

    fn index(&self) -> usize {
        match self {
            Self::Fresh { index, .. } | Self::Cached { index, .. } => *index,
        }
    }

    /// Indices of the cached images a purpose may see.
    fn visible(&self, purpose: Purpose) -> Vec<usize> {
        match self {
            Self::Fresh { .. } => Vec::new(),
            Self::Cached { boundary, held_out, .. } => {
                let trained = boundary.len().saturating_sub(*held_out);
                if purpose == Purpose::Measure { (trained..boundary.len()).collect() } else { (0..trained).collect() }
            }
        }
    }
}
