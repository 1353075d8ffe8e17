//! Slices of channels, rows and columns.

#[cfg(feature = "onnx")]
use alloc::{vec, vec::Vec};

use serde::{Deserialize, Serialize};

#[cfg(feature = "burn")]
use super::burn::{BurnOperands, Tensor4};
#[cfg(feature = "onnx")]
use super::onnx::{Argument, Family, Meaning, OnnxNode, Step, Unreadable};
use super::{Channels, OnCpu, Op, Operands, Operator, Plain, Slopes};
use crate::{
    block::BlockError,
    kernels::{
        elementwise::{Read, Write},
        instructions::Arch,
        plane::Plane,
    },
    tensor::Shape,
};

/// Every `step`-th index from `start` to before `end`, along channels, rows and columns; `end` is clipped to the
/// extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// First index.
    pub start: [u32; 3],
    /// End index, exclusive.
    pub end: [u32; 3],
    /// Step between indices.
    pub step: [u32; 3],
}

impl Slice {
    /// Everything.
    pub const ALL: Self = Self { start: [0; 3], end: [u32::MAX; 3], step: [1; 3] };

    /// Every `stride`-th row and column, from the first (the option-A shortcut of He et al. 2015).
    pub const fn strided(stride: u32) -> Self {
        Self { step: [1, stride, stride], ..Self::ALL }
    }

    /// The index in `from` of the first element of row `index` of `to`.
    fn source(&self, to: Plane, from: Plane, index: usize) -> usize {
        let [start, step] = [self.start, self.step].map(|places| places.map(|place| place as usize));
        let (channel, row) = (index / to.shape.height, index % to.shape.height);
        from.at(start[0] + step[0] * channel, start[1] + step[1] * row, start[2])
    }
}

impl Operator for Slice {
    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        let x = given.inputs[0];
        let extents = [x.channels, x.height, x.width];
        let count = |axis: usize| {
            let [start, end, step] = [self.start[axis], self.end[axis], self.step[axis]].map(|place| place as usize);
            let room = end.min(extents[axis]).checked_sub(start).filter(|&room| room > 0 && step > 0);
            room.map(|room| room.div_ceil(step)).ok_or_else(|| given.misfit(x))
        };
        Ok(Shape { channels: count(0)?, height: count(1)?, width: count(2)? })
    }

    fn channels(&self, given: &Operands<'_>) -> Channels {
        let (first, end, extent) = (self.start[0] as usize, self.end[0] as usize, given.inputs[0].channels);
        match self.step[0] {
            1 if first == 0 && end >= extent => Channels::Same,
            1 => Channels::Selected { first, count: end.min(extent) - first },
            _ => Channels::Fixed,
        }
    }

    fn narrowed(&self, _given: &Operands<'_>, read: &[usize], written: &[usize]) -> Option<Op> {
        let first = read.iter().filter(|&&channel| channel < self.start[0] as usize).count();
        let end = first + written.len();
        let mut narrowed = *self;
        (narrowed.start[0], narrowed.end[0]) = (first as u32, if end == read.len() { self.end[0] } else { end as u32 });
        Some(Op::Slice(narrowed))
    }

    fn on_cpu(&self) -> OnCpu<'_> {
        OnCpu::Plain(self)
    }

    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4 {
        use burn::tensor::s;

        let x = given.input(0);
        let [_, extents @ ..] = x.dims();
        let [c, h, w] = [0, 1, 2].map(|axis| {
            let end = (self.end[axis] as usize).min(extents[axis]);
            (self.start[axis] as isize, end as isize, self.step[axis] as isize)
        });
        x.slice(s![.., c.0..c.1;c.2, h.0..h.1;h.2, w.0..w.1;w.2])
    }

    #[cfg(feature = "onnx")]
    fn to_onnx(&self, given: &Operands<'_>) -> Vec<Step> {
        let extents = [given.inputs[0].channels, given.inputs[0].height, given.inputs[0].width];
        let whole = |axis: &usize| {
            (self.start[*axis], self.step[*axis]) == (0, 1) && self.end[*axis] as usize >= extents[*axis]
        };
        let axes: Vec<usize> = (0..3).filter(|axis| !whole(axis)).collect();
        let of = |name, values: [u32; 3]| {
            let value = |&axis: &usize| if values[axis] == u32::MAX { i64::MAX } else { values[axis].into() };
            Argument::Ints(name, axes.iter().map(value).collect())
        };
        let places = Argument::Ints("axes", axes.iter().map(|&axis| axis as i64 + 1).collect());
        let inputs =
            vec![Argument::Value(0), of("starts", self.start), of("ends", self.end), places, of("steps", self.step)];
        vec![Step::new("Slice", inputs, vec![])]
    }
}

impl Plain for Slice {
    fn forward(&self, _arch: Arch, inputs: [Option<Read<'_>>; 2], (output, to): Write<'_>) {
        let Some((input, from)) = inputs[0] else { return };
        for (index, row) in to.rows().enumerate() {
            let source = input[self.source(to, from, index)..].iter().step_by(self.step[2] as usize);
            output[row..row + to.shape.width].iter_mut().zip(source).for_each(|(t, s)| *t = *s);
        }
    }

    fn backward(&self, slopes: &Slopes<'_>, (target, to): Write<'_>) {
        let (gradient, of) = slopes.gradient;
        for (index, row) in of.rows().enumerate() {
            let targets = target[self.source(of, to, index)..].iter_mut().step_by(self.step[2] as usize);
            for (target, gradient) in targets.zip(&gradient[row..row + of.shape.width]) {
                target.0.iter_mut().zip(gradient.0).for_each(|(target, gradient)| *target += gradient);
            }
        }
    }
}

/// Reads a slice; starts, ends, axes and steps are inputs since opset 10.
#[cfg(feature = "onnx")]
fn slice(node: &OnnxNode<'_>) -> Result<Meaning, Unreadable> {
    let shape = node.shape(0)?;
    let extents = [shape.channels, shape.height, shape.width];
    let (starts, ends) = (node.constant(1, "starts")?.ints(), node.constant(2, "ends")?.ints());
    let axes = match node.optional_constant(3, "axes")? {
        Some(axes) => axes.ints(),
        None => (0..starts.len() as i64).collect(),
    };
    let steps = node.optional_constant(4, "steps")?.map_or_else(|| vec![1; starts.len()], |steps| steps.ints());
    let mut slice = Slice::ALL;
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(node.refuse("its starts, ends, axes and steps differ in number"));
    }
    for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
        let axis = node.axis(axis)?;
        let Some(axis) = axis.checked_sub(1).filter(|&axis| axis < 3) else {
            return Err(node.refuse("it slices the batch"));
        };
        let extent = extents[axis] as i64;
        let place = |place: i64| if place < 0 { place.saturating_add(extent) } else { place }.clamp(0, extent) as u32;
        let step = u32::try_from(step).ok().filter(|&step| step > 0);
        slice.step[axis] = step.ok_or_else(|| node.refuse("it steps backwards"))?;
        slice.start[axis] = place(start);
        slice.end[axis] = if end >= extent { u32::MAX } else { place(end) };
    }
    Ok(Meaning::new(Op::Slice(slice)))
}

#[cfg(feature = "onnx")]
pub(super) const ONNX: Family = &[("Slice", slice)];
