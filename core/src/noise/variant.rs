//! Variants of an image, so that few calibrated images go further.

use alloc::vec::Vec;

use crate::{noise::Stream, tensor::Shape};

/// Most pixels an image is shifted by in each direction, as a share of its side: 4 of CIFAR-10's 32.
const SHIFT: usize = 8;

/// Standard deviations of the logarithm of a contrast, and of a brightness in units of a network's inputs.
const CONTRAST: f32 = 0.3;
const BRIGHTNESS: f32 = 0.3;

/// What is done to an image: mirrored or not, shifted (what leaves on one side comes in on the other), and, for one of two each,
/// a rectangle of it taken from another image, contrast and brightness changed.
#[derive(Clone, Debug)]
pub struct Variant {
    mirrored: bool,
    /// Rows and columns, below the image's.
    shift: [usize; 2],
    /// Rows and columns of the rectangle: first, and one past the last.
    patch: [[usize; 2]; 2],
    /// What values are multiplied by, and what is added.
    tone: [f32; 2],
}

impl Variant {
    /// Draws one.
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

    /// Makes the variant of `image`, `[C, H, W]`, with the rectangle from `other`.
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
