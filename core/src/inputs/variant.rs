//! Variants of an image: data augmentation for calibrated images.

use alloc::vec::Vec;

use crate::{stream::Stream, tensor::Shape};

/// Divides the side to give the largest shift in each direction: 4 of CIFAR-10's 32 pixels.
const SHIFT: usize = 8;

/// Standard deviations of the logarithm of the contrast, and of the brightness in units of the network's input.
const CONTRAST: f32 = 0.3;
const BRIGHTNESS: f32 = 0.3;

/// Random changes to an image: mirrored or not, shifted cyclically and, each with probability 1/2, a rectangle replaced
/// from another image, and contrast and brightness changed.
#[derive(Clone, Debug)]
pub struct Variant {
    mirrored: bool,
    /// Cyclic shift in rows and columns.
    shift: [usize; 2],
    /// Rows and columns of the rectangle, each from the first to one past the last.
    patch: [[usize; 2]; 2],
    /// Factor and offset of the values.
    tone: [f32; 2],
}

impl Variant {
    /// Draws a random variant.
    pub fn draw(stream: &mut Stream, Shape { height, width, .. }: Shape) -> Self {
        let mirrored = stream.below(2) == 1;
        let shift = [height, width].map(|side| {
            let most = side / SHIFT;
            (side + stream.below(2 * most + 1) - most) % side
        });
        let patched = stream.below(2) == 1;
        let patch = [height, width].map(|side| {
            let (one, other) = (stream.below(side + 1), stream.below(side + 1));
            if patched { [one.min(other), one.max(other)] } else { [0, 0] }
        });
        let (toned, mut drawn) = (stream.below(2) == 1, [0.0; 2]);
        stream.fill(&mut drawn);
        let tone = if toned { [libm::expf(CONTRAST * drawn[0]), BRIGHTNESS * drawn[1]] } else { [1.0, 0.0] };
        Self { mirrored, shift, patch, tone }
    }

    /// Writes the variant of `image`, `[C, H, W]`, with the rectangle from `other`, into `variant`.
    pub fn of(&self, image: &[f32], other: &[f32], Shape { height, width, .. }: Shape, variant: &mut Vec<f32>) {
        variant.clear();
        let ([rows, columns], [factor, offset]) = (self.patch, self.tone);
        for (image, other) in image.chunks_exact(height * width).zip(other.chunks_exact(height * width)) {
            for row in 0..height {
                let from = (row + self.shift[0]) % height * width;
                for column in 0..width {
                    let inside = (rows[0]..rows[1]).contains(&row) && (columns[0]..columns[1]).contains(&column);
                    let shifted = (column + self.shift[1]) % width;
                    let shifted = if self.mirrored { width - 1 - shifted } else { shifted };
                    let value = if inside { other[row * width + column] } else { image[from + shifted] };
                    variant.push(factor * value + offset);
                }
            }
        }
    }
}
