//! The part that is wanted of a picture in another size, with Pillow's arithmetic.
//!
//! The bytes are those of its `Image.resize` where that narrows rows before columns; where it goes the other way, which it
//! does to save work, they differ by one or two in 255.

use clap::ValueEnum;

/// Fractional bits of a weight: a sum of 8-bit pixels stays inside an `i32` with two bits to spare.
const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// How a picture that has not the network's size is resampled; both filters widen with the reduction (antialiasing).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Filter {
    /// A triangle over two source pixels.
    #[default]
    Bilinear,
    /// A cubic over four source pixels, a = -0.5 (Keys 1981).
    Bicubic,
}

/// `source` pixels in a row become `target`, of which `len` are wanted from `start` on.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// Pixels there are.
    pub source: usize,
    /// Pixels the whole row would have.
    pub target: usize,
    /// First pixel that is wanted.
    pub start: usize,
    /// As many are wanted.
    pub len: usize,
}

/// The wanted part of an RGB picture of `across.source` by `down.source` pixels; rows first, rounded, then columns.
pub fn resample(rgb: &[u8], across: Axis, down: Axis, filter: Filter) -> Vec<u8> {
    let (columns, rows) = (taps(across, filter), taps(down, filter));
    let first = rows.iter().map(|row| row.first).min().unwrap_or(0);
    let last = rows.iter().map(|row| row.first + row.weights.len()).max().unwrap_or(0);
    let mut narrowed = Vec::with_capacity(3 * across.len * (last - first));
    for row in rgb.chunks_exact(3 * across.source).take(last).skip(first) {
        for Taps { first, weights } in &columns {
            let pixels = row[3 * first..].chunks_exact(3);
            let mut sums = [HALF; 3];
            for (weight, pixel) in weights.iter().zip(pixels) {
                sums.iter_mut().zip(pixel).for_each(|(sum, &value)| *sum += weight * i32::from(value));
            }
            narrowed.extend(sums.map(pixel_of));
        }
    }
    let stride = 3 * across.len;
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

/// A sum begins at one half, so that cutting off its fraction rounds it.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

fn pixel_of(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// The source pixels that make one target pixel.
struct Taps {
    first: usize,
    /// Sum to 1 in units of `2^-WEIGHT_BITS`.
    weights: Vec<i32>,
}

fn taps(axis: Axis, filter: Filter) -> Vec<Taps> {
    let scale = axis.source as f64 / axis.target as f64;
    let widened = scale.max(1.0);
    let support = widened * if filter == Filter::Bilinear { 1.0 } else { 2.0 };
    let one = |target: usize| {
        let center = (target as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(axis.source);
        let value = |pixel: usize| response(filter, (pixel as f64 - center + 0.5) / widened);
        let sum: f64 = (first..end).map(value).sum();
        let fixed = |pixel| (value(pixel) / sum * f64::from(1 << WEIGHT_BITS)).round() as i32;
        Taps { first, weights: (first..end).map(fixed).collect() }
    };
    (axis.start..axis.start + axis.len).map(one).collect()
}

/// The filter at a distance from its center, in source pixels before it was widened.
fn response(filter: Filter, distance: f64) -> f64 {
    let x = distance.abs();
    match filter {
        Filter::Bilinear => (1.0 - x).max(0.0),
        Filter::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        Filter::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        Filter::Bicubic => 0.0,
    }
}
