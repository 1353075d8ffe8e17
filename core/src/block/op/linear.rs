//! Affine map of a vector.

#[cfg(feature = "onnx")]
use alloc::{vec, vec::Vec};

#[cfg(feature = "burn")]
use super::burn::{BurnOperands, Tensor4};
#[cfg(feature = "onnx")]
use super::onnx::{Argument, Attribute, Constant, Family, Meaning, OnnxNode, Step, Unreadable};
use super::{Arity, Channels, Conv, OnCpu, Operands, Operator};
use crate::{
    block::BlockError,
    tensor::{Shape, Weight},
};

/// See [`Op::Linear`](super::Op::Linear).
pub(super) struct Linear;

impl Operator for Linear {
    fn arity(&self) -> Arity {
        Arity { inputs: 1, weights: 2..=2 }
    }

    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        let x = given.inputs[0];
        if x.height != 1 || x.width != 1 {
            return Err(given.misfit(x));
        }
        let out = given.weights[0].dims.first().copied().unwrap_or(0) as usize;
        given.expect(0, &[out, x.channels])?;
        given.expect(1, &[out])?;
        Ok(Shape { channels: out, ..x })
    }

    fn channels(&self, _given: &Operands<'_>) -> Channels {
        Channels::New
    }

    fn macs(&self, weights: &[&Weight], _output: Shape) -> u64 {
        weights[0].data.len() as u64
    }

    /// A 1×1 convolution of 1×1 images.
    fn on_cpu(&self) -> OnCpu<'_> {
        OnCpu::Convolution(Conv::square(1, 0))
    }

    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4 {
        let x = given.input(0);
        let [n, c, ..] = x.dims();
        let [out, ..] = given.dims(0);
        let (matrix, bias) = (given.matrix(0), given.weight(1).expect("a linear layer has two weights"));
        (x.reshape([n, c]).matmul(matrix.transpose()) + bias.reshape([1, out])).reshape([n, out, 1, 1])
    }

    #[cfg(feature = "onnx")]
    fn to_onnx(&self, given: &Operands<'_>) -> Vec<Step> {
        let outputs = given.weights[0].dims[0].into();
        vec![
            Step::new("Flatten", vec![Argument::Value(0)], vec![("axis", Attribute::Int(1))]),
            Step::new(
                "Gemm",
                vec![Argument::Step(0), Argument::Weight(0), Argument::Weight(1)],
                vec![("transB", Attribute::Int(1))],
            ),
            // Every value has four dimensions.
            Step::new("Reshape", vec![Argument::Step(1), Argument::Ints("shape", vec![-1, outputs, 1, 1])], vec![]),
        ]
    }
}

/// Reads a matrix `[D, C]` and a bias `[D]`, zero if absent.
#[cfg(feature = "onnx")]
fn affine(node: &OnnxNode<'_>, matrix: Constant<'_>, transposed: bool) -> Result<Meaning, Unreadable> {
    if node.rank(0)? != 2 {
        return Err(node.refuse("its first input is not [N, C]"));
    }
    let &[rows, columns] = matrix.dims() else {
        return Err(node.refuse("its second input is not a matrix"));
    };
    let mut weight = matrix.weight("weight")?;
    let mut out = rows;
    if !transposed {
        let data = (0..columns).flat_map(|d| (0..rows).map(move |c| c * columns + d)).map(|i| weight.data[i]).collect();
        weight = Weight::new(weight.name, &[columns, rows], data);
        out = columns;
    }
    let bias = match node.optional_constant(2, "bias")? {
        Some(bias) => bias.weight("bias")?,
        None => Weight::new(node.weight_name("bias"), &[out], vec![0.0; out]),
    };
    let bias = match bias.data.len() {
        1 => Weight::new(bias.name, &[out], vec![bias.data[0]; out]),
        _ => Weight::new(bias.name, &[bias.data.len()], bias.data),
    };
    Ok(Meaning { weights: vec![weight, bias], ..Meaning::new(super::Op::Linear) })
}

#[cfg(feature = "onnx")]
pub(super) const ONNX: Family = &[
    ("Gemm", |node| {
        if node.int("transA", 0) != 0 {
            return Err(node.refuse("transA is set"));
        }
        let mut meaning = affine(node, node.constant(1, "matrix")?, node.int("transB", 0) != 0)?;
        let factors = [node.float("alpha", 1.0), node.float("beta", 1.0)];
        for (weight, factor) in meaning.weights.iter_mut().zip(factors) {
            weight.data.iter_mut().for_each(|value| *value *= factor);
        }
        Ok(meaning)
    }),
    ("MatMul", |node| affine(node, node.constant(1, "matrix")?, false)),
];
