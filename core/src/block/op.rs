//! The operators of a block, each complete in a file of its own.
//!
//! [`Op`] is stored in graphs. Each file implements [`Operator`]: output shape, origin of the channels, computation on
//! the CPU and Burn, gradient, and ONNX import and export. `docs/add-an-operator.md` walks through one.

mod activation;
mod arithmetic;
mod batch_norm;
#[cfg(feature = "burn")]
pub(crate) mod burn;
mod concat;
mod conv;
mod flatten;
mod linear;
#[cfg(feature = "onnx")]
pub mod onnx;
mod pad;
mod pool;
mod slice;

use core::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

#[cfg(feature = "burn")]
use self::burn::{BurnOperands, Tensor4};
#[cfg(feature = "onnx")]
use self::onnx::{Meaning, OnnxNode};
pub use self::{
    activation::Activation,
    batch_norm::BatchNorm,
    pad::Pad,
    pool::{AveragePool, MaxPool, Window},
    slice::Slice,
};
use self::{
    arithmetic::{Add, Mul},
    concat::Concat,
    flatten::Flatten,
    linear::Linear,
    pool::GlobalAveragePool,
};
use crate::{
    block::BlockError,
    kernels::{
        conv::Conv,
        elementwise::{Read, Write},
        instructions::Arch,
    },
    tensor::{Dims, Shape, Weight},
};

/// An operator. Values are `[N, C, H, W]`; shapes leave out the batch `N`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// 2-D convolution; weights: kernel `[C_out, C_in / groups, K_h, K_w]`, then optionally bias `[C_out]`.
    Conv(Conv),
    /// Affine map of `[C, 1, 1]` to `[D, 1, 1]`; weights: `[D, C]`, bias `[D]`.
    Linear,
    /// Batch normalisation; weights: scale, shift, running mean, running variance, all `[C]`.
    BatchNorm(BatchNorm),
    /// A function of each element.
    Activation(Activation),
    /// Elementwise sum of two values of the same shape.
    Add,
    /// Elementwise product of two values of the same shape, or of `[C, H, W]` and a gate `[C, 1, 1]`.
    Mul,
    /// The channels of the first value, followed by those of the second.
    Concat,
    /// Largest value of each window.
    MaxPool(MaxPool),
    /// Mean of each window.
    AveragePool(AveragePool),
    /// Mean over height and width: `[C, H, W]` to `[C, 1, 1]`.
    GlobalAveragePool,
    /// A range of channels, rows and columns.
    Slice(Slice),
    /// Zeros around channels, rows and columns.
    Pad(Pad),
    /// `[C, H, W]` to `[C·H·W, 1, 1]`.
    Flatten,
}

impl Op {
    /// `max(x, 0)`.
    pub const RELU: Self = Self::Activation(Activation::Relu);

    /// Its implementation.
    pub(crate) fn operator(&self) -> &dyn Operator {
        match self {
            Self::Conv(op) => op,
            Self::Linear => &Linear,
            Self::BatchNorm(op) => op,
            Self::Activation(op) => op,
            Self::Add => &Add,
            Self::Mul => &Mul,
            Self::Concat => &Concat,
            Self::MaxPool(op) => op,
            Self::AveragePool(op) => op,
            Self::GlobalAveragePool => &GlobalAveragePool,
            Self::Slice(op) => op,
            Self::Pad(op) => op,
            Self::Flatten => &Flatten,
        }
    }

    /// Infers the output shape from those of its inputs and its weights; `node` names it in errors.
    ///
    /// # Errors
    /// [`BlockError`] for a wrong number of inputs or weights, or for shapes that it does not support.
    pub fn shape(&self, node: &str, inputs: &[Shape], weights: &[&Weight]) -> Result<Shape, BlockError> {
        let Arity { inputs: wanted, weights: range } = self.operator().arity();
        if inputs.len() != wanted || !range.contains(&weights.len()) {
            return Err(BlockError::WrongArity { node: node.into() });
        }
        let given = Operands { node, inputs, weights };
        let shape = self.operator().shape(&given)?;
        if shape.is_reasonable() { Ok(shape) } else { Err(given.misfit(shape)) }
    }

    /// Multiply-accumulates for one image.
    pub(crate) fn macs(&self, weights: &[&Weight], output: Shape) -> u64 {
        self.operator().macs(weights, output)
    }

    /// Whether it is a convolution or a linear layer.
    pub fn is_layer(&self) -> bool {
        matches!(self, Self::Conv(_) | Self::Linear)
    }

    /// Translates an ONNX operator; returns `None` if no file knows it.
    ///
    /// # Errors
    /// The reason why it cannot be read.
    #[cfg(feature = "onnx")]
    pub fn from_onnx(node: &OnnxNode<'_>) -> Option<Result<Meaning, onnx::Unreadable>> {
        let families = [
            activation::ONNX,
            arithmetic::ONNX,
            batch_norm::ONNX,
            concat::ONNX,
            conv::ONNX,
            linear::ONNX,
            pad::ONNX,
            pool::ONNX,
            slice::ONNX,
        ];
        let (_, read) = families.into_iter().flatten().find(|(kind, _)| *kind == node.kind)?;
        Some(read(node))
    }

    /// Translates it to ONNX operators, in order; the last one computes its output.
    #[cfg(feature = "onnx")]
    pub fn to_onnx(&self, inputs: &[Shape], weights: &[&Weight]) -> alloc::vec::Vec<onnx::Step> {
        self.operator().to_onnx(&Operands { node: "", inputs, weights })
    }
}

/// The interface of every operator.
pub(crate) trait Operator {
    /// Number of inputs and weights.
    fn arity(&self) -> Arity {
        Arity { inputs: 1, weights: 0..=0 }
    }

    /// Infers its output shape.
    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        Ok(given.inputs[0])
    }

    /// Origin of its output channels.
    fn channels(&self, _given: &Operands<'_>) -> Channels {
        Channels::Same
    }

    /// The operator restricted to these input and output channels; `None` if it is unchanged.
    fn narrowed(&self, _given: &Operands<'_>, _read: &[usize], _written: &[usize]) -> Option<Op> {
        None
    }

    /// Whether training updates weight `slot`.
    fn is_trained(&self, _slot: usize) -> bool {
        true
    }

    /// Multiply-accumulates for one image.
    fn macs(&self, _weights: &[&Weight], _output: Shape) -> u64 {
        0
    }

    /// Its computation on the CPU.
    fn on_cpu(&self) -> OnCpu<'_>;

    /// Computes it with Burn.
    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4;

    /// Translates it to ONNX operators.
    #[cfg(feature = "onnx")]
    fn to_onnx(&self, given: &Operands<'_>) -> alloc::vec::Vec<onnx::Step>;
}

/// Numbers of inputs and weights.
pub(crate) struct Arity {
    pub inputs: usize,
    pub weights: RangeInclusive<usize>,
}

/// The operands of an operator.
pub(crate) struct Operands<'a> {
    pub node: &'a str,
    pub inputs: &'a [Shape],
    pub weights: &'a [&'a Weight],
}

impl Operands<'_> {
    /// The error for an unsupported shape.
    pub fn misfit(&self, found: Shape) -> BlockError {
        BlockError::ValueShape { node: self.node.into(), found }
    }

    /// Checks the extents of weight `slot`.
    pub fn expect(&self, slot: usize, expected: &[usize]) -> Result<(), BlockError> {
        let weight = self.weights[slot];
        let expected: Dims = expected.iter().map(|&d| d as u32).collect();
        if weight.dims == expected {
            return Ok(());
        }
        Err(BlockError::WeightShape { weight: weight.name.clone(), expected, found: weight.dims.clone() })
    }
}

/// The origin of a value's channels, used to shrink a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channels {
    /// Created by its weights: input and output channels shrink independently.
    New,
    /// Each input's channels, one to one.
    Same,
    /// The first input's channels, then the second's.
    Joined,
    /// A contiguous range of the input's channels.
    Selected {
        /// First channel.
        first: usize,
        /// Number of channels.
        count: usize,
    },
    /// The input's channels between new zero channels, which stay.
    Padded {
        /// Zero channels before them.
        before: usize,
        /// Zero channels after them.
        after: usize,
    },
    /// Each input channel this many times in a row.
    Repeated(usize),
    /// Created in this many groups, each from its own input channels: a group's inputs and outputs stay or leave
    /// together.
    Grouped(usize),
    /// Neither input nor output channels can shrink.
    Fixed,
}

/// The computation of an operator on the CPU.
pub(crate) enum OnCpu<'a> {
    /// A convolution.
    Convolution(Conv),
    /// A batch norm with this ε.
    Norm(f32),
    /// A clamp between two bounds: in place, or fused into the operator before it.
    Clamp([f32; 2]),
    /// The sum of two values, in place of one of them.
    Add,
    /// Any other operator without weights.
    Plain(&'a dyn Plain),
}

/// The kernels of an operator without weights, on one group of images. They write only rows; borders stay zero.
pub(crate) trait Plain {
    /// Writes `output`. An input is `None` if it is in the output's slot, which requires [`in_place`](Self::in_place).
    fn forward(&self, arch: Arch, inputs: [Option<Read<'_>>; 2], output: Write<'_>);

    /// Adds the gradient of one of its inputs to `target`.
    fn backward(&self, slopes: &Slopes<'_>, target: Write<'_>);

    /// Whether it may overwrite its first input.
    fn in_place(&self) -> bool {
        false
    }

    /// The values of the forward pass that its gradient reads.
    fn kept(&self) -> Kept {
        Kept::default()
    }
}

/// The values of the forward pass that a gradient reads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kept {
    pub inputs: bool,
    pub output: bool,
}

/// The operands of a gradient. Of the values, only those in the operator's [`Kept`] still hold the forward pass's.
pub(crate) struct Slopes<'a> {
    pub arch: Arch,
    /// The input whose gradient is computed.
    pub which: usize,
    pub inputs: [Read<'a>; 2],
    pub output: Read<'a>,
    /// The output's gradient.
    pub gradient: Read<'a>,
}
