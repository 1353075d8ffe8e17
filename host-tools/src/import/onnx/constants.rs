//! Constants of an ONNX file, and what its operators make of them: the shape arithmetic that exporters leave behind.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use distill_core::onnx::{Attribute, Numbers, Tensor};
use half::{bf16, f16};
use rten_onnx::onnx::{DataLocation, DataType, TensorProto};

/// Largest extent of a constant, and of one without elements.
const MOST_EXTENTS: [usize; 2] = [1 << 28, 1 << 16];

/// A constant as the file holds it; large ones may lie in a file beside the model, in `folder`.
///
/// # Errors
/// A type we do not know, or fewer values than its extents say.
pub fn tensor(proto: &TensorProto, folder: &Path) -> Result<Tensor> {
    let name = proto.name.clone().unwrap_or_default();
    let context = || format!("constant {name}");
    let dims: Option<Vec<usize>> = proto.dims.iter().map(|&extent| usize::try_from(extent).ok()).collect();
    let dims = dims.with_context(context)?;
    let kind = proto.data_type.unwrap_or(DataType(0));
    let external = proto.data_location == Some(DataLocation::EXTERNAL);
    let raw = match &proto.raw_data {
        _ if external => Some(beside(proto, folder).with_context(context)?),
        Some(raw) => Some(raw.borrow().clone()),
        None => None,
    };
    let values = match (raw, kind) {
        (Some(raw), DataType::FLOAT) => Numbers::Floats(decode(&raw, f32::from_le_bytes)),
        (Some(raw), DataType::DOUBLE) => Numbers::Floats(decode(&raw, |bytes| f64::from_le_bytes(bytes) as f32)),
        (Some(raw), DataType::FLOAT16) => Numbers::Floats(decode(&raw, |bytes| f16::from_le_bytes(bytes).to_f32())),
        (Some(raw), DataType::BFLOAT16) => Numbers::Floats(decode(&raw, |bytes| bf16::from_le_bytes(bytes).to_f32())),
        (Some(raw), DataType::INT64) => Numbers::Ints(decode(&raw, i64::from_le_bytes)),
        (Some(raw), DataType::INT32) => Numbers::Ints(decode(&raw, |bytes| i32::from_le_bytes(bytes).into())),
        (Some(raw), DataType::BOOL | DataType::UINT8) => Numbers::Ints(raw.into_iter().map(i64::from).collect()),
        (None, DataType::FLOAT) => Numbers::Floats(proto.float_data.clone()),
        (None, DataType::DOUBLE) => Numbers::Floats(proto.double_data.iter().map(|&value| value as f32).collect()),
        (None, DataType::INT64) => Numbers::Ints(proto.int64_data.clone()),
        (None, DataType::INT32 | DataType::BOOL | DataType::UINT8) => {
            Numbers::Ints(proto.int32_data.iter().map(|&value| value.into()).collect())
        }
        (_, other) => bail!("constant {name} has type {other}, which we cannot read"),
    };
    let found = length(&values);
    ensure!(elements(&dims) == Some(found), "constant {name} of shape {dims:?} has {found} values");
    Ok(Tensor { name: own_name(&name), dims, values })
}

/// The bytes of a constant that lies in a file beside the model.
fn beside(proto: &TensorProto, folder: &Path) -> Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};

    let entry = |key: &str| {
        let entry = proto.external_data.iter().find(|entry| entry.key.as_deref() == Some(key));
        entry.and_then(|entry| entry.value.as_deref())
    };
    let location = Path::new(entry("location").context("it says that it lies in another file, but not in which")?);
    let plain = location.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    ensure!(plain, "it lies in {}, which is not beside the model", location.display());
    let path = folder.join(location);
    let mut file = std::fs::File::open(&path).with_context(|| format!("its values lie in {}", path.display()))?;
    let number = |key: &str| entry(key).map(str::parse::<u64>).transpose().context("its place in that file");
    let (offset, there) = (number("offset")?.unwrap_or(0), file.metadata()?.len());
    let length = number("length")?.unwrap_or(there.saturating_sub(offset));
    ensure!(offset.checked_add(length).is_some_and(|end| end <= there), "{} ends before its values", path.display());
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A name that a person or PyTorch gave; exporters number the others.
fn own_name(name: &str) -> Option<String> {
    let numbered = name.starts_with("onnx::") || name.starts_with("val_") || !name.contains(['.', '/']);
    (!numbered).then(|| name.to_owned())
}

fn decode<const B: usize, T>(bytes: &[u8], value: impl Fn([u8; B]) -> T) -> Vec<T> {
    bytes.as_chunks::<B>().0.iter().map(|chunk| value(*chunk)).collect()
}

/// Elements of a shape; `None` if they, or the distances between them, cannot be counted.
fn elements(dims: &[usize]) -> Option<usize> {
    let most = dims.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent.max(1)))?;
    let limit = MOST_EXTENTS[usize::from(dims.contains(&0))];
    let fits = dims.iter().all(|&extent| extent <= limit);
    fits.then_some(if dims.contains(&0) { 0 } else { most })
}

/// Elements.
pub fn length(values: &Numbers) -> usize {
    match values {
        Numbers::Floats(values) => values.len(),
        Numbers::Ints(values) => values.len(),
    }
}

/// A list of integers.
pub fn ints(values: Vec<i64>) -> Tensor {
    Tensor { name: None, dims: vec![values.len()], values: Numbers::Ints(values) }
}

/// Extents as a constant, from one axis to another.
pub fn shape(dims: &[usize], start: i64, end: i64) -> Tensor {
    let rank = dims.len() as i64;
    let place = |axis: i64| (if axis < 0 { axis.saturating_add(rank) } else { axis }).clamp(0, rank) as usize;
    let chosen = dims.get(place(start)..place(end)).unwrap_or_default();
    ints(chosen.iter().map(|&extent| extent as i64).collect())
}

/// What an operator makes of constants, of at most `most` elements; `None` if it is none we can compute.
///
/// # Errors
/// Its constants do not fit it, or grow too large.
pub fn evaluate(
    kind: &str,
    inputs: &[Option<&Tensor>],
    attribute: impl Fn(&str) -> Option<Attribute>,
    filling: Option<Tensor>,
    most: usize,
) -> Result<Option<Tensor>> {
    let int = |name: &str, missing: i64| match attribute(name) {
        Some(Attribute::Int(value)) => value,
        _ => missing,
    };
    let list = |name: &str| match attribute(name) {
        Some(Attribute::Ints(values)) => Some(values),
        _ => None,
    };
    let given = |slot: usize| inputs.get(slot).copied().flatten().with_context(|| format!("input {slot} is missing"));
    let axes = |slot: usize| inputs.get(slot).copied().flatten().map(whole).or_else(|| list("axes"));
    let result = match kind {
        "Identity" | "CastLike" => Some(Tensor { name: None, ..given(0)?.clone() }),
        "Cast" => Some(cast(given(0)?, int("to", 1))),
        "Shape" => Some(shape(&given(0)?.dims, int("start", 0), int("end", i64::MAX))),
        "Concat" => Some(concat(inputs, int("axis", 0), most)?),
        "Gather" => Some(gather(given(0)?, given(1)?, int("axis", 0), most)?),
        "Reshape" => Some(reshape(given(0)?, &whole(given(1)?))?),
        "Squeeze" => {
            let axes = axes(1).map(|axes| normal(&axes, given(0)?.dims.len())).transpose()?;
            let dims = given(0)?.dims.iter().enumerate();
            let kept =
                dims.filter(|(axis, extent)| **extent != 1 || axes.as_ref().is_some_and(|axes| !axes.contains(axis)));
            let dims = kept.map(|(_, &extent)| extent).collect();
            Some(Tensor { name: None, dims, ..given(0)?.clone() })
        }
        "Unsqueeze" => {
            let axes = axes(1).unwrap_or_default();
            let mut dims = given(0)?.dims.clone();
            let mut places = normal(&axes, dims.len() + axes.len())?;
            places.sort_unstable();
            for place in places {
                ensure!(place <= dims.len(), "there is no axis {place}");
                dims.insert(place, 1);
            }
            Some(Tensor { name: None, dims, ..given(0)?.clone() })
        }
        "ConstantOfShape" => {
            let dims = extents(&whole(given(0)?), most)?;
            let count = dims.iter().product();
            let values = match filling.map(|filling| filling.values) {
                Some(Numbers::Ints(values)) => Numbers::Ints(vec![values.first().copied().unwrap_or(0); count]),
                Some(Numbers::Floats(values)) => Numbers::Floats(vec![values.first().copied().unwrap_or(0.0); count]),
                None => Numbers::Floats(vec![0.0; count]),
            };
            Some(Tensor { name: None, dims, values })
        }
        "Slice" => Some(slice(
            given(0)?,
            [whole(given(1)?), whole(given(2)?)],
            inputs.get(3).copied().flatten().map(whole),
            inputs.get(4).copied().flatten().map(whole),
        )?),
        "Transpose" => Some(transpose(given(0)?, list("perm"))?),
        "Expand" => {
            let shape = extents(&whole(given(1)?), most)?;
            let ones = Tensor { name: None, values: Numbers::Ints(vec![1; shape.iter().product()]), dims: shape };
            let ones = if matches!(given(0)?.values, Numbers::Floats(_)) { cast(&ones, 1) } else { ones };
            Some(binary(given(0)?, &ones, most, |a, b| a * b, i64::wrapping_mul)?)
        }
        "Add" => Some(binary(given(0)?, given(1)?, most, |a, b| a + b, i64::wrapping_add)?),
        "Sub" => Some(binary(given(0)?, given(1)?, most, |a, b| a - b, i64::wrapping_sub)?),
        "Mul" => Some(binary(given(0)?, given(1)?, most, |a, b| a * b, i64::wrapping_mul)?),
        "Div" => Some(binary(given(0)?, given(1)?, most, |a, b| a / b, |a, b| a.checked_div(b).unwrap_or(0))?),
        "Sqrt" => Some(unary(given(0)?, f32::sqrt)),
        "Reciprocal" => Some(unary(given(0)?, f32::recip)),
        "Neg" => Some(binary(
            given(0)?,
            &Tensor { name: None, dims: vec![], values: minus_one(given(0)?) },
            most,
            |a, b| a * b,
            i64::wrapping_mul,
        )?),
        "Floor" => Some(unary(given(0)?, f32::floor)),
        _ => None,
    };
    Ok(result)
}

fn minus_one(like: &Tensor) -> Numbers {
    match like.values {
        Numbers::Floats(_) => Numbers::Floats(vec![-1.0]),
        Numbers::Ints(_) => Numbers::Ints(vec![-1]),
    }
}

/// As integers.
pub fn whole(tensor: &Tensor) -> Vec<i64> {
    match &tensor.values {
        Numbers::Ints(values) => values.clone(),
        Numbers::Floats(values) => values.iter().map(|&value| value as i64).collect(),
    }
}

/// Extents of something new.
fn extents(values: &[i64], most: usize) -> Result<Vec<usize>> {
    let dims: Option<Vec<usize>> = values.iter().map(|&extent| usize::try_from(extent).ok()).collect();
    let dims = dims.with_context(|| format!("{values:?} is no shape"))?;
    ensure!(elements(&dims).is_some_and(|count| count <= most), "a constant of shape {dims:?} is too large");
    Ok(dims)
}

fn normal(axes: &[i64], rank: usize) -> Result<Vec<usize>> {
    let place = |&axis: &i64| usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok();
    let places: Option<Vec<usize>> = axes.iter().map(place).collect();
    let places = places.filter(|places| places.iter().all(|&place| place < rank));
    places.with_context(|| format!("there are no axes {axes:?} of {rank}"))
}

fn cast(tensor: &Tensor, to: i64) -> Tensor {
    let to_float = [1, 10, 11, 16].contains(&to);
    let values = match &tensor.values {
        Numbers::Ints(values) if to_float => Numbers::Floats(values.iter().map(|&value| value as f32).collect()),
        Numbers::Floats(_) if !to_float => Numbers::Ints(whole(tensor)),
        same => same.clone(),
    };
    Tensor { name: None, dims: tensor.dims.clone(), values }
}

fn unary(tensor: &Tensor, f: impl Fn(f32) -> f32) -> Tensor {
    let values = match &tensor.values {
        Numbers::Floats(values) => Numbers::Floats(values.iter().map(|&value| f(value)).collect()),
        same => same.clone(),
    };
    Tensor { name: None, dims: tensor.dims.clone(), values }
}

/// The elements of a tensor at these places.
fn pick(tensor: &Tensor, dims: Vec<usize>, places: impl Iterator<Item = usize>) -> Tensor {
    let values = match &tensor.values {
        Numbers::Floats(values) => Numbers::Floats(places.map(|place| values[place]).collect()),
        Numbers::Ints(values) => Numbers::Ints(places.map(|place| values[place]).collect()),
    };
    Tensor { name: None, dims, values }
}

/// Distance in memory between neighbours along each axis.
fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis];
    }
    strides
}

/// The coordinates of element `index`.
fn coordinates(dims: &[usize], index: usize) -> Vec<usize> {
    strides(dims).iter().zip(dims).map(|(stride, extent)| index / stride % extent).collect()
}

fn binary(
    a: &Tensor,
    b: &Tensor,
    most: usize,
    of_floats: impl Fn(f32, f32) -> f32,
    of_ints: impl Fn(i64, i64) -> i64,
) -> Result<Tensor> {
    let rank = a.dims.len().max(b.dims.len());
    let extent =
        |tensor: &Tensor, axis: usize| (axis + tensor.dims.len()).checked_sub(rank).map_or(1, |axis| tensor.dims[axis]);
    let mut dims = Vec::with_capacity(rank);
    for axis in 0..rank {
        let pair = [extent(a, axis), extent(b, axis)];
        ensure!(pair[0] == pair[1] || pair.contains(&1), "shapes {:?} and {:?} do not fit", a.dims, b.dims);
        dims.push(if pair[0] == 1 { pair[1] } else { pair[0] });
    }
    let count = elements(&dims).filter(|&count| count <= most).context("a constant grows too large")?;
    let place = |tensor: &Tensor, index: usize| -> usize {
        let here = coordinates(&dims, index);
        let own = strides(&tensor.dims);
        let along = |axis: usize| {
            let place = here[axis + rank - tensor.dims.len()];
            if tensor.dims[axis] == 1 { 0 } else { place * own[axis] }
        };
        (0..tensor.dims.len()).map(along).sum()
    };
    let values = match (&a.values, &b.values) {
        (Numbers::Floats(x), Numbers::Floats(y)) => {
            Numbers::Floats((0..count).map(|i| of_floats(x[place(a, i)], y[place(b, i)])).collect())
        }
        (Numbers::Ints(x), Numbers::Ints(y)) => {
            Numbers::Ints((0..count).map(|i| of_ints(x[place(a, i)], y[place(b, i)])).collect())
        }
        _ => bail!("one constant holds integers, the other does not"),
    };
    Ok(Tensor { name: None, dims, values })
}

fn concat(inputs: &[Option<&Tensor>], axis: i64, most: usize) -> Result<Tensor> {
    let parts: Vec<&Tensor> = inputs.iter().copied().flatten().collect();
    let first = parts.first().context("nothing to join")?;
    let axis = normal(&[axis], first.dims.len())?[0];
    let mut dims = first.dims.clone();
    let others = |dims: &[usize]| {
        dims.iter().enumerate().filter(|(place, _)| *place != axis).map(|(_, d)| *d).collect::<Vec<_>>()
    };
    ensure!(
        parts.iter().all(|part| others(&part.dims) == others(&dims) && part.dims.len() == dims.len()),
        "parts do not fit"
    );
    let total: usize = parts.iter().map(|part| length(&part.values)).sum();
    ensure!(total <= most, "a constant grows too large");
    dims[axis] = parts.iter().map(|part| part.dims[axis]).sum();
    let outer: usize = dims[..axis].iter().product();
    let row = |part: &Tensor| part.dims[axis..].iter().product::<usize>();
    let pieces = (0..outer).flat_map(|index| parts.iter().map(move |part| (index, *part)));
    let mut values = Numbers::Ints(Vec::new());
    if matches!(first.values, Numbers::Floats(_)) {
        values = Numbers::Floats(Vec::new());
    }
    for (index, part) in pieces {
        let range = index * row(part)..(index + 1) * row(part);
        match (&mut values, &part.values) {
            (Numbers::Floats(all), Numbers::Floats(some)) => all.extend_from_slice(&some[range]),
            (Numbers::Ints(all), Numbers::Ints(some)) => all.extend_from_slice(&some[range]),
            _ => bail!("one part holds integers, another does not"),
        }
    }
    Ok(Tensor { name: None, dims, values })
}

fn gather(tensor: &Tensor, indices: &Tensor, axis: i64, most: usize) -> Result<Tensor> {
    let axis = normal(&[axis], tensor.dims.len())?[0];
    let extent = tensor.dims[axis];
    let chosen = normal(&whole(indices), extent)?;
    let dims: Vec<usize> = [&tensor.dims[..axis], &indices.dims, &tensor.dims[axis + 1..]].concat();
    let inner: usize = tensor.dims[axis + 1..].iter().product();
    let outer: usize = tensor.dims[..axis].iter().product();
    let count = outer.checked_mul(inner).and_then(|count| count.checked_mul(chosen.len()));
    ensure!(count.is_some_and(|count| count <= most), "a constant grows too large");
    let places = (0..outer)
        .flat_map(|o| chosen.iter().flat_map(move |&index| (0..inner).map(move |i| (o * extent + index) * inner + i)));
    Ok(pick(tensor, dims, places))
}

/// The extents that a reshape asks for: 0 keeps one, −1 is what is left.
pub fn reshaped(dims: &[usize], wanted: &[i64]) -> Result<Vec<usize>> {
    let count: usize = dims.iter().product();
    let mut shape = Vec::with_capacity(wanted.len());
    for (axis, &extent) in wanted.iter().enumerate() {
        shape.push(match extent {
            0 => *dims.get(axis).with_context(|| format!("shape {dims:?} has no extent {axis} to keep"))?,
            -1 => usize::MAX,
            other => usize::try_from(other).ok().with_context(|| format!("{wanted:?} is no shape"))?,
        });
    }
    let mut known = shape.iter().filter(|&&extent| extent != usize::MAX);
    let known = known.try_fold(1usize, |product, &extent| product.checked_mul(extent)).unwrap_or(0);
    shape.iter_mut().filter(|extent| **extent == usize::MAX).for_each(|extent| *extent = count / known.max(1));
    ensure!(elements(&shape) == Some(count), "shape {dims:?} cannot become {wanted:?}");
    Ok(shape)
}

fn reshape(tensor: &Tensor, wanted: &[i64]) -> Result<Tensor> {
    Ok(Tensor { name: None, dims: reshaped(&tensor.dims, wanted)?, values: tensor.values.clone() })
}

fn transpose(tensor: &Tensor, order: Option<Vec<i64>>) -> Result<Tensor> {
    let rank = tensor.dims.len();
    let order = order.map_or_else(|| Ok((0..rank).rev().collect()), |order| normal(&order, rank))?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    ensure!(sorted == (0..rank).collect::<Vec<_>>(), "{order:?} is no order of {rank} axes");
    let dims: Vec<usize> = order.iter().map(|&axis| tensor.dims[axis]).collect();
    let own = strides(&tensor.dims);
    let place = |index: usize| coordinates(&dims, index).iter().zip(&order).map(|(here, &axis)| here * own[axis]).sum();
    let count = length(&tensor.values);
    Ok(pick(tensor, dims.clone(), (0..count).map(place)))
}

fn slice(
    tensor: &Tensor,
    [starts, ends]: [Vec<i64>; 2],
    axes: Option<Vec<i64>>,
    steps: Option<Vec<i64>>,
) -> Result<Tensor> {
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    let places = normal(&axes, tensor.dims.len())?;
    ensure!(
        [ends.len(), places.len(), steps.len()] == [starts.len(); 3],
        "starts, ends, axes and steps are not as many"
    );
    let mut chosen: Vec<Vec<usize>> = tensor.dims.iter().map(|&extent| (0..extent).collect()).collect();
    for (index, axis) in places.into_iter().enumerate() {
        let (extent, step) = (tensor.dims[axis] as i64, steps[index]);
        let from_end = |place: i64| if place < 0 { place.saturating_add(extent) } else { place };
        ensure!(step != 0, "a step is 0");
        let all: Vec<usize> = if step > 0 {
            let (start, end) = (from_end(starts[index]).clamp(0, extent), from_end(ends[index]).clamp(0, extent));
            (start..end).step_by(step as usize).map(|place| place as usize).collect()
        } else {
            let start = from_end(starts[index]).clamp(-1, extent - 1);
            let end = from_end(ends[index]).clamp(-1, extent - 1);
            (end + 1..=start).rev().step_by(step.unsigned_abs() as usize).map(|place| place as usize).collect()
        };
        chosen[axis] = all;
    }
    let dims: Vec<usize> = chosen.iter().map(Vec::len).collect();
    let own = strides(&tensor.dims);
    let place = |index: usize| -> usize {
        coordinates(&dims, index).iter().enumerate().map(|(axis, &here)| chosen[axis][here] * own[axis]).sum()
    };
    let count = dims.iter().product::<usize>();
    Ok(pick(tensor, dims.clone(), (0..count).map(place)))
}
