//! Batch normalisation.

#[cfg(feature = "onnx")]
use alloc::{vec, vec::Vec};

use serde::{Deserialize, Serialize};

#[cfg(feature = "burn")]
use super::burn::{BurnOperands, Tensor4, moments};
#[cfg(feature = "onnx")]
use super::onnx::{Argument, Attribute, Family, Meaning, Step};
use super::{Arity, OnCpu, Operands, Operator};
use crate::{block::BlockError, tensor::Shape};

/// See [`Op::BatchNorm`](super::Op::BatchNorm).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm {
    /// Added to the variance before the square root.
    pub epsilon: f32,
}

/// Number of weights before the running statistics.
const TRAINED: usize = 2;

impl Operator for BatchNorm {
    fn arity(&self) -> Arity {
        Arity { inputs: 1, weights: 4..=4 }
    }

    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        let x = given.inputs[0];
        (0..4).try_for_each(|slot| given.expect(slot, &[x.channels]))?;
        let variance = given.weights[3];
        if variance.data.iter().any(|&value| value < 0.0) {
            return Err(BlockError::WeightValue { weight: variance.name.clone() });
        }
        if self.epsilon.is_finite() && self.epsilon >= 0.0 { Ok(x) } else { Err(given.misfit(x)) }
    }

    fn is_trained(&self, slot: usize) -> bool {
        slot < TRAINED
    }

    fn on_cpu(&self) -> OnCpu<'_> {
        OnCpu::Norm(self.epsilon)
    }

    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4 {
        use crate::block::Statistics;

        let x = given.input(0);
        let c = x.dims()[1];
        let of = |slot: usize| given.weight(slot).expect("a batch norm has four weights");
        let [mean, variance] = match given.statistics {
            Statistics::Running => [of(2), of(3)],
            Statistics::Current => moments(&x),
        };
        let gain = of(0) / (variance + self.epsilon).sqrt();
        let offset = of(1) - mean * gain.clone();
        x * gain.reshape([1, c, 1, 1]) + offset.reshape([1, c, 1, 1])
    }

    #[cfg(feature = "onnx")]
    fn to_onnx(&self, _given: &Operands<'_>) -> Vec<Step> {
        let inputs = [Argument::Value(0)].into_iter().chain((0..4).map(Argument::Weight)).collect();
        vec![Step::new("BatchNormalization", inputs, vec![("epsilon", Attribute::Float(self.epsilon))])]
    }
}

#[cfg(feature = "onnx")]
pub(super) const ONNX: Family = &[("BatchNormalization", |node| {
    if node.int("training_mode", 0) != 0 {
        return Err(node.refuse("it uses batch statistics: export the network in evaluation mode"));
    }
    let parts = ["weight", "bias", "running_mean", "running_var"];
    let weights = parts.into_iter().enumerate().map(|(slot, part)| node.constant(slot + 1, part)?.weight(part));
    let op = super::Op::BatchNorm(BatchNorm { epsilon: node.float("epsilon", 1e-5) });
    Ok(Meaning { weights: weights.collect::<Result<_, _>>()?, ..Meaning::new(op) })
})];
