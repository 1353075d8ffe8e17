//! Batches of images, in groups side by side as the CPU's kernels take them.

use alloc::{vec, vec::Vec};

use crate::{
    kernels::{
        parallel::each,
        plane::{LANES, Lanes, Plane},
    },
    tensor::Shape,
};

/// Values copied between an image and its lane at a time: with them a group's vectors stay in a first-level cache.
const CHUNK: usize = 64;

/// A batch `[N, C, H, W]`: inputs, targets or outputs of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    shape: Shape,
    count: usize,
    /// `[⌈N / LANES⌉, C, H, W]`; lanes past the last image are zero.
    values: Vec<Lanes>,
}

impl Images {
    /// Zeros.
    pub fn zeros(shape: Shape, count: usize) -> Self {
        Self { shape, count, values: vec![Lanes::ZERO; count.div_ceil(LANES) * shape.elements()] }
    }

    /// Images from consecutive values.
    pub fn from_values(values: &[f32], shape: Shape) -> Self {
        let elements = shape.elements();
        let mut images = Self::zeros(shape, values.len() / elements);
        images.fill(|image, offset, chunk| chunk.copy_from_slice(&values[image * elements + offset..][..chunk.len()]));
        images
    }

    /// The values, image by image.
    pub fn to_values(&self) -> Vec<f32> {
        let elements = self.shape.elements();
        let mut values = vec![0.0; self.count * elements];
        self.read(|image, offset, chunk| values[image * elements + offset..][..chunk.len()].copy_from_slice(chunk));
        values
    }

    /// Shape of one image.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Images in the batch.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Makes room for `count` images of `shape`, keeping the memory.
    pub(crate) fn reset(&mut self, shape: Shape, count: usize) {
        (self.shape, self.count) = (shape, count);
        let len = count.div_ceil(LANES) * shape.elements();
        if self.values.capacity() < len {
            // A fresh one, because resizing would hold old and new at once.
            self.values = Vec::new();
        }
        self.values.resize(len, Lanes::ZERO);
    }

    /// Sets every image: `source(image, offset, chunk)` gives its values from `offset` on.
    pub(crate) fn fill(&mut self, source: impl Fn(usize, usize, &mut [f32]) + Sync) {
        let (count, elements) = (self.count, self.shape.elements());
        let line = self.line();
        let groups = self.values.chunks_exact_mut(elements).enumerate();
        each(groups, |(index, group)| {
            let first = index * LANES;
            scatter(group, line, count.min(first + LANES) - first, |lane, offset, chunk| {
                source(first + lane, offset, chunk)
            });
        });
    }

    /// Sets one image: `source(offset, chunk)` gives its values. Those after it in its group become zero.
    pub(crate) fn fill_image(&mut self, image: usize, mut source: impl FnMut(usize, &mut [f32])) {
        let (elements, mut buffer) = (self.shape.elements(), [0.0; CHUNK]);
        let group = &mut self.values[image / LANES * elements..][..elements];
        for (part, chunk) in group.chunks_mut(CHUNK).enumerate() {
            let buffer = &mut buffer[..chunk.len()];
            source(part * CHUNK, buffer);
            for (lanes, value) in chunk.iter_mut().zip(&*buffer) {
                lanes.0[image % LANES] = *value;
                lanes.0[image % LANES + 1..].fill(0.0);
            }
        }
    }

    /// Shows every image to `target(image, offset, chunk)`, chunk by chunk.
    pub(crate) fn read(&self, mut target: impl FnMut(usize, usize, &[f32])) {
        for (index, group) in self.groups().enumerate() {
            gather(group, self.line(), self.lanes(index), |lane, offset, chunk| {
                target(index * LANES + lane, offset, chunk)
            });
        }
    }

    /// Subtracts others of the same shape and number.
    pub(crate) fn subtract(&mut self, others: &Self) {
        let lanes = self.values.iter_mut().zip(&others.values);
        lanes.flat_map(|(ours, theirs)| ours.0.iter_mut().zip(theirs.0)).for_each(|(ours, theirs)| *ours -= theirs);
    }

    /// The squared distance from others of the same shape and number.
    pub(crate) fn distance(&self, others: &Self) -> f64 {
        let pairs = self.values.iter().zip(&others.values).flat_map(|(a, b)| a.0.into_iter().zip(b.0));
        pairs.map(|(a, b)| f64::from(a - b) * f64::from(a - b)).sum()
    }

    /// The sum of the squares.
    pub fn energy(&self) -> f64 {
        self.groups().map(energy).sum()
    }

    /// A group as one long row.
    fn line(&self) -> Plane {
        Plane { shape: Shape::new(1, 1, self.shape.elements()), border: 0 }
    }

    /// Images in a group.
    pub(crate) fn lanes(&self, group: usize) -> usize {
        self.count.min((group + 1) * LANES) - group * LANES
    }

    /// `[C, H, W]` of each group.
    pub(crate) fn groups(&self) -> impl ExactSizeIterator<Item = &[Lanes]> {
        self.values.chunks_exact(self.shape.elements())
    }

    /// One group, and how it lies.
    pub(crate) fn plane(&self, index: usize) -> (&[Lanes], Plane) {
        (self.group(index), Plane { shape: self.shape, border: 0 })
    }

    /// One group's `[C, H, W]`.
    pub(crate) fn group(&self, index: usize) -> &[Lanes] {
        let elements = self.shape.elements();
        &self.values[index * elements..][..elements]
    }

    /// `[C, H, W]` of each group.
    pub(crate) fn groups_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [Lanes]> + Send {
        self.values.chunks_exact_mut(self.shape.elements())
    }
}

/// The sum of a group's squares.
pub fn energy(group: &[Lanes]) -> f64 {
    group.iter().map(|lanes| f64::from(lanes.0.iter().map(|value| value * value).sum::<f32>())).sum()
}

/// Fills the first `lanes` images of a group, and zeros the others.
pub fn scatter(group: &mut [Lanes], plane: Plane, lanes: usize, mut source: impl FnMut(usize, usize, &mut [f32])) {
    let mut buffer = [0.0; CHUNK];
    for (index, row) in plane.rows().enumerate() {
        let row = &mut group[row..row + plane.shape.width];
        for (part, chunk) in row.chunks_mut(CHUNK).enumerate() {
            let offset = index * plane.shape.width + part * CHUNK;
            let buffer = &mut buffer[..chunk.len()];
            for lane in 0..LANES {
                if lane < lanes {
                    source(lane, offset, buffer);
                } else {
                    buffer.fill(0.0);
                }
                chunk.iter_mut().zip(&*buffer).for_each(|(lanes, value)| lanes.0[lane] = *value);
            }
        }
    }
}

/// Shows the first `lanes` images of a group.
pub fn gather(group: &[Lanes], plane: Plane, lanes: usize, mut target: impl FnMut(usize, usize, &[f32])) {
    let mut buffer = [0.0; CHUNK];
    for (index, row) in plane.rows().enumerate() {
        let row = &group[row..row + plane.shape.width];
        for (part, chunk) in row.chunks(CHUNK).enumerate() {
            let offset = index * plane.shape.width + part * CHUNK;
            let buffer = &mut buffer[..chunk.len()];
            for lane in 0..lanes {
                buffer.iter_mut().zip(chunk).for_each(|(value, lanes)| *value = lanes.0[lane]);
                target(lane, offset, buffer);
            }
        }
    }
}
