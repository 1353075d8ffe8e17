//! The three passes of a convolution as correlations and products of planes.
//!
//! The input gradient of a convolution with stride `s` splits into `s × s` phases: input positions at the same offset
//! modulo `s` read the same taps of the output's gradient, so each phase is a correlation of stride 1.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{
    correlate::{Axis, Correlation, Initial},
    elementwise::Bounds,
    instructions::Arch,
    plane::{Lanes, Plane},
    products::{Factor, products},
};
use crate::{heap::held, tensor::Shape};

/// Geometry of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv {
    /// Step between output positions, for rows and columns.
    pub stride: [u16; 2],
    /// Zeros at the top, left, bottom and right.
    pub padding: [u16; 4],
    /// Step between taps, for rows and columns.
    pub dilation: [u16; 2],
    /// Channel groups: 1 is dense, `C_in` is depthwise.
    pub groups: u16,
}

impl Conv {
    /// The same stride and padding in both directions, no dilation, dense.
    pub const fn square(stride: u16, padding: u16) -> Self {
        Self { stride: [stride; 2], padding: [padding; 4], dilation: [1; 2], groups: 1 }
    }

    /// The same convolution in `groups` channel groups.
    pub const fn grouped(self, groups: u16) -> Self {
        Self { groups, ..self }
    }

    /// The largest padding of any side.
    pub fn border(&self) -> usize {
        self.padding.into_iter().max().unwrap_or(0).into()
    }
}

/// A convolution's sizes and the layout of its operands.
#[derive(Clone, Debug)]
pub struct Convolution {
    conv: Conv,
    /// Rows and columns.
    kernel: [usize; 2],
    input: Plane,
    output: Plane,
    forward: Correlation,
}

impl Convolution {
    /// Prepares a convolution with a kernel of these rows and columns; the input's border must cover its padding.
    pub fn new(conv: Conv, kernel: [usize; 2], input: Plane, output: Plane) -> Self {
        let counts = [output.shape.height, output.shape.width];
        let axes = [0, 1].map(|axis| Axis {
            taps: kernel[axis],
            step: conv.stride[axis].into(),
            dilation: conv.dilation[axis].into(),
            pad: conv.padding[axis] as isize,
            count: counts[axis],
            first: 0,
            stride: 1,
        });
        let forward = Correlation { axes, groups: usize::from(conv.groups), source: input, target: output };
        Self { conv, kernel, input, output, forward }
    }

    fn groups(&self) -> usize {
        usize::from(self.conv.groups)
    }

    /// Input channels per group.
    fn inputs(&self) -> usize {
        self.input.shape.channels / self.groups()
    }

    /// Output channels per group.
    fn outputs(&self) -> usize {
        self.output.shape.channels / self.groups()
    }

    /// Number of weights of the kernel.
    pub fn weights(&self) -> usize {
        self.output.shape.channels * self.inputs() * self.kernel[0] * self.kernel[1]
    }

    /// A buffer for [`pack`](Self::pack).
    pub fn packed(&self) -> Vec<f32> {
        self.forward.packed()
    }

    /// Packs a kernel `[C_out, C_in / groups, K_h, K_w]` in the order of the forward pass.
    pub fn pack(&self, kernel: &[f32], packed: &mut [f32]) {
        self.forward.pack(packed, |output, input, tap| kernel[self.index(output, input, tap)]);
    }

    fn index(&self, output: usize, input: usize, [row, column]: [usize; 2]) -> usize {
        ((output * self.inputs() + input) * self.kernel[0] + row) * self.kernel[1] + column
    }

    /// Runs the forward pass of one group of images, with an optional fused clamp.
    pub fn forward(
        &self,
        arch: Arch,
        input: &[Lanes],
        packed: &[f32],
        bias: Initial<'_>,
        clamp: Option<Bounds>,
        output: &mut [Lanes],
    ) {
        self.forward.run(arch, input, packed, bias, clamp, output);
    }
}

/// The input gradient of a convolution.
#[derive(Clone, Debug)]
pub struct InputGradient {
    phases: Vec<Phase>,
}

#[derive(Clone, Debug)]
struct Phase {
    correlation: Correlation,
    /// For rows and columns, the phase's first tap of the kernel, and the distance to the next.
    taps: [[usize; 2]; 2],
    packed: Vec<f32>,
}

impl InputGradient {
    /// Border that the output's gradient needs, for columns outside it; rows outside are skipped.
    pub fn border(conv: Conv, kernel: [usize; 2], input: Shape, output: Shape) -> usize {
        let needed = |remainder: usize| {
            let (axis, _) = phase_axis(conv, 1, kernel[1], input.width, remainder);
            if axis.taps == 0 || axis.count == 0 {
                return 0;
            }
            let last = (axis.count - 1 + (axis.taps - 1) * axis.dilation) as isize - axis.pad;
            axis.pad.max(last - (output.width as isize - 1)).max(0) as usize
        };
        (0..remainders(conv, 1, input.width)).map(needed).max().unwrap_or(0)
    }

    /// Prepares the passes from `gradient` (of the output) to `target` (the input's gradient).
    pub fn new(convolution: &Convolution, gradient: Plane, target: Plane) -> Self {
        let Convolution { conv, kernel, input, .. } = convolution;
        let extents = [input.shape.height, input.shape.width];
        let [rows, columns] = [0, 1].map(|axis| remainders(*conv, axis, extents[axis]));
        let phases = (0..rows * columns).filter_map(|phase| {
            let places = [phase / columns, phase % columns];
            let of = |axis: usize| phase_axis(*conv, axis, kernel[axis], extents[axis], places[axis]);
            let [(rows, row_taps), (columns, column_taps)] = [of(0), of(1)];
            let axes = [rows, columns];
            let correlation = Correlation { axes, groups: usize::from(conv.groups), source: gradient, target };
            let work = axes.iter().all(|axis| axis.count > 0);
            work.then(|| Phase { correlation, taps: [row_taps, column_taps], packed: correlation.packed() })
        });
        Self { phases: phases.collect() }
    }

    /// Heap bytes.
    pub fn heap_bytes(&self) -> usize {
        held(&self.phases) + self.phases.iter().map(|phase| held(&phase.packed)).sum::<usize>()
    }

    /// Packs the kernel, `[C_out, C_in / groups, K_h, K_w]`.
    pub fn pack(&mut self, convolution: &Convolution, kernel: &[f32]) {
        let (inputs, outputs) = (convolution.inputs(), convolution.outputs());
        for Phase { correlation, taps, packed } in &mut self.phases {
            let axes = correlation.axes;
            // The correlation reads the output's gradient and writes the input's.
            correlation.pack(packed, |input, output, tap| {
                let group = input / inputs;
                let flipped = [0, 1].map(|axis| taps[axis][0] + taps[axis][1] * (axes[axis].taps - 1 - tap[axis]));
                kernel[convolution.index(group * outputs + output, input % inputs, flipped)]
            });
        }
    }

    /// Writes the input gradient of one group of images, or adds it to `target`.
    pub fn run(&self, arch: Arch, gradient: &[Lanes], add: bool, target: &mut [Lanes]) {
        let start = if add { Initial::Target } else { Initial::Zero };
        for Phase { correlation, packed, .. } in &self.phases {
            correlation.run(arch, gradient, packed, start, None, target);
        }
    }
}

/// Number of different remainders of an extent's positions; an untrusted stride may be far longer than the extent.
fn remainders(conv: Conv, axis: usize, extent: usize) -> usize {
    usize::from(conv.stride[axis]).min(extent + usize::from(conv.padding[axis]))
}

/// Finds the input positions `y` with `(y + padding) mod stride = remainder` and the taps they read: every `stride /
/// g`-th, where `g` is the common divisor of stride and dilation, from the first whose distance has that remainder.
fn phase_axis(conv: Conv, axis: usize, kernel: usize, extent: usize, remainder: usize) -> (Axis, [usize; 2]) {
    let [stride, padding, dilation] = [conv.stride[axis], conv.padding[axis], conv.dilation[axis]].map(usize::from);
    let common = divisor(stride, dilation);
    let (between, apart) = (stride / common, dilation / common);
    let seen = (0..between.min(kernel)).find(|tap| tap * dilation % stride == remainder);
    let taps = seen.map_or(0, |first| (kernel - first).div_ceil(between));
    let skipped = padding.saturating_sub(remainder).div_ceil(stride);
    let first = stride * skipped + remainder - padding;
    let count = extent.saturating_sub(first).div_ceil(stride);
    // Output position of the first input's first tap; later taps have earlier positions.
    let start = seen.map_or(0, |tap| (first + padding) as isize - (tap * dilation) as isize) / stride as isize;
    let pad = (taps as isize - 1) * apart as isize - start;
    let axis = Axis { taps, step: 1, dilation: apart, pad, count, first, stride };
    (axis, [seen.unwrap_or(0), between])
}

/// Greatest common divisor.
fn divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { divisor(b, a % b) }
}

/// The weight gradient: for each tap row of each channel group, products of gradient planes with shifted input planes.
#[derive(Clone, Debug)]
pub struct WeightGradient {
    /// In the order of the sums: channel group, then tap row.
    rows: Vec<TapRow>,
}

#[derive(Clone, Debug)]
struct TapRow {
    lefts: Vec<usize>,
    rights: Vec<usize>,
    pitches: [usize; 2],
    stride: usize,
    /// Output rows and columns that read the tap row.
    extent: [usize; 2],
}

impl WeightGradient {
    /// Prepares the products of `gradient` (of the output) with the input of `convolution`.
    pub fn new(convolution: &Convolution, gradient: Plane) -> Self {
        let Convolution { conv, kernel, input, output, .. } = convolution;
        let [stride, dilation] = [conv.stride, conv.dilation].map(|pair| pair.map(usize::from));
        let [top, left, ..] = conv.padding.map(usize::from);
        let (inputs, outputs) = (convolution.inputs(), convolution.outputs());
        let tap_row = |group: usize, row: usize| {
            let below = row * dilation[0];
            // Output rows whose tap row is inside the input.
            let first = top.saturating_sub(below).div_ceil(stride[0]);
            let last = (input.shape.height + top).saturating_sub(below).div_ceil(stride[0]).min(output.shape.height);
            let line = (first * stride[0] + below + input.border - top) * input.pitch() + input.border - left;
            let column = move |column: usize| line + column * dilation[1];
            let right = |channel: usize| (0..kernel[1]).map(move |tap| channel * input.area() + column(tap));
            TapRow {
                lefts: (0..outputs)
                    .map(|channel| gradient.at(group * outputs + channel, first.min(output.shape.height - 1), 0))
                    .collect(),
                rights: (group * inputs..(group + 1) * inputs).flat_map(right).collect(),
                pitches: [gradient.pitch(), input.pitch() * stride[0]],
                stride: stride[1],
                extent: [last.saturating_sub(first), output.shape.width],
            }
        };
        let rows = (0..convolution.groups()).flat_map(|group| (0..kernel[0]).map(move |row| (group, row)));
        Self { rows: rows.map(|(group, row)| tap_row(group, row)).collect() }
    }

    /// Heap bytes.
    pub fn heap_bytes(&self) -> usize {
        held(&self.rows) + self.rows.iter().map(|row| held(&row.lefts) + held(&row.rights)).sum::<usize>()
    }

    /// Adds the weight gradient of one group of images to `sums`, in the order of `rows`.
    pub fn run(&self, arch: Arch, input: &[Lanes], gradient: &[Lanes], mut sums: &mut [f32]) {
        for TapRow { lefts, rights, pitches, stride, extent } in &self.rows {
            let here = sums.split_off_mut(..lefts.len() * rights.len()).unwrap_or_default();
            let left = Factor { values: gradient, starts: lefts, pitch: pitches[0], step: 1 };
            let right = Factor { values: input, starts: rights, pitch: pitches[1], step: *stride };
            products(arch, left, right, *extent, here, rights.len());
        }
    }

    /// Adds sums in the order of [`run`](Self::run) to a gradient `[C_out, C_in / groups, K_h, K_w]`.
    pub fn add_to(convolution: &Convolution, sums: &[f32], gradient: &mut [f32]) {
        let ([rows, columns], inputs, outputs) = (convolution.kernel, convolution.inputs(), convolution.outputs());
        for (position, sums) in sums.chunks_exact(inputs * columns).enumerate() {
            let (output, row) = (position % outputs, position / outputs % rows);
            let output = position / (outputs * rows) * outputs + output;
            for (input, sums) in sums.chunks_exact(columns).enumerate() {
                let target = &mut gradient[convolution.index(output, input, [row, 0])..];
                target.iter_mut().zip(sums).for_each(|(target, sum)| *target += sum);
            }
        }
    }
}

/// Initial indices of a convolution's patch planes (im2col): one per input channel and tap, in the kernel's order.
pub fn patch_starts(conv: Conv, [rows, columns]: [usize; 2], input: Plane) -> impl Iterator<Item = usize> {
    let [top, left, ..] = conv.padding.map(usize::from);
    let corner = (input.border - top) * input.pitch() + input.border - left;
    let [below, beside] = conv.dilation.map(usize::from);
    (0..input.shape.channels * rows * columns).map(move |position| {
        let (channel, tap) = (position / (rows * columns), position % (rows * columns));
        channel * input.area() + corner + tap / columns * below * input.pitch() + tap % columns * beside
    })
}
