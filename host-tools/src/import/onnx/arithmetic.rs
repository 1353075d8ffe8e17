//! Arithmetic over constants, element by element, with ONNX's broadcasting.

use anyhow::{Context, Result, bail, ensure};
use distill_core::onnx::{Numbers, Tensor};

use super::constants::{elements, strides, to_ints};

/// ONNX's number for `float`.
pub const FLOAT: i64 = 1;
/// And for all floating-point types: float, float16, double and bfloat16.
pub const FLOATING_POINT: [i64; 4] = [FLOAT, 10, 11, 16];
/// And for `int64`, in which we keep integers and bools.
pub const INT64: i64 = 7;

/// An operation on two constants.
#[derive(Clone, Copy)]
pub struct Arithmetic {
    floats: fn(f32, f32) -> f32,
    ints: fn(i64, i64) -> i64,
}

pub const ADD: Arithmetic = Arithmetic { floats: |a, b| a + b, ints: i64::wrapping_add };
pub const SUBTRACT: Arithmetic = Arithmetic { floats: |a, b| a - b, ints: i64::wrapping_sub };
pub const MULTIPLY: Arithmetic = Arithmetic { floats: |a, b| a * b, ints: i64::wrapping_mul };
pub const DIVIDE: Arithmetic = Arithmetic { floats: |a, b| a / b, ints: |a, b| a.checked_div(b).unwrap_or(0) };
pub const POWER: Arithmetic =
    Arithmetic { floats: f32::powf, ints: |a, b| u32::try_from(b).map_or(0, |b| a.wrapping_pow(b)) };
pub const MINIMUM: Arithmetic = Arithmetic { floats: f32::min, ints: |a, b| a.min(b) };
pub const MAXIMUM: Arithmetic = Arithmetic { floats: f32::max, ints: |a, b| a.max(b) };
/// With the sign of the divisor.
pub const MODULO: Arithmetic = Arithmetic {
    floats: |a, b| a - (a / b).floor() * b,
    ints: |a, b| match a.checked_rem(b).unwrap_or(0) {
        rest if rest != 0 && (rest < 0) != (b < 0) => rest + b,
        rest => rest,
    },
};
/// With the sign of the dividend.
pub const REMAINDER: Arithmetic = Arithmetic { floats: |a, b| a % b, ints: |a, b| a.checked_rem(b).unwrap_or(0) };
pub const EQUAL: Arithmetic = Arithmetic { floats: |a, b| bool(a == b), ints: |a, b| i64::from(a == b) };
pub const LESS: Arithmetic = Arithmetic { floats: |a, b| bool(a < b), ints: |a, b| i64::from(a < b) };
pub const GREATER: Arithmetic = Arithmetic { floats: |a, b| bool(a > b), ints: |a, b| i64::from(a > b) };

fn bool(yes: bool) -> f32 {
    f32::from(u8::from(yes))
}

/// Two constants, element by element.
pub fn combine(operation: Arithmetic, a: &Tensor, b: &Tensor, limit: usize) -> Result<Tensor> {
    let shape = Broadcast::new(&[a, b], limit)?;
    let [of_a, of_b] = [a, b].map(|tensor| shape.strides(tensor));
    let places = (0..shape.count).map(|index| (shape.place(&of_a, index), shape.place(&of_b, index)));
    let values = match (&a.values, &b.values) {
        (Numbers::Floats(x), Numbers::Floats(y)) => {
            Numbers::Floats(places.map(|(a, b)| (operation.floats)(x[a], y[b])).collect())
        }
        (Numbers::Ints(x), Numbers::Ints(y)) => {
            Numbers::Ints(places.map(|(a, b)| (operation.ints)(x[a], y[b])).collect())
        }
        _ => bail!("one constant holds integers, the other floating-point numbers"),
    };
    Ok(Tensor { name: None, dims: shape.dims, values })
}

/// Where the first constant is not zero the second, else the third.
pub fn select(tensors: [&Tensor; 3], limit: usize) -> Result<Tensor> {
    let shape = Broadcast::new(&tensors, limit)?;
    let [condition, yes, no] = tensors.map(|tensor| shape.strides(tensor));
    let conditions = to_ints(tensors[0]);
    let holds = |index: usize| conditions[shape.place(&condition, index)] != 0;
    let indices = 0..shape.count;
    let values = match (&tensors[1].values, &tensors[2].values) {
        (Numbers::Floats(x), Numbers::Floats(y)) => {
            let chosen = |i: usize| if holds(i) { x[shape.place(&yes, i)] } else { y[shape.place(&no, i)] };
            Numbers::Floats(indices.map(chosen).collect())
        }
        (Numbers::Ints(x), Numbers::Ints(y)) => {
            let chosen = |i: usize| if holds(i) { x[shape.place(&yes, i)] } else { y[shape.place(&no, i)] };
            Numbers::Ints(indices.map(chosen).collect())
        }
        _ => bail!("one constant holds integers, the other floating-point numbers"),
    };
    Ok(Tensor { name: None, dims: shape.dims, values })
}

/// The shape in which constants meet.
struct Broadcast {
    dims: Vec<usize>,
    strides: Vec<usize>,
    count: usize,
}

impl Broadcast {
    fn new(tensors: &[&Tensor], limit: usize) -> Result<Self> {
        let rank = tensors.iter().map(|tensor| tensor.dims.len()).max().unwrap_or(0);
        let mut dims = vec![1; rank];
        for tensor in tensors {
            for (extent, &own) in dims[rank - tensor.dims.len()..].iter_mut().zip(&tensor.dims) {
                let shapes = || tensors.iter().map(|tensor| &tensor.dims).collect::<Vec<_>>();
                ensure!(own == *extent || own == 1 || *extent == 1, "shapes {:?} do not fit", shapes());
                *extent = if *extent == 1 { own } else { *extent };
            }
        }
        let count = elements(&dims).filter(|&count| count <= limit).context("a constant grows too large")?;
        Ok(Self { strides: strides(&dims), dims, count })
    }

    /// How far a step along each axis goes in one of the constants: nowhere along an axis where it has one element.
    fn strides(&self, tensor: &Tensor) -> Vec<usize> {
        let own = strides(&tensor.dims).into_iter().zip(&tensor.dims);
        let missing = self.dims.len() - tensor.dims.len();
        let steps = own.map(|(stride, &extent)| if extent == 1 { 0 } else { stride });
        std::iter::repeat_n(0, missing).chain(steps).collect()
    }

    /// The place of element `index` in a constant of these strides.
    fn place(&self, strides: &[usize], index: usize) -> usize {
        let axes = self.strides.iter().zip(&self.dims).zip(strides);
        axes.map(|((stride, extent), step)| index / stride % extent * step).sum()
    }
}

/// `count` times `value`, in the type of `tensor`.
pub fn filled_like(tensor: &Tensor, value: i16, count: usize) -> Numbers {
    match tensor.values {
        Numbers::Floats(_) => Numbers::Floats(vec![value.into(); count]),
        Numbers::Ints(_) => Numbers::Ints(vec![value.into(); count]),
    }
}

/// The values in the type of this number in ONNX.
pub fn cast(tensor: &Tensor, to: i64) -> Tensor {
    let to_float = FLOATING_POINT.contains(&to);
    let values = match &tensor.values {
        Numbers::Ints(values) if to_float => Numbers::Floats(values.iter().map(|&value| value as f32).collect()),
        Numbers::Floats(_) if !to_float => Numbers::Ints(to_ints(tensor)),
        same => same.clone(),
    };
    Tensor { name: None, dims: tensor.dims.clone(), values }
}

/// A function of floating-point numbers; integers stay as they are.
pub fn map(tensor: &Tensor, f: impl Fn(f32) -> f32) -> Tensor {
    let values = match &tensor.values {
        Numbers::Floats(values) => Numbers::Floats(values.iter().map(|&value| f(value)).collect()),
        same => same.clone(),
    };
    Tensor { name: None, dims: tensor.dims.clone(), values }
}
