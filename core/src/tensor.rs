//! Values and weights: how large they are, and how large they may be.

use alloc::{string::String, vec::Vec};
use core::fmt;

use serde::{Deserialize, Serialize};

/// Largest extent of a channel, height or width dimension; bounds what a shape from outside can cost.
pub const MAX_EXTENT: usize = 1 << 16;
/// Largest number of elements in one value of one image: a group of images stays addressable on 32 bits, too.
pub const MAX_ELEMENTS: usize = if usize::BITS > 32 { 1 << 28 } else { 1 << 22 };

/// Extents of one image's value at a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Feature channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// A named tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// The teacher's name for it (`layer1.0.conv1.weight`).
    pub name: String,
    /// Extents, outermost first; one to four of them.
    pub dims: Dims,
    /// Row-major values; as many as the product of `dims`.
    pub data: Vec<f32>,
}

/// Extents of a weight.
pub type Dims = heapless::Vec<u32, 4>;

impl Weight {
    /// A weight of the given extents.
    pub fn new(name: impl Into<String>, dims: &[usize], data: Vec<f32>) -> Self {
        Self { name: name.into(), dims: dims.iter().map(|&d| d as u32).collect(), data }
    }

    /// The slices at these places of the first two dimensions, in that order; all of them where there is no list.
    pub fn select(&self, outputs: Option<&[usize]>, inputs: Option<&[usize]>) -> Self {
        let keep = [outputs, inputs];
        let extent = |axis: usize| self.dims.get(axis).map_or(1, |&d| d as usize);
        let kept = |axis: usize| keep[axis].map_or(extent(axis), <[usize]>::len);
        let places = |axis: usize| (0..kept(axis)).map(move |place| keep[axis].map_or(place, |keep| keep[place]));
        let inner = self.data.len() / (extent(0) * extent(1));
        let mut data = Vec::with_capacity(kept(0) * kept(1) * inner);
        for outer in places(0) {
            for index in places(1) {
                data.extend_from_slice(&self.data[(outer * extent(1) + index) * inner..][..inner]);
            }
        }
        let mut dims = self.dims.clone();
        dims.iter_mut().take(2).enumerate().for_each(|(axis, extent)| *extent = kept(axis) as u32);
        Self { name: self.name.clone(), dims, data }
    }
}

/// Product of the extents, or `None` where it overflows or an extent is 0 or too large.
pub fn element_count(dims: &[u32]) -> Option<usize> {
    dims.iter().try_fold(1usize, |product, &d| {
        let d = d as usize;
        (1..=MAX_EXTENT).contains(&d).then_some(d)?;
        product.checked_mul(d).filter(|&p| p <= MAX_ELEMENTS)
    })
}

impl Shape {
    /// `[channels, height, width]` as one value.
    pub const fn new(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width }
    }

    /// Elements of one image.
    pub const fn elements(self) -> usize {
        self.channels * self.height * self.width
    }

    pub(crate) fn is_reasonable(self) -> bool {
        let dims = [self.channels, self.height, self.width].map(|d| u32::try_from(d).unwrap_or(u32::MAX));
        element_count(&dims).is_some()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}
