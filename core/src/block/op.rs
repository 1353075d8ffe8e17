//! The operators of a block: a file for each, which holds all there is to say of it.
//!
//! [`Op`] is what a graph stores. What a file answers is [`Operator`]: the shape it gives, where its channels come from,
//! how the CPU and Burn compute it, its gradient, and its words in ONNX. `docs/add-an-operator.md` walks through one.

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
    /// Elementwise sum of two values of one shape.
    Add,
    /// Elementwise product of two values of one shape, or of `[C, H, W]` with a gate `[C, 1, 1]`.
    Mul,
    /// Channels of the first value, then those of the second.
    Concat,
    /// Largest value of each window.
    MaxPool(MaxPool),
    /// Mean of each window.
    AveragePool(AveragePool),
    /// Mean over height and width: `[C, H, W]` to `[C, 1, 1]`.
    GlobalAveragePool,
    /// Some channels, rows and columns.
    Slice(Slice),
    /// Zeros around channels, rows and columns.
    Pad(Pad),
    /// `[C, H, W]` to `[C·H·W, 1, 1]`.
    Flatten,
}

impl Op {
    /// `max(x, 0)`.
    pub const RELU: Self = Self::Activation(Activation::Relu);

    /// What its file says of it.
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

    /// Shape of the value it computes, given those it reads and its weights; `node` names it in errors.
    ///
    /// # Errors
    /// [`BlockError`]: other numbers of inputs or weights than it takes, or shapes it cannot work on.
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

    /// Whether it is a convolution or a linear layer, as opposed to what stands between layers.
    pub fn is_layer(&self) -> bool {
        matches!(self, Self::Conv(_) | Self::Linear)
    }

    /// What an ONNX operator means here.
    ///
    /// # Errors
    /// What it is that we cannot read; `None` stands for an operator that no file knows.
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

    /// The ONNX operators that compute it, in order; the last one gives its value.
    #[cfg(feature = "onnx")]
    pub fn to_onnx(&self, inputs: &[Shape], weights: &[&Weight]) -> alloc::vec::Vec<onnx::Step> {
        self.operator().to_onnx(&Operands { node: "", inputs, weights })
    }
}

/// What every operator answers.
pub(crate) trait Operator {
    /// Values it reads, and weights it has.
    fn arity(&self) -> Arity {
        Arity { inputs: 1, weights: 0..=0 }
    }

    /// Shape of its value.
    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        Ok(given.inputs[0])
    }

    /// Where the channels of its value come from.
    fn channels(&self, _given: &Operands<'_>) -> Channels {
        Channels::Same
    }

    /// The operator when only these of the channels it reads and writes are left. `None`: it is the same.
    fn narrowed(&self, _read: &[usize], _written: &[usize]) -> Option<Op> {
        None
    }

    /// Whether training may move its weight `slot`.
    fn is_trained(&self, _slot: usize) -> bool {
        true
    }

    /// Multiply-accumulates for one image.
    fn macs(&self, _weights: &[&Weight], _output: Shape) -> u64 {
        0
    }

    /// How the CPU computes it.
    fn on_cpu(&self) -> OnCpu<'_>;

    /// How Burn computes it.
    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4;

    /// Its ONNX operators.
    #[cfg(feature = "onnx")]
    fn to_onnx(&self, given: &Operands<'_>) -> alloc::vec::Vec<onnx::Step>;
}

/// Numbers of values and weights.
pub(crate) struct Arity {
    pub inputs: usize,
    pub weights: RangeInclusive<usize>,
}

/// What an operator is given.
pub(crate) struct Operands<'a> {
    pub node: &'a str,
    pub inputs: &'a [Shape],
    pub weights: &'a [&'a Weight],
}

impl Operands<'_> {
    /// It cannot work on this shape.
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

/// Where the channels of a value come from, for the shrinking of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channels {
    /// Its weights make new ones: those read and those written shrink apart.
    New,
    /// Channel for channel those of every value it reads.
    Same,
    /// Those of the first value, then those of the second.
    Joined,
    /// Some of them, from `first` on.
    Selected {
        /// First channel.
        first: usize,
        /// How many.
        count: usize,
    },
    /// Them between new channels of zeros, which stay.
    Padded {
        /// Zero channels in front.
        before: usize,
        /// Zero channels behind.
        after: usize,
    },
    /// Each of them this many times in a row.
    Repeated(usize),
    /// Neither those read nor those written can shrink.
    Fixed,
}

/// How the CPU computes an operator.
pub(crate) enum OnCpu<'a> {
    /// A convolution with its weights.
    Convolution(Conv),
    /// A batch norm with its weights; this is added to the variance.
    Norm(f32),
    /// `x` held between two bounds: in place, or done by the operator before.
    Clamp([f32; 2]),
    /// The sum of two values, in the place of one of them.
    Add,
    /// Anything without weights.
    Plain(&'a dyn Plain),
}

/// The loops of an operator without weights, on one group of images. Only rows are written; borders stay zero.
pub(crate) trait Plain {
    /// Writes `output`. An input that is `None` lies in the output's place, which happens if [`in_place`](Self::in_place).
    fn forward(&self, arch: Arch, inputs: [Option<Read<'_>>; 2], output: Write<'_>);

    /// Adds the gradient by one of its inputs to `target`.
    fn backward(&self, slopes: &Slopes<'_>, target: Write<'_>);

    /// Whether it may write where its first input lies.
    fn in_place(&self) -> bool {
        false
    }

    /// Whether its gradient reads its inputs and its output.
    fn kept(&self) -> Kept {
        Kept::default()
    }
}

/// What a gradient reads of the forward pass.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kept {
    pub inputs: bool,
    pub output: bool,
}

/// What a gradient is made of; of the values only those that the operator has [`Kept`] hold what they held in the forward pass.
pub(crate) struct Slopes<'a> {
    pub arch: Arch,
    /// The input whose gradient is asked for.
    pub which: usize,
    pub inputs: [Read<'a>; 2],
    pub output: Read<'a>,
    /// By the output.
    pub gradient: Read<'a>,
}
