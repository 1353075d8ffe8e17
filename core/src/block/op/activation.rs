//! Elementwise functions. A new one needs a variant, a line in each `match`, and a test.

#[cfg(feature = "onnx")]
use alloc::{vec, vec::Vec};

use serde::{Deserialize, Serialize};

#[cfg(feature = "burn")]
use super::burn::{BurnOperands, Tensor4};
#[cfg(feature = "onnx")]
use super::onnx::{Argument, Attribute, Family, Meaning, OnnxNode, Step, Unreadable};
use super::{Kept, OnCpu, Operands, Operator, Plain, Slopes};
use crate::{
    block::BlockError,
    kernels::{
        elementwise::{Read, Write, map, zip, zip_two},
        instructions::Arch,
    },
    tensor::Shape,
};

/// An elementwise function.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x` clamped between two bounds; 0 and 6 make a ReLU6.
    Clip {
        /// Lower bound.
        low: f32,
        /// Upper bound.
        high: f32,
    },
    /// `1 / (1 + exp(−x))`.
    Sigmoid,
    /// `x · sigmoid(x)`, also called swish.
    Silu,
    /// `alpha · x + beta` clamped between 0 and 1.
    HardSigmoid {
        /// Slope; PyTorch's is 1/6.
        alpha: f32,
        /// Value at 0; PyTorch's is 1/2.
        beta: f32,
    },
    /// `x · clip(x + 3, 0, 6) / 6`.
    HardSwish,
    /// `x` above 0, else `slope · x`.
    LeakyRelu {
        /// PyTorch's is 0.01.
        slope: f32,
    },
}

impl Activation {
    /// PyTorch's `ReLU6`.
    pub const RELU6: Self = Self::Clip { low: 0.0, high: 6.0 };

    /// Its value at `x`.
    pub fn value(self, x: f32) -> f32 {
        match self {
            Self::Relu => x.max(0.0),
            Self::Clip { low, high } => x.max(low).min(high),
            Self::Sigmoid => sigmoid(x),
            Self::Silu => x * sigmoid(x),
            Self::HardSigmoid { alpha, beta } => (alpha * x + beta).clamp(0.0, 1.0),
            Self::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Self::LeakyRelu { slope } => {
                if x > 0.0 {
                    x
                } else {
                    slope * x
                }
            }
        }
    }

    /// Its derivative at `x`; at a kink, PyTorch's choice.
    pub fn slope(self, x: f32) -> f32 {
        let inside = |inside: bool, slope: f32| if inside { slope } else { 0.0 };
        match self {
            Self::Relu => inside(x > 0.0, 1.0),
            Self::Clip { low, high } => inside(x > low && x < high, 1.0),
            Self::Sigmoid => sigmoid(x) * (1.0 - sigmoid(x)),
            Self::Silu => sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))),
            Self::HardSigmoid { alpha, beta } => inside((0.0..1.0).contains(&(alpha * x + beta)), alpha),
            Self::HardSwish if x <= -3.0 => 0.0,
            Self::HardSwish if x < 3.0 => x / 3.0 + 0.5,
            Self::HardSwish => 1.0,
            Self::LeakyRelu { slope } => {
                if x > 0.0 {
                    1.0
                } else {
                    slope
                }
            }
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + libm::expf(-x))
}

impl Operator for Activation {
    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        let x = given.inputs[0];
        let ordered = match self {
            Self::Clip { low, high } => low <= high && low.is_finite() && high.is_finite(),
            Self::HardSigmoid { alpha, beta } => alpha.is_finite() && beta.is_finite(),
            Self::LeakyRelu { slope } => slope.is_finite(),
            _ => true,
        };
        if ordered { Ok(x) } else { Err(given.misfit(x)) }
    }

    fn on_cpu(&self) -> OnCpu<'_> {
        match *self {
            Self::Relu => OnCpu::Clamp([0.0, f32::INFINITY]),
            Self::Clip { low, high } => OnCpu::Clamp([low, high]),
            _ => OnCpu::Plain(self),
        }
    }

    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4 {
        use burn::tensor::activation::{leaky_relu, relu, sigmoid, silu};

        let x = given.input(0);
        match *self {
            Self::Relu => relu(x),
            Self::Clip { low, high } => x.clamp(low, high),
            Self::Sigmoid => sigmoid(x),
            Self::Silu => silu(x),
            Self::HardSigmoid { alpha, beta } => (x * alpha + beta).clamp(0.0, 1.0),
            Self::HardSwish => x.clone() * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Self::LeakyRelu { slope } => leaky_relu(x, slope.into()),
        }
    }

    #[cfg(feature = "onnx")]
    fn to_onnx(&self, _given: &Operands<'_>) -> Vec<Step> {
        let x = || vec![Argument::Value(0)];
        match *self {
            Self::Relu => vec![Step::new("Relu", x(), vec![])],
            Self::Clip { low, high } => {
                let bound = |name, value| Argument::Float(name, value);
                vec![Step::new("Clip", vec![Argument::Value(0), bound("min", low), bound("max", high)], vec![])]
            }
            Self::Sigmoid => vec![Step::new("Sigmoid", x(), vec![])],
            Self::Silu => vec![
                Step::new("Sigmoid", x(), vec![]),
                Step::new("Mul", vec![Argument::Value(0), Argument::Step(0)], vec![]),
            ],
            Self::HardSigmoid { alpha, beta } => {
                let attributes = vec![("alpha", Attribute::Float(alpha)), ("beta", Attribute::Float(beta))];
                vec![Step::new("HardSigmoid", x(), attributes)]
            }
            Self::HardSwish => vec![Step::new("HardSwish", x(), vec![])],
            Self::LeakyRelu { slope } => vec![Step::new("LeakyRelu", x(), vec![("alpha", Attribute::Float(slope))])],
        }
    }
}

impl Plain for Activation {
    fn forward(&self, arch: Arch, [input, _]: [Option<Read<'_>>; 2], output: Write<'_>) {
        let activation = *self;
        match input {
            Some(input) => zip(arch, output, input, |_, x| activation.value(x)),
            None => map(arch, output, |x| activation.value(x)),
        }
    }

    fn backward(&self, slopes: &Slopes<'_>, target: Write<'_>) {
        let activation = *self;
        zip_two(slopes.arch, target, slopes.gradient, slopes.inputs[0], |t, gradient, x| {
            t + gradient * activation.slope(x)
        });
    }

    fn in_place(&self) -> bool {
        true
    }

    fn kept(&self) -> Kept {
        Kept { inputs: true, output: false }
    }
}

#[cfg(feature = "onnx")]
fn meaning(activation: Activation) -> Meaning {
    Meaning::new(super::Op::Activation(activation))
}

/// Bounds are inputs since opset 11, attributes before.
#[cfg(feature = "onnx")]
fn clip(node: &OnnxNode<'_>) -> Result<Meaning, Unreadable> {
    let bound = |slot: usize, name: &str, missing: f32| -> Result<f32, Unreadable> {
        let given = match node.optional_constant(slot, name)? {
            Some(bound) => bound.scalar().ok_or_else(|| node.refuse("a bound is not a single number"))?,
            None => node.float(name, missing),
        };
        // JSON cannot represent infinite bounds.
        Ok(given.clamp(f32::MIN, f32::MAX))
    };
    let (low, high) = (bound(1, "min", f32::MIN)?, bound(2, "max", f32::MAX)?);
    Ok(meaning(if (low, high) == (0.0, f32::MAX) { Activation::Relu } else { Activation::Clip { low, high } }))
}

#[cfg(feature = "onnx")]
pub(super) const ONNX: Family = &[
    ("Relu", |_| Ok(meaning(Activation::Relu))),
    ("Clip", clip),
    ("Sigmoid", |_| Ok(meaning(Activation::Sigmoid))),
    ("Swish", |_| Ok(meaning(Activation::Silu))),
    ("HardSigmoid", |node| {
        Ok(meaning(Activation::HardSigmoid { alpha: node.float("alpha", 0.2), beta: node.float("beta", 0.5) }))
    }),
    ("HardSwish", |_| Ok(meaning(Activation::HardSwish))),
    ("LeakyRelu", |node| Ok(meaning(Activation::LeakyRelu { slope: node.float("alpha", 0.01) }))),
];
