//! Sources of a run's inputs.

use alloc::vec;
use core::fmt;

use crate::{
    inputs::Cache,
    recipe::SourceKind,
    storage::ScratchError,
    stream::{Purpose, Stream},
};

/// Images per batch that share current batch statistics: enough for stable estimates.
pub const NOISE_BATCH: usize = 64;

/// A source of inputs for [`run`](crate::run).
pub trait Source: fmt::Debug {
    /// Its kind, which is recorded in every student pack.
    fn kind(&self) -> SourceKind;

    /// Number of images it holds, `None` if unlimited. Further inputs are variants of these images.
    fn images(&self) -> Option<usize> {
        None
    }

    /// A checksum of its content, which distinguishes runs on different inputs.
    fn checksum(&self) -> u32 {
        0
    }

    /// Heap bytes that [`fill`](Self::fill) needs for images of `elements` values.
    fn bytes(&self, elements: usize) -> u64;

    /// Fills the teacher's side of `cache` with images at the network's input. Called only for kinds that are cached.
    ///
    /// # Errors
    /// The source's own, and those of the cache's storage.
    fn fill(&mut self, cache: &mut Cache, draw: Draw) -> Result<(), ScratchError>;
}

/// How a source draws its images.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// The run's seed.
    pub seed: u64,
    /// Number of images at the end that must not be variants: neither solve nor training uses them.
    pub held_out: usize,
}

/// Independent `N(0, 1)` values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhiteNoise {
    /// As the input of every neighbourhood (the paper's G-ND).
    Standard,
    /// As the network's input, propagated through the teacher's blocks (Raikwar & Mishra 2022).
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
