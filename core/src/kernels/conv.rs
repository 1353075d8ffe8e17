//! A convolution's three passes over a batch, on plain slices.
//!
//! Shapes: input `[N, C_in, H, W]`, kernel `[C_out, C_in / groups, K_h, K_w]`, output `[N, C_out, H', W']`.

use alloc::{vec, vec::Vec};

use super::{
    correlate::{CHANNELS, SLACK, TAPS, correlate, products},
    parallel::each_piece,
    planes::Geometry,
};

/// Pieces a batch is cut into for the gradient by the weights: their sums are added in this order, whatever the threads.
const PIECES: usize = 8;
/// Positions one product runs over; small images are put side by side.
const LONG_ENOUGH: usize = 1024;

/// The output, negative values cut to zero if `relu` (what is not a number stays none).
pub fn forward(geometry: &Geometry, input: &[f32], kernel: &[f32], bias: &[f32], relu: bool) -> Vec<f32> {
    let images = input.len() / geometry.input_elements();
    let blocks = ForwardBlocks::new(geometry, kernel, bias);
    let row = geometry.span() + SLACK;
    let mut output = vec![0.0; images * geometry.output_elements()];
    let scratch = || (geometry.empty_planes(), vec![0.0; CHANNELS * row]);
    each_piece(&mut output, geometry.output_elements(), scratch, |image, output, (planes, rows)| {
        geometry.fill_planes(&input[image * geometry.input_elements()..][..geometry.input_elements()], planes);
        blocks.run(planes, (rows, row), output, relu);
    });
    output
}

/// Kernel and bias in the order the inner loop reads them.
struct ForwardBlocks<'a> {
    geometry: &'a Geometry,
    taps: Vec<usize>,
    weights: Vec<[f32; CHANNELS]>,
    biases: Vec<[f32; CHANNELS]>,
}

impl<'a> ForwardBlocks<'a> {
    fn new(geometry: &'a Geometry, kernel: &[f32], bias: &[f32]) -> Self {
        let (taps, per_channel) = (input_taps(geometry), geometry.group_inputs() * area(geometry));
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for channels in channel_blocks(geometry.groups, geometry.group_outputs()) {
            let at = |tap: usize| channels.map(|c| c.map_or(0.0, |c| kernel[c * per_channel + tap]));
            weights.extend((0..per_channel).map(at));
            biases.push(channels.map(|c| c.map_or(0.0, |c| bias[c])));
        }
        Self { geometry, taps, weights, biases }
    }

    fn run(&self, planes: &[f32], (rows, row): (&mut [f32], usize), output: &mut [f32], relu: bool) {
        let [_, height, width] = self.geometry.output;
        let per_channel = self.geometry.group_inputs() * area(self.geometry);
        let blocks = channel_blocks(self.geometry.groups, self.geometry.group_outputs());
        for (block, channels) in blocks.enumerate() {
            let group = channels[0].map_or(0, |c| c / self.geometry.group_outputs());
            let taps = &self.taps[group * per_channel..][..per_channel];
            let weights = &self.weights[block * per_channel..][..per_channel];
            correlate(planes, (taps, weights), self.biases[block], (rows, row), self.geometry.span());
            for (lane, channel) in channels.iter().enumerate() {
                let Some(channel) = channel else { continue };
                let target = &mut output[channel * height * width..][..height * width];
                for (y, target) in target.chunks_exact_mut(width).enumerate() {
                    let source = &rows[lane * row + y * self.geometry.plane()[1]..][..width];
                    if relu {
                        target
                            .iter_mut()
                            .zip(source)
                            .for_each(|(target, value)| *target = if *value < 0.0 { 0.0 } else { *value });
                    } else {
                        target.copy_from_slice(source);
                    }
                }
            }
        }
    }
}

/// The gradient by the input. Where `output` is given, positions at which it is not above zero pass nothing back (ReLU).
pub fn input_gradient(geometry: &Geometry, kernel: &[f32], gradient: &[f32], output: Option<&[f32]>) -> Vec<f32> {
    let images = gradient.len() / geometry.output_elements();
    let phases = gradient_phases(geometry, kernel);
    let [channels, out_height, out_width] = geometry.output;
    let [rows_axis, columns_axis] = [0, 1].map(|axis| GradientAxis::new(geometry, axis));
    let (plane_rows, plane_columns) = (rows_axis.size, columns_axis.size);
    let mut result = vec![0.0; images * geometry.input_elements()];
    let span = (rows_axis.count - 1) * plane_columns + columns_axis.count;
    let row = span + SLACK;
    let scratch = || (vec![0.0; channels * plane_rows * plane_columns + SLACK], vec![0.0; CHANNELS * row]);
    each_piece(&mut result, geometry.input_elements(), scratch, |image, result, (planes, rows)| {
        let here = image * geometry.output_elements()..(image + 1) * geometry.output_elements();
        let masked = Masked { gradient: &gradient[here.clone()], output: output.map(|output| &output[here]) };
        for (index, plane) in planes.chunks_exact_mut(plane_rows * plane_columns).take(channels).enumerate() {
            for y in 0..out_height {
                let target = &mut plane[(y + rows_axis.before) * plane_columns + columns_axis.before..][..out_width];
                masked.copy_row((index * out_height + y) * out_width, target);
            }
        }
        for phase in &phases {
            correlate(planes, (&phase.taps, &phase.weights), [0.0; CHANNELS], (rows, row), span);
            for (lane, channel) in phase.channels.iter().enumerate() {
                let Some(channel) = channel else { continue };
                phase.scatter(geometry, &rows[lane * row..], *channel, result);
            }
        }
    });
    result
}

/// Along rows (axis 0) or columns: which positions `Y` of a phase of the padded input are wanted, and how the output's
/// gradient lies in its plane so that `Y − m` is in it for every tap `m`.
struct GradientAxis {
    /// First `Y` of any phase inside the input.
    first: usize,
    /// Positions from there to the last.
    count: usize,
    /// Zeros before the gradient.
    before: usize,
    /// Extent of the plane.
    size: usize,
}

impl GradientAxis {
    fn new(geometry: &Geometry, axis: usize) -> Self {
        let (stride, padding) = (geometry.stride, geometry.padding);
        let first = (padding + 1).saturating_sub(geometry.phases()[axis]).div_ceil(stride);
        let last = (geometry.input[1 + axis] - 1 + padding) / stride;
        let before = geometry.reach()[axis].saturating_sub(first);
        Self { first, count: last + 1 - first, before, size: before + 1 + last.max(geometry.output[1 + axis] - 1) }
    }

    /// Distance from position `first` to what tap `m` reads for it.
    fn tap(&self, m: usize) -> usize {
        self.first + self.before - m
    }
}

/// One phase `(a, b)` of the input's gradient for some of its channels: a correlation of the output's gradient with the
/// kernel taps `a + stride·m`, `b + stride·n`.
struct GradientPhase {
    at: [usize; 2],
    channels: [Option<usize>; CHANNELS],
    taps: Vec<usize>,
    weights: Vec<[f32; CHANNELS]>,
}

impl GradientPhase {
    fn scatter(&self, geometry: &Geometry, row: &[f32], channel: usize, result: &mut [f32]) {
        let ([_, height, width], stride, padding) = (geometry.input, geometry.stride, geometry.padding);
        let result = &mut result[channel * height * width..][..height * width];
        let [rows, columns] = [0, 1].map(|axis| GradientAxis::new(geometry, axis));
        for i in 0..rows.count {
            let y = stride * (rows.first + i) + self.at[0];
            if y < padding || y - padding >= height {
                continue;
            }
            let target = &mut result[(y - padding) * width..][..width];
            for (j, &value) in row[i * columns.size..][..columns.count].iter().enumerate() {
                let x = stride * (columns.first + j) + self.at[1];
                if x >= padding && x - padding < width {
                    target[x - padding] = value;
                }
            }
        }
    }
}

fn gradient_phases(geometry: &Geometry, kernel: &[f32]) -> Vec<GradientPhase> {
    let [kernel_rows, kernel_columns] = geometry.kernel;
    let [rows, columns] = [0, 1].map(|axis| GradientAxis::new(geometry, axis));
    let (inputs, outputs) = (geometry.group_inputs(), geometry.group_outputs());
    let mut phases = Vec::new();
    for channels in channel_blocks(geometry.groups, inputs) {
        let group = channels[0].map_or(0, |c| c / inputs);
        for (a, b) in (0..geometry.phases()[0]).flat_map(|a| (0..geometry.phases()[1]).map(move |b| (a, b))) {
            let (mut taps, mut weights) = (Vec::new(), Vec::new());
            for output in group * outputs..(group + 1) * outputs {
                for ky in (a..kernel_rows).step_by(geometry.stride) {
                    for kx in (b..kernel_columns).step_by(geometry.stride) {
                        let (row, column) = (rows.tap(ky / geometry.stride), columns.tap(kx / geometry.stride));
                        taps.push((output * rows.size + row) * columns.size + column);
                        let at = |c: usize| ((output * inputs + c % inputs) * kernel_rows + ky) * kernel_columns + kx;
                        weights.push(channels.map(|c| c.map_or(0.0, |c| kernel[at(c)])));
                    }
                }
            }
            phases.push(GradientPhase { at: [a, b], channels, taps, weights });
        }
    }
    phases
}

/// The gradients by kernel and bias; `output` as in [`input_gradient`].
pub fn weight_gradient(
    geometry: &Geometry,
    input: &[f32],
    gradient: &[f32],
    output: Option<&[f32]>,
) -> (Vec<f32>, Vec<f32>) {
    let images = input.len() / geometry.input_elements();
    let [channels, height, width] = geometry.output;
    let [rows, columns] = geometry.plane();
    // Several small images lie side by side in a plane: one long product instead of many short ones.
    let together = (LONG_ENOUGH / (rows * columns)).clamp(1, images.max(1));
    let plane = rows * columns;
    let length = ((together - 1) * plane + geometry.span()).next_multiple_of(16);
    let per_channel = geometry.group_inputs() * area(geometry);
    let padded_taps = per_channel.next_multiple_of(TAPS);
    // Taps of each group in planes that hold `together` images each.
    let single_taps = input_taps(geometry);
    let mut taps = vec![0; geometry.groups * padded_taps];
    for (group, taps) in taps.chunks_exact_mut(padded_taps).enumerate() {
        for (tap, target) in single_taps[group * per_channel..][..per_channel].iter().zip(taps) {
            *target = tap / plane * (together * plane) + tap % plane;
        }
    }
    let blocks: Vec<_> = channel_blocks(geometry.groups, geometry.group_outputs()).collect();
    let sums_length = blocks.len() * padded_taps * CHANNELS;
    let piece_length = sums_length + channels;
    let batches = images.div_ceil(together);
    let mut pieces = vec![0.0; PIECES.min(batches.max(1)) * piece_length];
    let count = pieces.len() / piece_length;
    let scratch = || {
        let planes = vec![0.0; geometry.planes() * together * plane + plane + SLACK];
        (geometry.empty_planes(), planes, vec![0.0; (channels + 1) * length], vec![[0.0; CHANNELS]; padded_taps])
    };
    each_piece(&mut pieces, piece_length, scratch, |piece, result, (single, planes, gradients, sums)| {
        let (result, bias) = result.split_at_mut(sums_length);
        for batch in (batches * piece / count)..(batches * (piece + 1) / count) {
            gradients.fill(0.0);
            for slot in 0..together {
                let image = batch * together + slot;
                if image >= images {
                    break;
                }
                geometry.fill_planes(&input[image * geometry.input_elements()..][..geometry.input_elements()], single);
                for (index, source) in single.chunks_exact(plane).take(geometry.planes()).enumerate() {
                    planes[(index * together + slot) * plane..][..plane].copy_from_slice(source);
                }
                let here = image * geometry.output_elements()..(image + 1) * geometry.output_elements();
                let masked = Masked { gradient: &gradient[here.clone()], output: output.map(|output| &output[here]) };
                for channel in 0..channels {
                    for y in 0..height {
                        let target = &mut gradients[channel * length + slot * plane + y * columns..][..width];
                        masked.copy_row((channel * height + y) * width, target);
                        bias[channel] += target.iter().sum::<f32>();
                    }
                }
            }
            for (channels_here, result) in blocks.iter().zip(result.chunks_exact_mut(padded_taps * CHANNELS)) {
                let group = channels_here[0].map_or(0, |c| c / geometry.group_outputs());
                let rows = channels_here.map(|c| &gradients[c.unwrap_or(channels) * length..][..length]);
                sums.fill([0.0; CHANNELS]);
                products(planes, &taps[group * padded_taps..][..padded_taps], rows, sums);
                result.iter_mut().zip(sums.as_flattened()).for_each(|(total, sum)| *total += sum);
            }
        }
    });
    let mut kernel = vec![0.0; channels * per_channel];
    let mut bias = vec![0.0; channels];
    for piece in pieces.chunks_exact(piece_length) {
        for (channels_here, sums) in blocks.iter().zip(piece.chunks_exact(padded_taps * CHANNELS)) {
            for (tap, sums) in sums.chunks_exact(CHANNELS).take(per_channel).enumerate() {
                for (channel, sum) in channels_here.iter().zip(sums) {
                    if let Some(channel) = channel {
                        kernel[channel * per_channel + tap] += sum;
                    }
                }
            }
        }
        bias.iter_mut().zip(&piece[sums_length..]).for_each(|(total, sum)| *total += sum);
    }
    (kernel, bias)
}

/// What each tap of each input channel reads: `[N, C_in·K_h·K_w, H', W']` (im2col), for a dense convolution.
pub fn patches(geometry: &Geometry, input: &[f32]) -> Vec<f32> {
    let images = input.len() / geometry.input_elements();
    let ([_, height, width], columns) = (geometry.output, geometry.plane()[1]);
    let taps = input_taps(geometry);
    let mut result = vec![0.0; images * taps.len() * height * width];
    each_piece(
        &mut result,
        taps.len() * height * width,
        || geometry.empty_planes(),
        |image, result, planes| {
            geometry.fill_planes(&input[image * geometry.input_elements()..][..geometry.input_elements()], planes);
            for (tap, result) in taps.iter().zip(result.chunks_exact_mut(height * width)) {
                for (y, row) in result.chunks_exact_mut(width).enumerate() {
                    row.copy_from_slice(&planes[tap + y * columns..][..width]);
                }
            }
        },
    );
    result
}

/// A gradient that a ReLU lets through.
struct Masked<'a> {
    gradient: &'a [f32],
    output: Option<&'a [f32]>,
}

impl Masked<'_> {
    fn copy_row(&self, start: usize, target: &mut [f32]) {
        let gradient = &self.gradient[start..][..target.len()];
        match self.output {
            None => target.copy_from_slice(gradient),
            Some(output) => {
                let pairs = gradient.iter().zip(&output[start..][..target.len()]);
                target.iter_mut().zip(pairs).for_each(|(target, (&g, &y))| *target = if y <= 0.0 { 0.0 } else { g });
            }
        }
    }
}

fn area(geometry: &Geometry) -> usize {
    geometry.kernel[0] * geometry.kernel[1]
}

/// Where each tap of each input channel lies, in the kernel's order.
fn input_taps(geometry: &Geometry) -> Vec<usize> {
    let [rows, columns] = geometry.kernel;
    let taps = |channel| (0..rows * columns).map(move |tap| geometry.tap(channel, [tap / columns, tap % columns]));
    (0..geometry.input[0]).flat_map(taps).collect()
}

/// Channels of each group in blocks of [`CHANNELS`]; the last of a group may be part empty.
fn channel_blocks(groups: usize, per_group: usize) -> impl Iterator<Item = [Option<usize>; CHANNELS]> {
    let block = move |group: usize, first: usize| {
        core::array::from_fn(|lane| (first + lane < per_group).then_some(group * per_group + first + lane))
    };
    (0..groups).flat_map(move |group| (0..per_group).step_by(CHANNELS).map(move |first| block(group, first)))
}
