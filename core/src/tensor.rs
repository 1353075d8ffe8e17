//! Shapes of values and weights, and their size limits.

use alloc::{string::String, vec::Vec};
use core::fmt;

use serde::{Deserialize, Serialize};

/// Largest channel, height or width extent; bounds the cost of a shape from an untrusted file.
pub const MAX_EXTENT: usize = 1 << 16;
/// Largest number of elements in one value of one image; keeps a group of images addressable on 32-bit targets.
pub const MAX_ELEMENTS: usize = if usize::BITS > 32 { 1 << 28 } else { 1 << 22 };

/// Extents of a value for one image.
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
    /// Its name in the teacher (`layer1.0.conv1.weight`).
    pub name: String,
    /// One to four extents, outermost first.
    pub dims: Dims,
    /// Values in row-major order; their number is the product of `dims`.
    pub data: Vec<f32>,
}

/// Extents of a weight.
pub type Dims = heapless::Vec<u32, 4>;

impl Weight {
    /// A weight of the given extents.
    pub fn new(name: impl Into<String>, dims: &[usize], data: Vec<f32>) -> Self {
        Self { name: name.into(), dims: dims.iter().map(|&d| d as u32).collect(), data }
    }

    /// Whether it is a kernel or a matrix, whose zeros say which inputs an output does not read.
    pub fn is_kernel(&self) -> bool {
        self.dims.len() > 1
    }

    /// Number of values that are zero.
    pub fn zeros(&self) -> usize {
        self.data.iter().filter(|value| **value == 0.0).count()
    }

    /// Selects slices by index along the first two dimensions, in the given order; `None` selects all.
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

/// The product of the extents, or `None` if an extent is 0 or a limit of this module is exceeded.
pub fn element_count(dims: &[u32]) -> Option<usize> {
    dims.iter().try_fold(1usize, |product, &d| {
        let d = d as usize;
        (1..=MAX_EXTENT).contains(&d).then_some(d)?;
        product.checked_mul(d).filter(|&p| p <= MAX_ELEMENTS)
    })
}

impl Shape {
    /// The shape `[channels, height, width]`.
    pub const fn new(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width }
    }

    /// Number of elements per image.
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
