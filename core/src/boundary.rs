//! The activations at one boundary of the teacher: the inputs of the next neighbourhood.
//!
//! Propagated noise is pushed forward one block at a time, batch by batch and in place, so the
//! cache is the only thing whose size grows with the number of images. It is held in half
//! precision: activations are needed to three digits, and the cache is most of a run's memory.

use alloc::vec::Vec;

use burn::tensor::{Device, Tensor};
use half::{f16, slice::HalfFloatSliceExt};

use crate::{
    block::Shape,
    forward::{DeviceBlock, Statistics, host_values, images},
    noise::Stream,
};

/// Cached activations `[images, C, H, W]` at one boundary, in batches that went through the
/// teacher together (a batch shares its current statistics).
#[derive(Debug)]
pub struct Boundary {
    shape: Shape,
    batch: usize,
    batches: Vec<Vec<f16>>,
}

impl Boundary {
    /// White noise at the network's input, `count` images in batches of `batch`.
    pub fn noise(stream: &mut Stream, shape: Shape, count: usize, batch: usize) -> Self {
        let batches =
            (0..count).step_by(batch).map(|start| to_f16(&stream.images(batch.min(count - start), shape))).collect();
        Self { shape, batch, batches }
    }

    /// Shape of one image.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Cached images.
    pub fn len(&self) -> usize {
        self.batches.iter().map(Vec::len).sum::<usize>() / self.shape.elements()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Pushes every image through the teacher's block with current batch statistics.
    pub fn advance(&mut self, block: &DeviceBlock<'_>, device: &Device) {
        for batch in &mut self.batches {
            let input = images(batch.to_f32_vec(), self.shape, device);
            *batch = to_f16(&host_values(block.forward(input, Statistics::Current)));
        }
        self.shape = block.block().output();
    }

    /// The images at `indices`, in that order: `[indices, C, H, W]`.
    pub fn gather(&self, indices: &[usize], device: &Device) -> Tensor<4> {
        let elements = self.shape.elements();
        let mut values = Vec::with_capacity(indices.len() * elements);
        for &index in indices {
            let start = index % self.batch * elements;
            let image = &self.batches[index / self.batch][start..start + elements];
            values.extend(image.iter().map(|v| v.to_f32()));
        }
        images(values, self.shape, device)
    }
}

/// Half precision, saturating at its largest finite value.
fn to_f16(values: &[f32]) -> Vec<f16> {
    values.iter().map(|v| f16::from_f32(v.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))).collect()
}
