//! Images as zero-padded planes in which a kernel tap is a fixed distance.

use alloc::{vec, vec::Vec};

use super::correlate::SLACK;
use crate::block::Conv;

/// Sizes of one convolution and of its planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Input channels, rows and columns.
    pub input: [usize; 3],
    /// Output channels, rows and columns.
    pub output: [usize; 3],
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Step between output positions.
    pub stride: usize,
    /// Zeros on each side.
    pub padding: usize,
    /// Channel groups.
    pub groups: usize,
}

impl Geometry {
    /// The sizes of a convolution with these extents of input `[C_in, H, W]` and kernel `[C_out, K_h, K_w]`.
    pub fn new(input: [usize; 3], [outputs, kernel @ ..]: [usize; 3], conv: &Conv) -> Self {
        let [stride, padding, groups] = [conv.stride, conv.padding, conv.groups].map(usize::from);
        let extent = |axis: usize| (input[1 + axis] + 2 * padding - kernel[axis]) / stride + 1;
        Self { input, output: [outputs, extent(0), extent(1)], kernel, stride, padding, groups }
    }

    /// Elements of one input image.
    pub fn input_elements(&self) -> usize {
        self.input.iter().product()
    }

    /// Elements of one output image.
    pub fn output_elements(&self) -> usize {
        self.output.iter().product()
    }

    /// Input channels a group reads.
    pub fn group_inputs(&self) -> usize {
        self.input[0] / self.groups
    }

    /// Output channels a group writes.
    pub fn group_outputs(&self) -> usize {
        self.output[0] / self.groups
    }

    /// How far the taps of one phase reach, in rows and columns of a plane.
    pub fn reach(&self) -> [usize; 2] {
        self.kernel.map(|size| (size - 1) / self.stride)
    }

    /// Phases in rows and columns that a tap reads: phase `(a, b)` of a padded image holds rows `stride·i + a` and columns
    /// `stride·j + b`.
    pub fn phases(&self) -> [usize; 2] {
        self.kernel.map(|size| size.min(self.stride))
    }

    /// Rows and columns of one input plane.
    pub fn plane(&self) -> [usize; 2] {
        let [rows, columns] = self.reach();
        [self.output[1] + rows, self.output[2] + columns]
    }

    /// Input planes of one image: a phase of a channel each.
    pub fn planes(&self) -> usize {
        self.input[0] * self.phases()[0] * self.phases()[1]
    }

    /// Distance from an output position to what tap `(row, column)` of input channel `channel` reads for it.
    pub fn tap(&self, channel: usize, [row, column]: [usize; 2]) -> usize {
        let ([phase_rows, phase_columns], [rows, columns]) = (self.phases(), self.plane());
        let phase = (channel * phase_rows + row % self.stride) * phase_columns + column % self.stride;
        phase * rows * columns + row / self.stride * columns + column / self.stride
    }

    /// Flat positions from the first output to the last, garbage between the rows included.
    pub fn span(&self) -> usize {
        (self.output[1] - 1) * self.plane()[1] + self.output[2]
    }

    /// Zeroed planes for one image, with room for a vector that runs over the end.
    pub fn empty_planes(&self) -> Vec<f32> {
        let [rows, columns] = self.plane();
        vec![0.0; self.planes() * rows * columns + SLACK]
    }

    /// Copies one image into its planes: always the same positions, so that what is padding stays zero.
    pub fn fill_planes(&self, image: &[f32], planes: &mut [f32]) {
        let [_, height, width] = self.input;
        let ([phase_rows, phase_columns], [rows, columns]) = (self.phases(), self.plane());
        let planes = planes.chunks_exact_mut(rows * columns).take(self.planes());
        for (index, plane) in planes.enumerate() {
            let channel = &image[index / (phase_rows * phase_columns) * height * width..][..height * width];
            let (a, b) = (index / phase_columns % phase_rows, index % phase_columns);
            // Columns of the plane that lie in the image.
            let first = self.padding.saturating_sub(b).div_ceil(self.stride);
            let last = (width + self.padding).saturating_sub(b).div_ceil(self.stride).min(columns);
            for (i, row) in plane.chunks_exact_mut(columns).enumerate() {
                let y = self.stride * i + a;
                if y < self.padding || y - self.padding >= height || first >= last {
                    continue;
                }
                let source = &channel[(y - self.padding) * width..][..width];
                let start = self.stride * first + b - self.padding;
                let target = &mut row[first..last];
                if self.stride == 1 {
                    target.copy_from_slice(&source[start..][..target.len()]);
                } else {
                    let source = source[start..].iter().step_by(self.stride);
                    target.iter_mut().zip(source).for_each(|(target, value)| *target = *value);
                }
            }
        }
    }
}
