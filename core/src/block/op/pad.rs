//! Zeros around a value.

#[cfg(feature = "onnx")]
use alloc::{vec, vec::Vec};

use serde::{Deserialize, Serialize};

#[cfg(feature = "burn")]
use super::burn::{BurnOperands, Tensor4};
#[cfg(feature = "onnx")]
use super::onnx::{Argument, Family, Meaning, OnnxNode, Step, Unreadable};
use super::{Channels, OnCpu, Operands, Operator, Plain, Slopes};
use crate::{
    block::BlockError,
    kernels::{
        elementwise::{Read, Write},
        instructions::Arch,
        plane::{Lanes, Plane},
    },
    tensor::{MAX_EXTENT, Shape},
};

/// Numbers of zero channels, rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pad {
    /// Before the value.
    pub before: [u16; 3],
    /// After the value.
    pub after: [u16; 3],
}

impl Pad {
    /// Zero channels only.
    pub const fn channels(before: u16, after: u16) -> Self {
        Self { before: [before, 0, 0], after: [after, 0, 0] }
    }

    /// The index of the smaller plane's row `index` in the larger plane.
    fn place(&self, small: Plane, large: Plane, index: usize) -> usize {
        let [channel, row, column] = self.before.map(usize::from);
        large.at(channel + index / small.shape.height, row + index % small.shape.height, column)
    }
}

impl Operator for Pad {
    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        let x = given.inputs[0];
        let extents = [x.channels, x.height, x.width];
        let [channels, height, width] = [0, 1, 2].map(|axis| {
            extents[axis].min(MAX_EXTENT + 1) + usize::from(self.before[axis]) + usize::from(self.after[axis])
        });
        Ok(Shape { channels, height, width })
    }

    fn channels(&self, _given: &Operands<'_>) -> Channels {
        Channels::Padded { before: self.before[0].into(), after: self.after[0].into() }
    }

    fn on_cpu(&self) -> OnCpu<'_> {
        OnCpu::Plain(self)
    }

    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4 {
        use burn::tensor::ops::PadMode;

        let pairs = [0, 1, 2].map(|axis| (usize::from(self.before[axis]), usize::from(self.after[axis])));
        given.input(0).pad([(0, 0), pairs[0], pairs[1], pairs[2]], PadMode::Constant(0.0))
    }

    #[cfg(feature = "onnx")]
    fn to_onnx(&self, _given: &Operands<'_>) -> Vec<Step> {
        let ends = |[c, h, w]: [u16; 3]| [0, c, h, w].map(i64::from);
        let pads = [ends(self.before), ends(self.after)].concat();
        vec![Step::new("Pad", vec![Argument::Value(0), Argument::Ints("pads", pads)], vec![])]
    }
}

impl Plain for Pad {
    fn forward(&self, _arch: Arch, inputs: [Option<Read<'_>>; 2], (output, to): Write<'_>) {
        let Some((input, from)) = inputs[0] else { return };
        to.rows().for_each(|row| output[row..row + to.shape.width].fill(Lanes::ZERO));
        for (index, row) in from.rows().enumerate() {
            let place = self.place(from, to, index);
            output[place..][..from.shape.width].copy_from_slice(&input[row..][..from.shape.width]);
        }
    }

    fn backward(&self, slopes: &Slopes<'_>, (target, to): Write<'_>) {
        let (gradient, of) = slopes.gradient;
        for (index, row) in to.rows().enumerate() {
            let gradient = &gradient[self.place(to, of, index)..][..to.shape.width];
            for (target, gradient) in target[row..][..to.shape.width].iter_mut().zip(gradient) {
                target.0.iter_mut().zip(gradient.0).for_each(|(target, gradient)| *target += gradient);
            }
        }
    }
}

/// Pads are an input since opset 11, an attribute before.
#[cfg(feature = "onnx")]
fn pad(node: &OnnxNode<'_>) -> Result<Meaning, Unreadable> {
    let pads = match node.optional_constant(1, "pads")? {
        Some(pads) => pads.ints(),
        None => node.ints("pads").unwrap_or_default(),
    };
    let mode = node.text("mode", "constant");
    let value = node.optional_constant(2, "value")?.map_or(Some(node.float("value", 0.0)), |value| value.scalar());
    if mode != "constant" || value != Some(0.0) {
        return Err(node.refuse("it pads with values other than zero"));
    }
    let axes = match node.optional_constant(3, "axes")? {
        Some(axes) => axes.ints(),
        None => (0..pads.len() as i64 / 2).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(node.refuse("it does not have two pads per axis"));
    }
    let mut ends = [[0; 4]; 2];
    for (index, &axis) in axes.iter().enumerate() {
        let axis = node.axis(axis)?;
        for (end, ends) in ends.iter_mut().enumerate() {
            let zeros = u16::try_from(pads[end * axes.len() + index]);
            ends[axis] = zeros.map_err(|_| node.refuse("it pads by a negative or too large number"))?;
        }
    }
    let [[0, before @ ..], [0, after @ ..]] = ends else { return Err(node.refuse("it pads the batch")) };
    Ok(Meaning::new(super::Op::Pad(Pad { before, after })))
}

#[cfg(feature = "onnx")]
pub(super) const ONNX: Family = &[("Pad", pad)];
