//! Cached activations that stay on a device from boundary to boundary.

use alloc::vec::Vec;
use core::ops::Range;

use burn::tensor::{Device, FloatDType, Int, Tensor, s};

use super::{BurnBatch, BurnBlock, upload};
use crate::{block::Statistics, tensor::Shape};

/// Activations `[images, C, H, W]` at one boundary, in half precision as on the CPU.
#[derive(Debug)]
pub struct BurnCache(Tensor<4>);

impl BurnCache {
    /// Uploads them.
    pub fn new(values: Vec<f32>, shape: Shape, device: &Device) -> Self {
        Self(halved(upload(values, shape, device)))
    }

    /// Pushes each range of images through its block, in batches that share their statistics. The ranges follow each other and hold
    /// every image.
    pub fn advance(&mut self, passes: &[(Range<usize>, &BurnBlock)], batch: usize, statistics: Statistics) {
        let mut given = Vec::new();
        for (images, block) in passes {
            for first in images.clone().step_by(batch) {
                let here = self.0.clone().slice(s![first..images.end.min(first + batch)]);
                given.push(halved(block.pass(here.cast(FloatDType::F32), statistics)));
            }
        }
        self.0 = Tensor::cat(given, 0);
    }

    /// The images of these numbers, in that order.
    pub fn gather(&self, images: impl Iterator<Item = usize>, batch: &mut BurnBatch) {
        let images: Vec<i32> = images.map(|image| image as i32).collect();
        let empty = BurnBatch::new(batch.shape, &batch.device);
        let places = || Tensor::<1, Int>::from_data(images.as_slice(), &batch.device);
        *batch = match images.is_empty() {
            true => empty,
            false => BurnBatch::of(self.0.clone().select(0, places()).cast(FloatDType::F32)),
        };
    }
}

/// Half precision, saturating at its largest finite value.
fn halved(values: Tensor<4>) -> Tensor<4> {
    values.clamp(-65504.0, 65504.0).cast(FloatDType::F16)
}
