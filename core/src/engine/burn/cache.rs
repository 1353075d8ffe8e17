//! Cached activations that stay on the device throughout a run.

use alloc::vec::Vec;
use core::ops::Range;

use burn::tensor::{Device, FloatDType, Int, Tensor, s};

use super::{BurnBatch, BurnBlock, upload};
use crate::{block::Statistics, tensor::Shape};

/// Activations `[images, C, H, W]` at one boundary, in half precision.
#[derive(Debug)]
pub struct BurnCache(Tensor<4>);

impl BurnCache {
    /// Uploads the activations.
    pub fn new(values: Vec<f32>, shape: Shape, device: &Device) -> Self {
        Self(halved(upload(values, shape, device)))
    }

    /// Replaces each range of images by its block's output, in batches that share statistics. The ranges cover all.
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

    /// Copies the images with these indices into `batch`, in the given order.
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

/// Converts to half precision, saturating at its largest finite value.
fn halved(values: Tensor<4>) -> Tensor<4> {
    values.clamp(-65504.0, 65504.0).cast(FloatDType::F16)
}
