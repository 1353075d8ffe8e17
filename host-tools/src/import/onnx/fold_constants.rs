//! Operators over constants, computed while the file is read: mostly the shape arithmetic that exporters leave behind.

use anyhow::{Context, Result, bail, ensure};
use distill_core::onnx::{Numbers, Tensor};

use super::{
    arithmetic::{self, Arithmetic, FLOAT, INT64, cast, combine, filled_like, map, select},
    attributes::{int, ints, kind},
    constants::{elements, length, strides, to_ints},
};
use crate::onnx::NodeProto;

/// An operator whose inputs are constants.
pub struct ConstantOperator<'a> {
    pub node: &'a NodeProto,
    pub inputs: &'a [Option<&'a Tensor>],
    /// The value that `ConstantOfShape` repeats.
    pub fill: Option<Tensor>,
    /// Most elements that its result may have.
    pub limit: usize,
}

impl ConstantOperator<'_> {
    /// The result; `None` for an operator that is not supported here.
    pub fn evaluate(&self) -> Result<Option<Tensor>> {
        let Self { node, limit, .. } = *self;
        let axis = int(node, "axis").unwrap_or(0);
        // Most results are as large as the first input; the others are held against the limit by their own sizes, too.
        ensure!(self.optional(0).is_none_or(|first| length(&first.values) <= limit), "a constant grows too large");
        let result = match kind(node) {
            "Identity" | "CastLike" => Tensor { name: None, ..self.input(0)?.clone() },
            "Cast" => cast(self.input(0)?, int(node, "to").unwrap_or(FLOAT)),
            "Concat" => concat(self.inputs, axis, limit)?,
            "Gather" => gather(self.input(0)?, self.input(1)?, axis, limit)?,
            "Reshape" => self.reshaped(reshaped(&self.input(0)?.dims, &to_ints(self.input(1)?))?)?,
            "Squeeze" => self.reshaped(self.squeezed()?)?,
            "Unsqueeze" => self.reshaped(self.unsqueezed()?)?,
            "ConstantOfShape" => self.constant_of_shape()?,
            "Slice" => self.slice()?,
            "Transpose" => transpose(self.input(0)?, ints(node, "perm"))?,
            "Expand" => self.expand()?,
            "Add" => self.combine(arithmetic::ADD)?,
            "Sub" => self.combine(arithmetic::SUBTRACT)?,
            "Mul" => self.combine(arithmetic::MULTIPLY)?,
            "Div" => self.combine(arithmetic::DIVIDE)?,
            "Pow" => self.combine(arithmetic::POWER)?,
            "Min" => self.combine(arithmetic::MINIMUM)?,
            "Max" => self.combine(arithmetic::MAXIMUM)?,
            "Mod" if int(node, "fmod").unwrap_or(0) == 0 => self.combine(arithmetic::MODULO)?,
            "Mod" => self.combine(arithmetic::REMAINDER)?,
            "Equal" => self.compare(arithmetic::EQUAL)?,
            "Less" => self.compare(arithmetic::LESS)?,
            "Greater" => self.compare(arithmetic::GREATER)?,
            "And" => self.combine(arithmetic::MINIMUM)?,
            "Or" => self.combine(arithmetic::MAXIMUM)?,
            "Not" => self.negate_condition()?,
            "Where" => select([self.input(0)?, self.input(1)?, self.input(2)?], limit)?,
            "Neg" => self.negate()?,
            "Sqrt" => map(self.input(0)?, f32::sqrt),
            "Reciprocal" => map(self.input(0)?, f32::recip),
            "Floor" => map(self.input(0)?, f32::floor),
            "Ceil" => map(self.input(0)?, f32::ceil),
            "Round" => map(self.input(0)?, f32::round_ties_even),
            "DequantizeLinear" => self.dequantized()?,
            _ => return Ok(None),
        };
        Ok(Some(result))
    }

    fn optional(&self, slot: usize) -> Option<&Tensor> {
        self.inputs.get(slot).copied().flatten()
    }

    fn input(&self, slot: usize) -> Result<&Tensor> {
        self.optional(slot).with_context(|| format!("input {slot} is missing"))
    }

    /// The axes to squeeze or unsqueeze: an input since opset 13, an attribute before.
    fn axes(&self) -> Option<Vec<i64>> {
        self.optional(1).map(to_ints).or_else(|| ints(self.node, "axes"))
    }

    /// The first input with other extents.
    fn reshaped(&self, dims: Vec<usize>) -> Result<Tensor> {
        Ok(Tensor { name: None, dims, values: self.input(0)?.values.clone() })
    }

    fn squeezed(&self) -> Result<Vec<usize>> {
        let dims = &self.input(0)?.dims;
        let axes = self.axes().map(|axes| places(&axes, dims.len())).transpose()?;
        let is_kept =
            |(axis, extent): &(usize, &usize)| **extent != 1 || axes.as_ref().is_some_and(|axes| !axes.contains(axis));
        Ok(dims.iter().enumerate().filter(is_kept).map(|(_, &extent)| extent).collect())
    }

    fn unsqueezed(&self) -> Result<Vec<usize>> {
        let mut dims = self.input(0)?.dims.clone();
        let axes = self.axes().unwrap_or_default();
        let mut places = places(&axes, dims.len() + axes.len())?;
        places.sort_unstable();
        for place in places {
            ensure!(place <= dims.len(), "there is no axis {place}");
            dims.insert(place, 1);
        }
        Ok(dims)
    }

    fn constant_of_shape(&self) -> Result<Tensor> {
        let dims = extents(&to_ints(self.input(0)?), self.limit)?;
        let count = dims.iter().product();
        let values = match self.fill.as_ref().map(|fill| &fill.values) {
            Some(Numbers::Ints(values)) => Numbers::Ints(vec![values.first().copied().unwrap_or(0); count]),
            Some(Numbers::Floats(values)) => Numbers::Floats(vec![values.first().copied().unwrap_or(0.0); count]),
            None => Numbers::Floats(vec![0.0; count]),
        };
        Ok(Tensor { name: None, dims, values })
    }

    fn expand(&self) -> Result<Tensor> {
        let tensor = self.input(0)?;
        let dims = extents(&to_ints(self.input(1)?), self.limit)?;
        let count = dims.iter().product();
        let ones = Tensor { name: None, dims, values: filled_like(tensor, 1, count) };
        combine(arithmetic::MULTIPLY, tensor, &ones, self.limit)
    }

    fn negate(&self) -> Result<Tensor> {
        let tensor = self.input(0)?;
        let minus_one = Tensor { name: None, dims: Vec::new(), values: filled_like(tensor, -1, 1) };
        combine(arithmetic::MULTIPLY, tensor, &minus_one, self.limit)
    }

    fn negate_condition(&self) -> Result<Tensor> {
        let tensor = self.input(0)?;
        let no = Tensor { name: None, dims: Vec::new(), values: filled_like(tensor, 0, 1) };
        combine(arithmetic::EQUAL, tensor, &no, self.limit)
    }

    /// All inputs, one after another.
    fn combine(&self, operation: Arithmetic) -> Result<Tensor> {
        let first = Tensor { name: None, ..self.input(0)?.clone() };
        (1..self.inputs.len())
            .try_fold(first, |result, slot| combine(operation, &result, self.input(slot)?, self.limit))
    }

    /// A comparison's bools are integers, whatever it compares.
    fn compare(&self, operation: Arithmetic) -> Result<Tensor> {
        Ok(cast(&self.combine(operation)?, INT64))
    }

    /// `(x − zero) · scale`, with one scale and zero, or one for each place along an axis.
    fn dequantized(&self) -> Result<Tensor> {
        let (x, scale) = (self.input(0)?, self.input(1)?);
        let axis = places(&[int(self.node, "axis").unwrap_or(1)], x.dims.len().max(2))?[0];
        let along = |tensor: &Tensor| {
            let mut dims = vec![1; x.dims.len()];
            match (length(&tensor.values), dims.get_mut(axis)) {
                (1, _) => {}
                (count, Some(extent)) if tensor.dims.len() == 1 => *extent = count,
                _ => bail!("it has a scale of shape {:?}", tensor.dims),
            }
            Ok(cast(&Tensor { name: None, dims, values: tensor.values.clone() }, FLOAT))
        };
        let mut values = cast(x, FLOAT);
        if let Some(zero) = self.optional(2) {
            values = combine(arithmetic::SUBTRACT, &values, &along(zero)?, self.limit)?;
        }
        let name = x.name.clone();
        Ok(Tensor { name, ..combine(arithmetic::MULTIPLY, &values, &along(scale)?, self.limit)? })
    }

    fn slice(&self) -> Result<Tensor> {
        let tensor = self.input(0)?;
        let (starts, ends) = (to_ints(self.input(1)?), to_ints(self.input(2)?));
        let axes = self.optional(3).map_or_else(|| (0..starts.len() as i64).collect(), to_ints);
        let steps = self.optional(4).map_or_else(|| vec![1; starts.len()], to_ints);
        let axes = places(&axes, tensor.dims.len())?;
        ensure!(
            [ends.len(), axes.len(), steps.len()] == [starts.len(); 3],
            "starts, ends, axes, steps differ in number"
        );
        let mut chosen: Vec<Vec<usize>> = tensor.dims.iter().map(|&extent| (0..extent).collect()).collect();
        for (index, axis) in axes.into_iter().enumerate() {
            let cut = Cut { start: starts[index], end: ends[index], step: steps[index] };
            chosen[axis] = cut.places(tensor.dims[axis] as i64)?;
        }
        let dims: Vec<usize> = chosen.iter().map(Vec::len).collect();
        let strides = strides(&tensor.dims);
        let place = |index: usize| {
            let here = coordinates(&dims, index);
            here.iter().enumerate().map(|(axis, &here)| chosen[axis][here] * strides[axis]).sum()
        };
        Ok(pick(tensor, dims.clone(), (0..dims.iter().product()).map(place)))
    }
}

/// What a `Slice` takes along one axis.
struct Cut {
    start: i64,
    end: i64,
    step: i64,
}

impl Cut {
    fn places(&self, extent: i64) -> Result<Vec<usize>> {
        let from_end = |place: i64| if place < 0 { place.saturating_add(extent) } else { place };
        ensure!(self.step != 0, "a step is 0");
        let stride = self.step.unsigned_abs() as usize;
        let (start, end) = (from_end(self.start), from_end(self.end));
        Ok(if self.step > 0 {
            let range = start.clamp(0, extent)..end.clamp(0, extent);
            range.step_by(stride).map(|place| place as usize).collect()
        } else {
            let range = end.clamp(-1, extent - 1) + 1..=start.clamp(-1, extent - 1);
            range.rev().step_by(stride).map(|place| place as usize).collect()
        })
    }
}

/// Values as the extents of a new constant.
fn extents(values: &[i64], limit: usize) -> Result<Vec<usize>> {
    let dims: Option<Vec<usize>> = values.iter().map(|&extent| usize::try_from(extent).ok()).collect();
    let dims = dims.with_context(|| format!("{values:?} is not a shape"))?;
    ensure!(elements(&dims).is_some_and(|count| count <= limit), "a constant of shape {dims:?} is too large");
    Ok(dims)
}

/// Places below `count`; negative ones count from the end.
fn places(indices: &[i64], count: usize) -> Result<Vec<usize>> {
    let place = |&index: &i64| usize::try_from(if index < 0 { index + count as i64 } else { index }).ok();
    let places: Option<Vec<usize>> = indices.iter().map(place).collect();
    let places = places.filter(|places| places.iter().all(|&place| place < count));
    places.with_context(|| format!("{indices:?} is out of range, of {count}"))
}

/// The elements of a tensor at these places.
fn pick(tensor: &Tensor, dims: Vec<usize>, places: impl Iterator<Item = usize>) -> Tensor {
    let values = match &tensor.values {
        Numbers::Floats(values) => Numbers::Floats(places.map(|place| values[place]).collect()),
        Numbers::Ints(values) => Numbers::Ints(places.map(|place| values[place]).collect()),
    };
    Tensor { name: None, dims, values }
}

fn coordinates(dims: &[usize], index: usize) -> Vec<usize> {
    strides(dims).iter().zip(dims).map(|(stride, extent)| index / stride % extent).collect()
}

/// A list of integers as a constant.
fn list(values: Vec<i64>) -> Tensor {
    Tensor { name: None, dims: vec![values.len()], values: Numbers::Ints(values) }
}

/// The extents that a `Shape` operator asks for.
pub fn shape(node: &NodeProto, dims: &[usize]) -> Tensor {
    let rank = dims.len() as i64;
    let place = |axis: i64| (if axis < 0 { axis.saturating_add(rank) } else { axis }).clamp(0, rank) as usize;
    let (start, end) = (int(node, "start").unwrap_or(0), int(node, "end").unwrap_or(i64::MAX));
    let chosen = dims.get(place(start)..place(end)).unwrap_or_default();
    list(chosen.iter().map(|&extent| extent as i64).collect())
}

fn concat(inputs: &[Option<&Tensor>], axis: i64, limit: usize) -> Result<Tensor> {
    let parts: Vec<&Tensor> = inputs.iter().copied().flatten().collect();
    let first = parts.first().context("there is nothing to join")?;
    let axis = places(&[axis], first.dims.len())?[0];
    let fits = |part: &&Tensor| {
        let differs = |place: usize| place != axis && part.dims[place] != first.dims[place];
        part.dims.len() == first.dims.len() && !(0..first.dims.len()).any(differs)
    };
    ensure!(parts.iter().all(fits), "the shapes of its inputs do not fit");
    let total: usize = parts.iter().map(|part| length(&part.values)).sum();
    ensure!(total <= limit, "a constant grows too large");
    let mut dims = first.dims.clone();
    dims[axis] = parts.iter().map(|part| part.dims[axis]).sum();
    let mut values = filled_like(first, 0, 0);
    for row in 0..dims[..axis].iter().product() {
        for part in &parts {
            let length: usize = part.dims[axis..].iter().product();
            let range = row * length..(row + 1) * length;
            match (&mut values, &part.values) {
                (Numbers::Floats(all), Numbers::Floats(some)) => all.extend_from_slice(&some[range]),
                (Numbers::Ints(all), Numbers::Ints(some)) => all.extend_from_slice(&some[range]),
                _ => bail!("one input holds integers, another floating-point numbers"),
            }
        }
    }
    Ok(Tensor { name: None, dims, values })
}

fn gather(tensor: &Tensor, indices: &Tensor, axis: i64, limit: usize) -> Result<Tensor> {
    let axis = places(&[axis], tensor.dims.len())?[0];
    let extent = tensor.dims[axis];
    let chosen = places(&to_ints(indices), extent)?;
    let dims: Vec<usize> = [&tensor.dims[..axis], &indices.dims, &tensor.dims[axis + 1..]].concat();
    let inner: usize = tensor.dims[axis + 1..].iter().product();
    let outer: usize = tensor.dims[..axis].iter().product();
    let count = outer.checked_mul(inner).and_then(|count| count.checked_mul(chosen.len()));
    ensure!(count.is_some_and(|count| count <= limit), "a constant grows too large");
    let places = (0..outer)
        .flat_map(|o| chosen.iter().flat_map(move |&index| (0..inner).map(move |i| (o * extent + index) * inner + i)));
    Ok(pick(tensor, dims, places))
}

/// The extents after a reshape: 0 keeps an extent, −1 takes what is left.
pub fn reshaped(dims: &[usize], wanted: &[i64]) -> Result<Vec<usize>> {
    let count: usize = dims.iter().product();
    let mut shape = Vec::with_capacity(wanted.len());
    for (axis, &extent) in wanted.iter().enumerate() {
        shape.push(match extent {
            0 => *dims.get(axis).with_context(|| format!("shape {dims:?} has no extent {axis} to keep"))?,
            -1 => usize::MAX,
            other => usize::try_from(other).ok().with_context(|| format!("{wanted:?} is not a shape"))?,
        });
    }
    let mut known = shape.iter().filter(|&&extent| extent != usize::MAX);
    let known = known.try_fold(1usize, |product, &extent| product.checked_mul(extent)).unwrap_or(0);
    shape.iter_mut().filter(|extent| **extent == usize::MAX).for_each(|extent| *extent = count / known.max(1));
    ensure!(elements(&shape) == Some(count), "shape {dims:?} cannot become {wanted:?}");
    Ok(shape)
}

fn transpose(tensor: &Tensor, order: Option<Vec<i64>>) -> Result<Tensor> {
    let rank = tensor.dims.len();
    let order = order.map_or_else(|| Ok((0..rank).rev().collect()), |order| places(&order, rank))?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    ensure!(sorted == (0..rank).collect::<Vec<_>>(), "{order:?} is not an order of {rank} axes");
    let dims: Vec<usize> = order.iter().map(|&axis| tensor.dims[axis]).collect();
    let strides = strides(&tensor.dims);
    let place =
        |index: usize| coordinates(&dims, index).iter().zip(&order).map(|(here, &axis)| here * strides[axis]).sum();
    let count = length(&tensor.values);
    Ok(pick(tensor, dims.clone(), (0..count).map(place)))
}
