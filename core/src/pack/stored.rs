//! How the values of a weight are stored: all of them, or those that are not zero.

use alloc::vec::Vec;

use half::f16;
use serde::{Deserialize, Serialize};

use crate::pack::Encoding;

/// Values of a sparse weight that share a bitmap.
pub const RUN: usize = 1024;

/// How a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// Every value in binary32.
    F32,
    /// Every value in binary16.
    F16,
    /// In runs of [`RUN`] values: a bit for each, the lowest first, that says whether it is not zero; then those, in binary32.
    SparseF32,
    /// The same in binary16.
    SparseF16,
}

impl Stored {
    /// The smallest way to store values in `encoding`, or in `F32` if one is too large for half precision.
    pub fn smallest(encoding: Encoding, values: &[f32]) -> Self {
        let fits = encoding == Encoding::F16 && values.iter().all(|&value| f16::from_f32(value).is_finite());
        let [dense, sparse] = if fits { [Self::F16, Self::SparseF16] } else { [Self::F32, Self::SparseF32] };
        let there = values.iter().filter(|value| is_there(**value)).count();
        let bitmaps: usize = values.chunks(RUN).map(|run| run.len().div_ceil(8)).sum();
        if bitmaps + there * dense.bytes() < values.len() * dense.bytes() { sparse } else { dense }
    }

    /// Bytes of a value that is stored.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::SparseF32 => 4,
            Self::F16 | Self::SparseF16 => 2,
        }
    }

    /// Whether zeros are left out.
    pub const fn is_sparse(self) -> bool {
        matches!(self, Self::SparseF32 | Self::SparseF16)
    }

    /// The precision of its values.
    pub const fn encoding(self) -> Encoding {
        match self {
            Self::F32 | Self::SparseF32 => Encoding::F32,
            Self::F16 | Self::SparseF16 => Encoding::F16,
        }
    }

    /// Bytes that `count` values take at least.
    pub const fn least_bytes(self, count: usize) -> usize {
        if self.is_sparse() { count.div_ceil(8) } else { count * self.bytes() }
    }

    /// Encodes values.
    pub fn encoded(self, values: &[f32]) -> impl Iterator<Item = u8> {
        values.chunks(RUN).flat_map(move |run| {
            let bitmap = run.chunks(8).map(bits).filter(move |_| self.is_sparse());
            let there = run.iter().filter(move |value| !self.is_sparse() || is_there(**value));
            bitmap.chain(there.flat_map(move |&value| self.value(value)))
        })
    }

    fn value(self, value: f32) -> impl Iterator<Item = u8> {
        let (single, half) = (value.to_le_bytes(), f16::from_f32(value).to_le_bytes());
        let bytes: heapless::Vec<u8, 4> =
            if self.bytes() == 4 { single.into_iter().collect() } else { half.into_iter().collect() };
        bytes.into_iter()
    }

    /// Appends the values in these bytes, which are whole values.
    pub fn decode(self, bytes: &[u8], values: &mut Vec<f32>) {
        match self.encoding() {
            Encoding::F32 => values.extend(bytes.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk))),
            Encoding::F16 => values.extend(bytes.as_chunks().0.iter().map(|&chunk| f16::from_le_bytes(chunk).to_f32())),
        }
    }
}

/// Whether a value is stored: zero is the only one that is not, and not its negative.
fn is_there(value: f32) -> bool {
    value.to_bits() != 0
}

fn bits(values: &[f32]) -> u8 {
    values.iter().enumerate().map(|(bit, &value)| u8::from(is_there(value)) << bit).sum()
}
