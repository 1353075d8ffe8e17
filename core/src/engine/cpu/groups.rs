//! A batch as the CPU's kernels take it: in groups of images side by side.

use alloc::{vec, vec::Vec};

use crate::{
    engine::Difference,
    kernels::{
        parallel::each,
        plane::{LANES, Lanes, Plane},
    },
    tensor::Shape,
};

/// Values copied between an image and its lane at a time: with them a group's vectors stay in a first-level cache.
const CHUNK: usize = 64;

/// A batch `[N, C, H, W]` on the CPU.
#[derive(Clone, Debug)]
pub struct Groups {
    shape: Shape,
    count: usize,
    /// `[⌈N / LANES⌉, C, H, W]`; lanes past the last image are zero.
    values: Vec<Lanes>,
}

impl Groups {
    /// Zeros.
    pub fn zeros(shape: Shape, count: usize) -> Self {
        Self { shape, count, values: vec![Lanes::ZERO; count.div_ceil(LANES) * shape.elements()] }
    }

    /// Shape of one image.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Images in the batch.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Makes room for `count` images of `shape`, keeping the memory.
    pub fn reset(&mut self, shape: Shape, count: usize) {
        (self.shape, self.count) = (shape, count);
        let len = count.div_ceil(LANES) * shape.elements();
        if self.values.capacity() < len {
            // A fresh one, because resizing would hold old and new at once.
            self.values = Vec::new();
        }
        self.values.resize(len, Lanes::ZERO);
    }

    /// See [`Batch::fill`](crate::engine::Batch::fill).
    pub fn fill(&mut self, shape: Shape, count: usize, source: impl Fn(usize, usize, &mut [f32]) + Sync) {
        self.reset(shape, count);
        let elements = shape.elements();
        let line = self.line();
        let groups = self.values.chunks_exact_mut(elements).enumerate();
        each(groups, |(index, group)| {
            let first = index * LANES;
            to_lanes(group, line, count.min(first + LANES) - first, |lane, offset, chunk| {
                source(first + lane, offset, chunk)
            });
        });
    }

    /// See [`Batch::fill_in_order`](crate::engine::Batch::fill_in_order).
    pub fn fill_in_order<E>(
        &mut self,
        shape: Shape,
        count: usize,
        mut source: impl FnMut(usize, usize, &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.reset(shape, count);
        let (elements, mut buffer) = (shape.elements(), [0.0; CHUNK]);
        for image in 0..count {
            let group = &mut self.values[image / LANES * elements..][..elements];
            for (part, chunk) in group.chunks_mut(CHUNK).enumerate() {
                let buffer = &mut buffer[..chunk.len()];
                source(image, part * CHUNK, buffer)?;
                for (lanes, value) in chunk.iter_mut().zip(&*buffer) {
                    lanes.0[image % LANES] = *value;
                    // Those after the last image are zero.
                    lanes.0[image % LANES + 1..].fill(0.0);
                }
            }
        }
        Ok(())
    }

    /// Shows every image to `target(image, offset, chunk)`, chunk by chunk.
    pub fn read(&self, mut target: impl FnMut(usize, usize, &[f32])) {
        for (index, group) in self.groups().enumerate() {
            from_lanes(group, self.line(), self.lanes(index), |lane, offset, chunk| {
                target(index * LANES + lane, offset, chunk)
            });
        }
    }

    /// Subtracts others of the same shape and number.
    pub fn subtract(&mut self, others: &Self) {
        let lanes = self.values.iter_mut().zip(&others.values);
        lanes.flat_map(|(ours, theirs)| ours.0.iter_mut().zip(theirs.0)).for_each(|(ours, theirs)| *ours -= theirs);
    }

    /// See [`Batch::add_difference`](crate::engine::Batch::add_difference).
    pub fn add_difference(&self, target: &Self, sums: &mut Difference) {
        // Value by value, so that the size of a batch does not change the sums.
        for (output, target) in self.values.iter().zip(&target.values) {
            for (output, target) in output.0.into_iter().zip(target.0) {
                sums.error += f64::from(output - target) * f64::from(output - target);
                sums.energy += f64::from(target) * f64::from(target);
            }
        }
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
    pub fn lanes(&self, group: usize) -> usize {
        self.count.min((group + 1) * LANES) - group * LANES
    }

    /// `[C, H, W]` of each group.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = &[Lanes]> {
        self.values.chunks_exact(self.shape.elements())
    }

    /// One group, and how it lies.
    pub fn plane(&self, index: usize) -> (&[Lanes], Plane) {
        (self.group(index), Plane { shape: self.shape, border: 0 })
    }

    /// One group's `[C, H, W]`.
    pub fn group(&self, index: usize) -> &[Lanes] {
        let elements = self.shape.elements();
        &self.values[index * elements..][..elements]
    }

    /// All groups, one after another.
    pub fn values_mut(&mut self) -> &mut [Lanes] {
        &mut self.values
    }

    /// `[C, H, W]` of each group.
    pub fn groups_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [Lanes]> + Send {
        self.values.chunks_exact_mut(self.shape.elements())
    }
}

/// The sum of a group's squares.
pub fn energy(group: &[Lanes]) -> f64 {
    group.iter().map(|lanes| f64::from(lanes.0.iter().map(|value| value * value).sum::<f32>())).sum()
}

/// Fills the first `lanes` images of a group, and zeros the others.
pub fn to_lanes(group: &mut [Lanes], plane: Plane, lanes: usize, mut source: impl FnMut(usize, usize, &mut [f32])) {
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
pub fn from_lanes(group: &[Lanes], plane: Plane, lanes: usize, mut target: impl FnMut(usize, usize, &[f32])) {
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
