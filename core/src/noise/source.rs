//! Where the inputs of a run come from.

use alloc::vec;
use core::fmt;

use crate::{
    noise::{Cache, Purpose, Stream},
    recipe::SourceKind,
    storage::ScratchError,
};

/// A source of inputs, handed to [`run`](crate::run).
pub trait Source: fmt::Debug {
    /// Its kind, which stands in every student made from it.
    fn kind(&self) -> SourceKind;

    /// Images that it holds, where there is a limit. More than these are variants of them.
    fn images(&self) -> Option<usize> {
        None
    }

    /// A checksum of what it holds: tells runs on other inputs apart.
    fn checksum(&self) -> u32 {
        0
    }

    /// Heap bytes that [`fill`](Self::fill) takes for images of so many values.
    fn bytes(&self, elements: usize) -> u64;

    /// Puts images at the network's input into the teacher's side of `cache`, if the kind is one that is cached.
    ///
    /// # Errors
    /// Its own, and those of the cache's storage.
    fn fill(&mut self, cache: &mut Cache, draw: Draw) -> Result<(), ScratchError>;
}

/// How images of a source are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// The run's seed.
    pub seed: u64,
    /// Images that come last and are to be no variants: neither solve nor training sees them.
    pub held_out: usize,
}

/// `N(0, 1)` in every value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhiteNoise {
    /// Straight into every neighbourhood (the paper's G-ND).
    Standard,
    /// Into the network, and through the teacher's blocks (Raikwar & Mishra 2022).
    Propagated,
}

impl Source for WhiteNoise {
    fn kind(&self) -> SourceKind {
        match self {
            Self::Standard => SourceKind::Standard,
            Self::Propagated => SourceKind::Propagated,
        }
    }

    fn bytes(&self, elements: usize) -> u64 {
        (elements * size_of::<f32>()) as u64
    }

    fn fill(&mut self, cache: &mut Cache, Draw { seed, .. }: Draw) -> Result<(), ScratchError> {
        let (mut stream, mut image) = (Stream::new(seed, Purpose::Images, 0), vec![0.0; cache.shape().elements()]);
        for index in 0..cache.len() {
            stream.fill(&mut image);
            cache.put(index, &image)?;
        }
        Ok(())
    }
}
