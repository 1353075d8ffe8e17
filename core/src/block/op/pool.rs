//! Max and average pooling, over windows or the whole value.

#[cfg(feature = "onnx")]
use alloc::{vec, vec::Vec};
use core::ops::Range;

use serde::{Deserialize, Serialize};

#[cfg(feature = "burn")]
use super::burn::{BurnOperands, Tensor4};
#[cfg(feature = "onnx")]
use super::onnx::{Argument, Attribute, Family, Meaning, OnnxNode, Step, Unreadable, window_attributes};
use super::{Kept, OnCpu, Operands, Operator, Plain, Slopes};
use crate::{
    block::BlockError,
    kernels::{
        elementwise::{Read, Write, average},
        instructions::Arch,
        plane::{LANES, Lanes, Plane},
    },
    tensor::Shape,
};

/// A window that slides over rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Its rows and columns.
    pub kernel: [u16; 2],
    /// Step between its positions.
    pub stride: [u16; 2],
    /// Padding at the top, left, bottom and right.
    pub padding: [u16; 4],
}

/// The largest value of each window; padding is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxPool {
    /// The window.
    pub window: Window,
}

/// The mean of each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AveragePool {
    /// The window.
    pub window: Window,
    /// Whether padding counts as zeros or is ignored.
    pub counts_padding: bool,
}

/// See [`Op::GlobalAveragePool`](super::Op::GlobalAveragePool).
pub(super) struct GlobalAveragePool;

/// Number of positions of a window of `taps` taps, `dilation` apart, over `size` places with padding `ends`; `None` if
/// it does not fit. Padding longer than window and value is refused, because it could cost any amount of memory.
pub(super) fn extent(size: usize, taps: usize, stride: u16, dilation: u16, ends: [u16; 2]) -> Option<usize> {
    let (stride, dilation, [begin, end]) = (usize::from(stride), usize::from(dilation), ends.map(usize::from));
    let reach = taps.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
    if stride == 0 || dilation == 0 || begin.max(end) > size.max(reach - 1) {
        return None;
    }
    Some((size + begin + end).checked_sub(reach)? / stride + 1)
}

impl Window {
    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        let (x, [rows, columns], [top, left, bottom, right]) = (given.inputs[0], self.kernel, self.padding);
        let height = extent(x.height, rows.into(), self.stride[0], 1, [top, bottom]);
        let width = extent(x.width, columns.into(), self.stride[1], 1, [left, right]);
        // Every position must overlap the value.
        let sees = top.max(bottom) < rows && left.max(right) < columns;
        match (height, width) {
            (Some(height), Some(width)) if sees => Ok(Shape { height, width, ..x }),
            _ => Err(given.misfit(x)),
        }
    }

    /// The rows or columns that the window covers at a position along `axis`.
    fn seen(&self, axis: usize, position: usize, extent: usize) -> Range<usize> {
        let first = position * usize::from(self.stride[axis]);
        let before = usize::from(self.padding[axis]);
        let end = (first + usize::from(self.kernel[axis])).saturating_sub(before).min(extent);
        first.saturating_sub(before).min(end)..end
    }

    /// Calls `visit(index in to, rows in from, columns in from, channel)` for each position of the window.
    fn each(&self, to: Plane, from: Plane, mut visit: impl FnMut(usize, Range<usize>, Range<usize>, usize)) {
        for (index, row) in to.rows().enumerate() {
            let (channel, y) = (index / to.shape.height, index % to.shape.height);
            let rows = self.seen(0, y, from.shape.height);
            for x in 0..to.shape.width {
                visit(row + x, rows.clone(), self.seen(1, x, from.shape.width), channel);
            }
        }
    }

    /// Padding before and after, for rows and columns.
    #[cfg(feature = "burn")]
    fn pairs(&self) -> [(usize, usize); 2] {
        let [top, left, bottom, right] = self.padding.map(usize::from);
        [(top, bottom), (left, right)]
    }

    #[cfg(feature = "onnx")]
    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        window_attributes(self.kernel, self.stride, self.padding)
    }
}

impl Operator for MaxPool {
    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        self.window.shape(given)
    }

    fn on_cpu(&self) -> OnCpu<'_> {
        OnCpu::Plain(self)
    }

    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4 {
        use burn::tensor::{module::max_pool2d, ops::MaxPoolOptions};

        let Window { kernel, stride, .. } = self.window;
        let options = MaxPoolOptions::new(kernel.map(usize::from)).with_stride(stride.map(usize::from));
        max_pool2d(given.input(0), options.with_padding_pairs(self.window.pairs()))
    }

    #[cfg(feature = "onnx")]
    fn to_onnx(&self, _given: &Operands<'_>) -> Vec<Step> {
        vec![Step::new("MaxPool", vec![Argument::Value(0)], self.window.attributes())]
    }
}

impl Plain for MaxPool {
    fn forward(&self, _arch: Arch, inputs: [Option<Read<'_>>; 2], (output, to): Write<'_>) {
        let Some((input, from)) = inputs[0] else { return };
        self.window.each(to, from, |place, rows, columns, channel| {
            let mut largest = [f32::NEG_INFINITY; LANES];
            for row in rows {
                for x in &input[from.at(channel, row, columns.start)..][..columns.len()] {
                    // NaN propagates.
                    let larger = |(largest, x): (&mut f32, f32)| *largest = if x <= *largest { *largest } else { x };
                    largest.iter_mut().zip(x.0).for_each(larger);
                }
            }
            output[place] = Lanes(largest);
        });
    }

    /// The first of equal maxima receives the whole gradient.
    fn backward(&self, slopes: &Slopes<'_>, (target, to): Write<'_>) {
        let (gradient, of) = slopes.gradient;
        let ((input, from), (output, out)) = (slopes.inputs[0], slopes.output);
        self.window.each(of, to, |place, rows, columns, channel| {
            let (y, x) = ((place - of.at(channel, 0, 0)) / of.pitch(), (place - of.at(channel, 0, 0)) % of.pitch());
            let largest = output[out.at(channel, y, x)];
            let mut left = gradient[place];
            for row in rows {
                for column in columns.clone() {
                    let value = input[from.at(channel, row, column)];
                    let target = &mut target[to.at(channel, row, column)];
                    for lane in 0..LANES {
                        if value.0[lane] == largest.0[lane] {
                            target.0[lane] += left.0[lane];
                            left.0[lane] = 0.0;
                        }
                    }
                }
            }
        });
    }

    fn kept(&self) -> Kept {
        Kept { inputs: true, output: true }
    }
}

impl AveragePool {
    /// The divisor of a window's sum.
    fn divisor(&self, rows: &Range<usize>, columns: &Range<usize>) -> f32 {
        let [height, width] = self.window.kernel.map(usize::from);
        (if self.counts_padding { height * width } else { rows.len() * columns.len() }) as f32
    }
}

impl Operator for AveragePool {
    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        self.window.shape(given)
    }

    fn on_cpu(&self) -> OnCpu<'_> {
        OnCpu::Plain(self)
    }

    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4 {
        use burn::tensor::{module::avg_pool2d, ops::AvgPoolOptions};

        let Window { kernel, stride, .. } = self.window;
        let options = AvgPoolOptions::new(kernel.map(usize::from)).with_stride(stride.map(usize::from));
        let options = options.with_padding_pairs(self.window.pairs()).with_count_include_pad(self.counts_padding);
        avg_pool2d(given.input(0), options)
    }

    #[cfg(feature = "onnx")]
    fn to_onnx(&self, _given: &Operands<'_>) -> Vec<Step> {
        let mut attributes = self.window.attributes();
        attributes.push(("count_include_pad", Attribute::Int(self.counts_padding.into())));
        vec![Step::new("AveragePool", vec![Argument::Value(0)], attributes)]
    }
}

impl Plain for AveragePool {
    fn forward(&self, _arch: Arch, inputs: [Option<Read<'_>>; 2], (output, to): Write<'_>) {
        let Some((input, from)) = inputs[0] else { return };
        self.window.each(to, from, |place, rows, columns, channel| {
            let (mut sum, scale) = ([0.0; LANES], 1.0 / self.divisor(&rows, &columns));
            for row in rows {
                for x in &input[from.at(channel, row, columns.start)..][..columns.len()] {
                    sum.iter_mut().zip(x.0).for_each(|(sum, x)| *sum += x);
                }
            }
            output[place] = Lanes(sum.map(|sum| scale * sum));
        });
    }

    fn backward(&self, slopes: &Slopes<'_>, (target, to): Write<'_>) {
        let (gradient, of) = slopes.gradient;
        self.window.each(of, to, |place, rows, columns, channel| {
            let share = gradient[place].0.map(|gradient| gradient / self.divisor(&rows, &columns));
            for row in rows {
                for target in &mut target[to.at(channel, row, columns.start)..][..columns.len()] {
                    target.0.iter_mut().zip(share).for_each(|(target, share)| *target += share);
                }
            }
        });
    }
}

impl Operator for GlobalAveragePool {
    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        Ok(Shape { height: 1, width: 1, ..given.inputs[0] })
    }

    fn on_cpu(&self) -> OnCpu<'_> {
        OnCpu::Plain(self)
    }

    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4 {
        burn::tensor::module::adaptive_avg_pool2d(given.input(0), [1, 1])
    }

    #[cfg(feature = "onnx")]
    fn to_onnx(&self, _given: &Operands<'_>) -> Vec<Step> {
        vec![Step::new("GlobalAveragePool", vec![Argument::Value(0)], vec![])]
    }
}

impl Plain for GlobalAveragePool {
    fn forward(&self, arch: Arch, inputs: [Option<Read<'_>>; 2], output: Write<'_>) {
        if let Some(input) = inputs[0] {
            average(arch, output, input);
        }
    }

    fn backward(&self, slopes: &Slopes<'_>, (target, to): Write<'_>) {
        let (gradient, of) = slopes.gradient;
        let scale = 1.0 / (to.shape.height * to.shape.width) as f32;
        for (index, row) in to.rows().enumerate() {
            let gradient = gradient[of.at(index / to.shape.height, 0, 0)];
            for target in &mut target[row..row + to.shape.width] {
                target.0.iter_mut().zip(gradient.0).for_each(|(target, gradient)| *target += scale * gradient);
            }
        }
    }
}

/// Reads a pooling operator's window. Rounding up becomes padding at the end, which must not count.
#[cfg(feature = "onnx")]
fn window(node: &OnnxNode<'_>) -> Result<Window, Unreadable> {
    let kernel = node.ints("kernel_shape").unwrap_or_default();
    let &[rows, columns] = kernel.as_slice() else { return Err(node.refuse("its window is not two-dimensional")) };
    if node.pair("dilations", 1)? != [1; 2] {
        return Err(node.refuse("its window has gaps"));
    }
    node.window([rows.max(0) as usize, columns.max(0) as usize], [1; 2])
}

#[cfg(feature = "onnx")]
fn average_pool(node: &OnnxNode<'_>) -> Result<Meaning, Unreadable> {
    let (window, rounded_down) = (window(node)?, window(&node.rounded_down())?);
    // What rounding up adds never counts.
    let counts_padding = rounded_down.padding != [0; 4] && node.int("count_include_pad", 0) != 0;
    if counts_padding && window != rounded_down {
        return Err(node.refuse("it rounds up and counts padding"));
    }
    Ok(Meaning::new(super::Op::AveragePool(AveragePool { window, counts_padding })))
}

/// Reads a maximum over rows and columns.
#[cfg(feature = "onnx")]
fn global_max_pool(node: &OnnxNode<'_>) -> Result<Meaning, Unreadable> {
    let Shape { height, width, .. } = node.shape(0)?;
    let kernel = node.small(&[height as i64, width as i64], "rows and columns")?;
    let window = Window { kernel, stride: [1; 2], padding: [0; 4] };
    Ok(Meaning::new(super::Op::MaxPool(MaxPool { window })))
}

/// Reads a mean over rows, columns, or both.
#[cfg(feature = "onnx")]
fn reduce_mean(node: &OnnxNode<'_>) -> Result<Meaning, Unreadable> {
    let axes = match node.optional_constant(1, "axes")? {
        Some(axes) => axes.ints(),
        None => node.ints("axes").unwrap_or_default(),
    };
    let mut axes = axes.into_iter().map(|axis| node.axis(axis)).collect::<Result<Vec<usize>, _>>()?;
    axes.sort_unstable();
    let (Shape { height, width, .. }, rank) = (node.shape(0)?, node.rank(0)?);
    let over = |kernel: [usize; 2]| {
        let kernel = node.small(&kernel.map(|taps| taps as i64), "rows and columns")?;
        let window = Window { kernel, stride: [1; 2], padding: [0; 4] };
        Ok(super::Op::AveragePool(AveragePool { window, counts_padding: false }))
    };
    let op = match axes.as_slice() {
        [2] if rank == 4 => over([height, 1])?,
        [3] if rank == 4 => over([1, width])?,
        [2] | [2, 3] if axes.len() + 2 == rank => super::Op::GlobalAveragePool,
        _ => return Err(node.refuse("it does not average over rows or columns")),
    };
    let dropped = if node.int("keepdims", 1) == 0 { axes } else { Vec::new() };
    Ok(Meaning { dropped, ..Meaning::new(op) })
}

#[cfg(feature = "onnx")]
pub(super) const ONNX: Family = &[
    ("MaxPool", |node| Ok(Meaning::new(super::Op::MaxPool(MaxPool { window: window(node)? })))),
    ("AveragePool", average_pool),
    ("GlobalMaxPool", global_max_pool),
    ("GlobalAveragePool", |_| Ok(Meaning::new(super::Op::GlobalAveragePool))),
    ("ReduceMean", reduce_mean),
];
