//! Sums and products of two values, and of a value with constants.

#[cfg(feature = "onnx")]
use alloc::{vec, vec::Vec};

#[cfg(feature = "burn")]
use super::burn::{BurnOperands, Tensor4};
use super::{Arity, Kept, OnCpu, Operands, Operator, Plain, Slopes};
#[cfg(feature = "onnx")]
use super::{
    Conv, Op,
    onnx::{Argument, Family, Meaning, OnnxNode, Step, Unreadable},
};
#[cfg(feature = "onnx")]
use crate::tensor::Weight;
use crate::{
    block::BlockError,
    kernels::{
        elementwise::{Read, Write, gate, gate_sums, zip, zip_two},
        instructions::Arch,
    },
    tensor::Shape,
};

/// See [`Op::Add`](super::Op::Add).
pub(super) struct Add;
/// See [`Op::Mul`](super::Op::Mul).
pub(super) struct Mul;

impl Operator for Add {
    fn arity(&self) -> Arity {
        Arity { inputs: 2, weights: 0..=0 }
    }

    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        let [first, second] = [given.inputs[0], given.inputs[1]];
        if first == second { Ok(first) } else { Err(given.misfit(second)) }
    }

    fn on_cpu(&self) -> OnCpu<'_> {
        OnCpu::Add
    }

    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4 {
        given.input(0) + given.input(1)
    }

    #[cfg(feature = "onnx")]
    fn to_onnx(&self, _given: &Operands<'_>) -> Vec<Step> {
        vec![Step::new("Add", vec![Argument::Value(0), Argument::Value(1)], vec![])]
    }
}

impl Operator for Mul {
    fn arity(&self) -> Arity {
        Arity { inputs: 2, weights: 0..=0 }
    }

    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        let [value, gate] = [given.inputs[0], given.inputs[1]];
        let whole = value == gate || gate == Shape::new(value.channels, 1, 1);
        if whole { Ok(value) } else { Err(given.misfit(gate)) }
    }

    fn on_cpu(&self) -> OnCpu<'_> {
        OnCpu::Plain(self)
    }

    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4 {
        given.input(0) * given.input(1)
    }

    #[cfg(feature = "onnx")]
    fn to_onnx(&self, _given: &Operands<'_>) -> Vec<Step> {
        vec![Step::new("Mul", vec![Argument::Value(0), Argument::Value(1)], vec![])]
    }
}

impl Plain for Mul {
    fn forward(&self, arch: Arch, inputs: [Option<Read<'_>>; 2], mut output: Write<'_>) {
        if let Some(first) = inputs[0] {
            zip(arch, (&mut *output.0, output.1), first, |_, x| x);
        }
        match inputs[1] {
            Some(second) if second.1.shape == output.1.shape => zip(arch, output, second, |t, x| t * x),
            Some(second) => gate(arch, (&mut output.0, output.1), second),
            None => unreachable!("only the first input is multiplied in its place"),
        }
    }

    fn backward(&self, slopes: &Slopes<'_>, target: Write<'_>) {
        let (arch, gradient, other) = (slopes.arch, slopes.gradient, slopes.inputs[1 - slopes.which]);
        match (other.1.shape == gradient.1.shape, target.1.shape == gradient.1.shape) {
            (true, true) => zip_two(arch, target, gradient, other, |t, gradient, x| t + gradient * x),
            (false, _) => crate::kernels::elementwise::add_gated(arch, target, gradient, other),
            (true, false) => gate_sums(arch, target, gradient, other),
        }
    }

    fn in_place(&self) -> bool {
        true
    }

    fn kept(&self) -> Kept {
        Kept { inputs: true, output: false }
    }
}

/// `scale · x + shift` per channel, as a depthwise 1×1 convolution.
#[cfg(feature = "onnx")]
fn affine(node: &OnnxNode<'_>, value: usize, scale: Vec<f32>, shift: Vec<f32>) -> Meaning {
    let channels = scale.len();
    let weights = vec![
        Weight::new(node.weight_name("weight"), &[channels, 1, 1, 1], scale),
        Weight::new(node.weight_name("bias"), &[channels], shift),
    ];
    let groups = channels as u16;
    Meaning { inputs: vec![value], weights, ..Meaning::new(Op::Conv(Conv::square(1, 0).grouped(groups))) }
}

/// Reads an operator on two values, or on a value and a constant per channel; `of_constant(constant, whether it comes
/// first)` returns scale and shift.
#[cfg(feature = "onnx")]
fn binary(
    node: &OnnxNode<'_>,
    of_values: Option<Op>,
    of_constant: impl Fn(f32, bool) -> Option<[f32; 2]>,
) -> Result<Meaning, Unreadable> {
    if let Some([value, constant]) = node.value_and_constant() {
        let constants = node.per_channel(value, constant)?;
        let pairs: Option<Vec<[f32; 2]>> = constants.into_iter().map(|c| of_constant(c, constant == 0)).collect();
        let pairs = pairs.ok_or_else(|| node.refuse("it divides a constant by a value"))?;
        let (scale, shift) = pairs.into_iter().map(|[scale, shift]| (scale, shift)).unzip();
        return Ok(affine(node, value, scale, shift));
    }
    let op = of_values.ok_or_else(|| node.refuse("neither of its inputs is a constant"))?;
    if node.rank(0)? != node.rank(1)? {
        return Err(node.refuse("its values have different numbers of dimensions"));
    }
    let inputs = match op {
        Op::Mul if node.is_gate(0) => vec![1, 0],
        _ => vec![0, 1],
    };
    Ok(Meaning { inputs, ..Meaning::new(op) })
}

#[cfg(feature = "onnx")]
pub(super) const ONNX: Family = &[
    ("Add", |node| binary(node, Some(Op::Add), |c, _| Some([1.0, c]))),
    ("Sub", |node| binary(node, None, |c, first| Some(if first { [-1.0, c] } else { [1.0, -c] }))),
    ("Mul", |node| binary(node, Some(Op::Mul), |c, _| Some([c, 0.0]))),
    ("Div", |node| binary(node, None, |c, first| (!first).then_some([1.0 / c, 0.0]))),
];
