//! Concatenation of two values along the channels.

#[cfg(feature = "onnx")]
use alloc::{vec, vec::Vec};

#[cfg(feature = "burn")]
use super::burn::{BurnOperands, Tensor4};
#[cfg(feature = "onnx")]
use super::onnx::{Argument, Attribute, Family, Meaning, Step};
use super::{Arity, Channels, OnCpu, Operands, Operator, Plain, Slopes};
use crate::{
    block::BlockError,
    kernels::{
        elementwise::{Read, Write, add, copy},
        instructions::Arch,
        plane::Plane,
    },
    tensor::Shape,
};

/// See [`Op::Concat`](super::Op::Concat).
pub(super) struct Concat;

impl Operator for Concat {
    fn arity(&self) -> Arity {
        Arity { inputs: 2, weights: 0..=0 }
    }

    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        let [first, second] = [given.inputs[0], given.inputs[1]];
        let channels = first.channels.checked_add(second.channels).ok_or_else(|| given.misfit(second))?;
        let joined = Shape { channels, ..first };
        if (Shape { channels, ..second }) == joined { Ok(joined) } else { Err(given.misfit(second)) }
    }

    fn channels(&self, _given: &Operands<'_>) -> Channels {
        Channels::Joined
    }

    fn on_cpu(&self) -> OnCpu<'_> {
        OnCpu::Plain(self)
    }

    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4 {
        burn::tensor::Tensor::cat(alloc::vec![given.input(0), given.input(1)], 1)
    }

    #[cfg(feature = "onnx")]
    fn to_onnx(&self, _given: &Operands<'_>) -> Vec<Step> {
        vec![Step::new("Concat", vec![Argument::Value(0), Argument::Value(1)], vec![("axis", Attribute::Int(1))])]
    }
}

/// The part of a wide plane, from channel `first` on, that corresponds to a narrow plane of the same rows.
pub(super) fn channels(wide: Plane, narrow: Plane, first: usize) -> (core::ops::Range<usize>, Plane) {
    let inside = Plane { shape: narrow.shape, ..wide };
    let start = first * wide.area();
    (start..start + inside.len(), inside)
}

impl Plain for Concat {
    fn forward(&self, arch: Arch, inputs: [Option<Read<'_>>; 2], (output, to): Write<'_>) {
        let mut first = 0;
        for (input, from) in inputs.into_iter().flatten() {
            let (range, inside) = channels(to, from, first);
            copy(arch, (&mut output[range], inside), (input, from));
            first += from.shape.channels;
        }
    }

    fn backward(&self, slopes: &Slopes<'_>, target: Write<'_>) {
        let (gradient, of) = slopes.gradient;
        let first = if slopes.which == 0 { 0 } else { slopes.inputs[0].1.shape.channels };
        let (range, inside) = channels(of, target.1, first);
        add(slopes.arch, target, (&gradient[range], inside));
    }
}

#[cfg(feature = "onnx")]
pub(super) const ONNX: Family = &[("Concat", |node| match node.axis(node.int("axis", 1))? {
    1 => Ok(Meaning { inputs: (0..node.inputs.len()).collect(), ..Meaning::new(super::Op::Concat) }),
    axis => Err(node.refuse(format_args!("it joins along axis {axis}, not along channels"))),
})];
