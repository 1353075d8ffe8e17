//! How an image that is learned from is varied whenever it is shown.

use distill_core::{Pixels, Shape, Stream};

/// Divides the side to give the largest shift in each direction: 4 of CIFAR-10's 32 pixels, as the paper's.
const SHIFT: usize = 8;

/// A random crop of an image with a black border, mirrored or not: what a teacher's training sees.
#[derive(Clone, Copy, Debug)]
pub struct Variation {
    mirrored: bool,
    /// Rows and columns by which the image moves up and left.
    shift: [isize; 2],
}

impl Variation {
    /// The image as it is.
    pub const NONE: Self = Self { mirrored: false, shift: [0; 2] };

    /// Draws a random variation.
    pub fn draw(stream: &mut Stream, Shape { height, width, .. }: Shape) -> Self {
        let mirrored = stream.below(2) == 1;
        let shift = [height, width].map(|side| {
            let most = side / SHIFT;
            stream.below(2 * most + 1) as isize - most as isize
        });
        Self { mirrored, shift }
    }

    /// Writes the values of the varied image, `[C, H, W]`.
    pub fn of(self, image: &[u8], pixels: &Pixels, Shape { height, width, .. }: Shape, values: &mut [f32]) {
        let [down, right] = self.shift;
        for (line, values) in values.chunks_exact_mut(width).enumerate() {
            let (channel, row) = (line / height, line % height);
            let row = row.wrapping_add_signed(down);
            let line = (row < height).then(|| &image[(channel * height + row) * width..][..width]);
            for (column, value) in values.iter_mut().enumerate() {
                let column = if self.mirrored { width - 1 - column } else { column };
                let pixel = line.and_then(|line| line.get(column.wrapping_add_signed(right)));
                *value = pixels.value(channel, pixel.copied().unwrap_or(0));
            }
        }
    }
}
