//! Preparation of pictures as classifiers are evaluated: resized, then cropped to the middle.

use anyhow::{Result, ensure};
use distill_core::Shape;

use super::{
    picture::Picture,
    resample::{Axis, Filter, resample},
};

/// Share of the resized picture's shorter side that the crop takes: 224 of 256, the usual one for ImageNet.
pub const CROP_FRACTION: f64 = 0.875;

/// How pictures of any size become images of the network's size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preparation {
    crop_fraction: f64,
    filter: Filter,
}

impl Preparation {
    /// The middle `crop_fraction` of a picture resampled with `filter`.
    pub fn new(crop_fraction: f64, filter: Filter) -> Result<Self> {
        ensure!(crop_fraction > 0.0 && crop_fraction <= 1.0, "the crop fraction must be above 0 and at most 1");
        Ok(Self { crop_fraction, filter })
    }

    /// Writes `picture` as `[C, H, W]` into `image`, whose shape is `shape`, with the picture's channels.
    ///
    /// A picture of that size is taken as it is. Any other is scaled until it just covers height and width divided by the
    /// crop fraction, rounded, and cropped to its middle, as torchvision's `Resize` and `CenterCrop` do.
    pub fn prepare(&self, picture: &Picture, shape: Shape, image: &mut [u8]) {
        let Shape { height, width, .. } = shape;
        let channels = picture.colour.channels();
        if (picture.height, picture.width) == (height, width) {
            return planes(&picture.samples, channels, image);
        }
        let enlarged = |extent: usize| (extent as f64 / self.crop_fraction).round() as usize;
        let (tall, wide) = (enlarged(height), enlarged(width));
        // The side that is shorter relative to its target gives the scale; the other side is rounded down.
        let (rows, columns) = if picture.width.saturating_mul(tall) >= picture.height.saturating_mul(wide) {
            (tall, (picture.width.saturating_mul(tall) / picture.height).max(wide))
        } else {
            ((picture.height.saturating_mul(wide) / picture.width).max(tall), wide)
        };
        let across = Axis { source: picture.width, target: columns, start: middle(columns, width), len: width };
        let down = Axis { source: picture.height, target: rows, start: middle(rows, height), len: height };
        let image_samples = resample(&picture.samples, channels, [across, down], self.filter);
        planes(&image_samples, channels, image);
    }
}

impl Default for Preparation {
    fn default() -> Self {
        Self { crop_fraction: CROP_FRACTION, filter: Filter::default() }
    }
}

/// Where the middle `len` of `extent` begins, rounded half to even as in Python.
fn middle(extent: usize, len: usize) -> usize {
    ((extent - len) as f64 / 2.0).round_ties_even() as usize
}

/// Interleaved pixels as one plane for each channel.
fn planes(samples: &[u8], channels: usize, image: &mut [u8]) {
    for (channel, plane) in image.chunks_exact_mut(samples.len() / channels).enumerate() {
        plane.iter_mut().zip(samples.chunks_exact(channels)).for_each(|(value, pixel)| *value = pixel[channel]);
    }
}
