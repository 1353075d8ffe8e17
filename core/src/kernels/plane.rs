//! A group of images side by side: a vector holds one position of one channel of each.

use bytemuck::{Pod, Zeroable};
use pulp::Simd;

use crate::tensor::Shape;

/// Images a group: the lanes of the widest vectors (AVX-512); narrower processors take two or more vectors for them.
#[cfg(not(any(target_os = "none", feature = "small")))]
pub const LANES: usize = 16;
/// Images a group: where memory is scarce, and vectors are short or none.
#[cfg(any(target_os = "none", feature = "small"))]
pub const LANES: usize = 4;

/// One position of one channel, in each image of a group.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[cfg_attr(not(any(target_os = "none", feature = "small")), repr(C, align(64)))]
#[cfg_attr(any(target_os = "none", feature = "small"), repr(C, align(16)))]
pub struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// Zero in every image.
    pub const ZERO: Self = Self([0.0; LANES]);

    /// The same in every image.
    pub const fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
}

/// How one value of a group of images lies in memory: `[C, H, W]` of [`Lanes`], each channel inside a border of zeros, so
/// that the taps of a padded convolution are plain reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    /// Channels, rows and columns.
    pub shape: Shape,
    /// Zero positions on each side of a row, and rows above and below.
    pub border: usize,
}

impl Plane {
    /// Positions from a row to the next.
    pub const fn pitch(&self) -> usize {
        self.shape.width + 2 * self.border
    }

    /// Positions of one channel.
    pub const fn area(&self) -> usize {
        self.pitch() * (self.shape.height + 2 * self.border)
    }

    /// Positions of all channels.
    pub const fn len(&self) -> usize {
        self.shape.channels * self.area()
    }

    /// Where `(channel, row, column)` lies.
    pub const fn at(&self, channel: usize, row: usize, column: usize) -> usize {
        channel * self.area() + (row + self.border) * self.pitch() + column + self.border
    }

    /// Writes the zeros around every channel.
    pub fn clear_border(&self, values: &mut [Lanes]) {
        let (pitch, edge) = (self.pitch(), self.border * self.pitch());
        if self.border == 0 {
            return;
        }
        for channel in values[..self.len()].chunks_exact_mut(self.area()) {
            let inner = edge..channel.len() - edge;
            channel[..edge].fill(Lanes::ZERO);
            channel[inner.end..].fill(Lanes::ZERO);
            for row in channel[inner].chunks_exact_mut(pitch) {
                row[..self.border].fill(Lanes::ZERO);
                row[pitch - self.border..].fill(Lanes::ZERO);
            }
        }
    }

    /// Where each row of each channel starts, borders left out.
    pub fn rows(self) -> impl Iterator<Item = usize> {
        let Shape { channels, height, .. } = self.shape;
        (0..channels).flat_map(move |channel| (0..height).map(move |row| self.at(channel, row, 0)))
    }
}

/// The values of some positions, one after another.
#[inline(always)]
pub fn floats(lanes: &[Lanes]) -> &[f32] {
    bytemuck::cast_slice(lanes)
}

/// See [`floats`].
#[inline(always)]
pub fn floats_mut(lanes: &mut [Lanes]) -> &mut [f32] {
    bytemuck::cast_slice_mut(lanes)
}

/// The same as the processor's vectors: one for each position, or several.
#[inline(always)]
pub fn vectors<S: Simd>(lanes: &[Lanes]) -> &[S::f32s] {
    S::as_simd_f32s(floats(lanes)).0
}

/// See [`vectors`].
#[inline(always)]
pub fn vectors_mut<S: Simd>(lanes: &mut [Lanes]) -> &mut [S::f32s] {
    S::as_mut_simd_f32s(floats_mut(lanes)).0
}
