//! The constants of an ONNX file.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Component, Path},
};

use anyhow::{Context, Result, bail, ensure};
use distill_core::onnx::{Attribute, Numbers, Tensor};
use half::{bf16, f16};
use rten_onnx::onnx::{DataLocation, DataType, NodeProto, TensorProto};

use super::{attributes::attribute_value, names};
use crate::import::checkpoint::decode;

/// Largest extent of a constant, which bounds what computing with it can cost.
const MAX_EXTENT: usize = 1 << 28;
/// The same for a constant without elements.
const MAX_EXTENT_OF_EMPTY: usize = 1 << 16;

/// A constant as the file holds it; large ones may be in a file of their own in `folder`.
pub fn tensor(proto: &TensorProto, folder: &Path) -> Result<Tensor> {
    let name = proto.name.clone().unwrap_or_default();
    let context = || format!("constant {name}");
    let dims: Option<Vec<usize>> = proto.dims.iter().map(|&extent| usize::try_from(extent).ok()).collect();
    let dims = dims.with_context(context)?;
    let kind = proto.data_type.unwrap_or(DataType(0));
    let raw = match &proto.raw_data {
        _ if proto.data_location == Some(DataLocation::EXTERNAL) => {
            Some(external_bytes(proto, folder).with_context(context)?)
        }
        raw => raw.as_ref().map(|raw| raw.borrow().clone()),
    };
    let values = match (raw, kind) {
        (Some(raw), DataType::FLOAT) => Numbers::Floats(decode(&raw, f32::from_le_bytes)),
        (Some(raw), DataType::DOUBLE) => Numbers::Floats(decode(&raw, |bytes| f64::from_le_bytes(bytes) as f32)),
        (Some(raw), DataType::FLOAT16) => Numbers::Floats(decode(&raw, |bytes| f16::from_le_bytes(bytes).to_f32())),
        (Some(raw), DataType::BFLOAT16) => Numbers::Floats(decode(&raw, |bytes| bf16::from_le_bytes(bytes).to_f32())),
        (Some(raw), DataType::INT64) => Numbers::Ints(decode(&raw, i64::from_le_bytes)),
        (Some(raw), DataType::INT32) => Numbers::Ints(decode(&raw, |bytes| i32::from_le_bytes(bytes).into())),
        (Some(raw), DataType::BOOL | DataType::UINT8) => Numbers::Ints(raw.into_iter().map(i64::from).collect()),
        (Some(raw), DataType::INT8) => Numbers::Ints(raw.into_iter().map(|byte| i64::from(byte as i8)).collect()),
        (None, DataType::FLOAT) => Numbers::Floats(proto.float_data.clone()),
        (None, DataType::DOUBLE) => Numbers::Floats(proto.double_data.iter().map(|&value| value as f32).collect()),
        (None, DataType::INT64) => Numbers::Ints(proto.int64_data.clone()),
        // The bits of a half number, each in an integer of its own.
        (None, DataType::FLOAT16) => Numbers::Floats(halves(proto, |bits| f16::from_bits(bits).to_f32())),
        (None, DataType::BFLOAT16) => Numbers::Floats(halves(proto, |bits| bf16::from_bits(bits).to_f32())),
        (None, DataType::INT32 | DataType::BOOL | DataType::UINT8 | DataType::INT8) => {
            Numbers::Ints(proto.int32_data.iter().map(|&value| value.into()).collect())
        }
        (_, other) => bail!("constant {name} has type {other}, which is not supported"),
    };
    let found = length(&values);
    ensure!(elements(&dims) == Some(found), "constant {name} of shape {dims:?} has {found} values");
    Ok(Tensor { name: names::is_chosen(&name).then_some(name), dims, values })
}

fn halves(proto: &TensorProto, value: fn(u16) -> f32) -> Vec<f32> {
    proto.int32_data.iter().map(|&bits| value(bits as u16)).collect()
}

/// The bytes of a constant that is stored in another file.
fn external_bytes(proto: &TensorProto, folder: &Path) -> Result<Vec<u8>> {
    let entry = |key: &str| {
        let entry = proto.external_data.iter().find(|entry| entry.key.as_deref() == Some(key));
        entry.and_then(|entry| entry.value.as_deref())
    };
    let number = |key: &str| entry(key).map(str::parse::<u64>).transpose().with_context(|| format!("its {key}"));
    let location = Path::new(entry("location").context("its values are in another file, which is not named")?);
    // A model must not name files outside its folder; `./` is the folder itself.
    let is_inside = location.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    ensure!(is_inside, "its values are in {}, outside the model's folder", location.display());
    let path = folder.join(location);
    let mut file = File::open(&path).with_context(|| format!("its values are in {}", path.display()))?;
    let (offset, size) = (number("offset")?.unwrap_or(0), file.metadata()?.len());
    let length = number("length")?.unwrap_or(size.saturating_sub(offset));
    ensure!(offset.checked_add(length).is_some_and(|end| end <= size), "{} ends before its values", path.display());
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The value of a `Constant` operator.
pub fn constant(node: &NodeProto, folder: &Path) -> Result<Tensor> {
    let attribute = node.attribute.first().context("it has no value")?;
    if let Some(proto) = &attribute.t {
        return Ok(Tensor { name: None, ..tensor(proto, folder)? });
    }
    let (dims, values) = match attribute_value(attribute) {
        Some(Attribute::Int(value)) => (vec![], Numbers::Ints(vec![value])),
        Some(Attribute::Float(value)) => (vec![], Numbers::Floats(vec![value])),
        Some(Attribute::Ints(values)) => (vec![values.len()], Numbers::Ints(values)),
        _ if !attribute.floats.is_empty() => (vec![attribute.floats.len()], Numbers::Floats(attribute.floats.clone())),
        _ => bail!("the type of its value is not supported"),
    };
    Ok(Tensor { name: None, dims, values })
}

/// Number of elements of a shape; `None` if an extent is too large, or the elements cannot be counted.
pub fn elements(dims: &[usize]) -> Option<usize> {
    // Strides are computed for empty shapes too, so their product must not overflow either.
    let product = dims.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent.max(1)))?;
    let is_empty = dims.contains(&0);
    let limit = if is_empty { MAX_EXTENT_OF_EMPTY } else { MAX_EXTENT };
    let fits = dims.iter().all(|&extent| extent <= limit);
    fits.then_some(if is_empty { 0 } else { product })
}

/// Distance in memory between neighbours along each axis.
pub fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis];
    }
    strides
}

pub fn length(values: &Numbers) -> usize {
    match values {
        Numbers::Floats(values) => values.len(),
        Numbers::Ints(values) => values.len(),
    }
}

/// The values as integers, floating-point ones without their fraction.
pub fn to_ints(tensor: &Tensor) -> Vec<i64> {
    match &tensor.values {
        Numbers::Ints(values) => values.clone(),
        Numbers::Floats(values) => values.iter().map(|&value| value as i64).collect(),
    }
}
