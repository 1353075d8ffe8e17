//! The memory layout of a group of images side by side: a vector holds one position of one channel in each image.

use bytemuck::{Pod, Zeroable};
use pulp::Simd;

use crate::tensor::Shape;

/// Images per group: the lanes of the widest vectors (AVX-512). Narrower processors use two or more vectors.
#[cfg(not(any(target_os = "none", feature = "small")))]
pub const LANES: usize = 16;
/// Images per group on targets with little memory and short vectors or none.
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

    /// `value` in every image.
    pub const fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
}

/// The layout of a value for a group of images: `[C, H, W]` of [`Lanes`], each channel inside a border of zeros, so
/// that the taps of a padded convolution are plain reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    /// Channels, rows and columns.
    pub shape: Shape,
    /// Width of the zero border on all four sides.
    pub border: usize,
}

impl Plane {
    /// Distance from one row to the next.
    pub const fn pitch(&self) -> usize {
        self.shape.width + 2 * self.border
    }

    /// Number of positions per channel, borders included.
    pub const fn area(&self) -> usize {
        self.pitch() * (self.shape.height + 2 * self.border)
    }

    /// Number of positions of all channels, borders included.
    pub const fn len(&self) -> usize {
        self.shape.channels * self.area()
    }

    /// Index of `(channel, row, column)`.
    pub const fn at(&self, channel: usize, row: usize, column: usize) -> usize {
        channel * self.area() + (row + self.border) * self.pitch() + column + self.border
    }

    /// Zeros the border of every channel.
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

    /// Initial indices of each row of each channel, borders excluded.
    pub fn rows(self) -> impl Iterator<Item = usize> {
        let Shape { channels, height, .. } = self.shape;
        (0..channels).flat_map(move |channel| (0..height).map(move |row| self.at(channel, row, 0)))
    }
}

/// The scalars of some positions.
#[inline(always)]
pub fn floats(lanes: &[Lanes]) -> &[f32] {
    bytemuck::cast_slice(lanes)
}

/// See [`floats`].
#[inline(always)]
pub fn floats_mut(lanes: &mut [Lanes]) -> &mut [f32] {
    bytemuck::cast_slice_mut(lanes)
}

/// The processor's vectors of some positions, one or more per position.
#[inline(always)]
pub fn vectors<S: Simd>(lanes: &[Lanes]) -> &[S::f32s] {
    S::as_simd_f32s(floats(lanes)).0
}

/// See [`vectors`].
#[inline(always)]
pub fn vectors_mut<S: Simd>(lanes: &mut [Lanes]) -> &mut [S::f32s] {
    S::as_mut_simd_f32s(floats_mut(lanes)).0
}
