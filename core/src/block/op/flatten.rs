//! Flattens a value to channels of a single position.

#[cfg(feature = "onnx")]
use alloc::{vec, vec::Vec};

#[cfg(feature = "burn")]
use super::burn::{BurnOperands, Tensor4};
#[cfg(feature = "onnx")]
use super::onnx::{Argument, Step};
use super::{Channels, OnCpu, Operands, Operator, Plain, Slopes};
use crate::{
    block::BlockError,
    kernels::{
        elementwise::{Read, Write},
        instructions::Arch,
    },
    tensor::Shape,
};

/// See [`Op::Flatten`](super::Op::Flatten).
pub(super) struct Flatten;

impl Operator for Flatten {
    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        Ok(Shape::new(given.inputs[0].elements(), 1, 1))
    }

    fn channels(&self, given: &Operands<'_>) -> Channels {
        Channels::Repeated(given.inputs[0].height * given.inputs[0].width)
    }

    fn on_cpu(&self) -> OnCpu<'_> {
        OnCpu::Plain(self)
    }

    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4 {
        let x = given.input(0);
        let [n, c, h, w] = x.dims();
        x.reshape([n, c * h * w, 1, 1])
    }

    #[cfg(feature = "onnx")]
    fn to_onnx(&self, given: &Operands<'_>) -> Vec<Step> {
        let elements = given.inputs[0].elements() as i64;
        let extents = Argument::Ints("shape", vec![-1, elements, 1, 1]);
        vec![Step::new("Reshape", vec![Argument::Value(0), extents], vec![])]
    }
}

impl Plain for Flatten {
    fn forward(&self, _arch: Arch, inputs: [Option<Read<'_>>; 2], (output, to): Write<'_>) {
        let Some((input, from)) = inputs[0] else { return };
        let width = from.shape.width;
        for (index, row) in from.rows().enumerate() {
            let start = |column: usize| to.at(index * width + column, 0, 0);
            input[row..row + width].iter().enumerate().for_each(|(column, x)| output[start(column)] = *x);
        }
    }

    fn backward(&self, slopes: &Slopes<'_>, (target, to): Write<'_>) {
        let (gradient, of) = slopes.gradient;
        let width = to.shape.width;
        for (index, row) in to.rows().enumerate() {
            for (column, target) in target[row..row + width].iter_mut().enumerate() {
                let gradient = gradient[of.at(index * width + column, 0, 0)];
                target.0.iter_mut().zip(gradient.0).for_each(|(target, gradient)| *target += gradient);
            }
        }
    }
}
