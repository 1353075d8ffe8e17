//! A part of a resized picture, with Pillow's arithmetic.
//!
//! The bytes are those of Pillow's `Image.resize` if that resizes horizontally first. To save work it may start vertically;
//! then values differ by one or two of 255.

use clap::ValueEnum;

/// Fractional bits of a weight: a sum of 8-bit pixels stays inside an `i32` with two bits to spare.
const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// How a picture is resampled; both filters widen with the reduction (antialiasing).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Filter {
    /// A triangle over two source pixels.
    #[default]
    Bilinear,
    /// A cubic over four source pixels, a = -0.5 (Keys 1981).
    Bicubic,
}

/// One direction: `source` pixels become `target`, of which `len` from `start` on are computed.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    pub source: usize,
    /// Pixels of the whole resized picture.
    pub target: usize,
    /// First pixel computed.
    pub start: usize,
    /// Number of pixels computed.
    pub len: usize,
}

/// The part that `across` and `down` choose of a picture of 1 to 4 channels; resized and rounded horizontally, then
/// vertically. Each channel is resized by itself, alpha too.
pub fn resample(samples: &[u8], channels: usize, [across, down]: [Axis; 2], filter: Filter) -> Vec<u8> {
    let (columns, rows) = (taps(across, filter), taps(down, filter));
    let first = rows.iter().map(|row| row.first).min().unwrap_or(0);
    let last = rows.iter().map(|row| row.first + row.weights.len()).max().unwrap_or(0);
    let mut narrowed = Vec::with_capacity(channels * across.len * (last - first));
    for row in samples.chunks_exact(channels * across.source).take(last).skip(first) {
        for Taps { first, weights } in &columns {
            let pixels = row[channels * first..].chunks_exact(channels);
            let mut sums = [HALF; 4];
            for (weight, pixel) in weights.iter().zip(pixels) {
                sums.iter_mut().zip(pixel).for_each(|(sum, &value)| *sum += weight * i32::from(value));
            }
            narrowed.extend(sums.map(pixel_of).into_iter().take(channels));
        }
    }
    let stride = channels * across.len;
    let mut result = Vec::with_capacity(stride * down.len);
    let mut sums = vec![HALF; stride];
    for row in &rows {
        sums.fill(HALF);
        for (weight, line) in row.weights.iter().zip(narrowed.chunks_exact(stride).skip(row.first - first)) {
            sums.iter_mut().zip(line).for_each(|(sum, &value)| *sum += weight * i32::from(value));
        }
        result.extend(sums.iter().copied().map(pixel_of));
    }
    result
}

/// Sums start at one half, so that truncation rounds them.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

fn pixel_of(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// The source pixels that make one target pixel.
struct Taps {
    first: usize,
    /// In units of `2^-WEIGHT_BITS`, with a sum of 1.
    weights: Vec<i32>,
}

fn taps(axis: Axis, filter: Filter) -> Vec<Taps> {
    let scale = axis.source as f64 / axis.target as f64;
    let widened = scale.max(1.0);
    let support = widened * if filter == Filter::Bilinear { 1.0 } else { 2.0 };
    let one = |target: usize| {
        let centre = (target as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(axis.source);
        let value = |pixel: usize| response(filter, (pixel as f64 - centre + 0.5) / widened);
        let sum: f64 = (first..end).map(value).sum();
        let fixed = |pixel| (value(pixel) / sum * f64::from(1 << WEIGHT_BITS)).round() as i32;
        Taps { first, weights: (first..end).map(fixed).collect() }
    };
    (axis.start..axis.start + axis.len).map(one).collect()
}

/// The unwidened filter at a distance from its centre, in source pixels.
fn response(filter: Filter, distance: f64) -> f64 {
    let x = distance.abs();
    match filter {
        Filter::Bilinear => (1.0 - x).max(0.0),
        Filter::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        Filter::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        Filter::Bicubic => 0.0,
    }
}
