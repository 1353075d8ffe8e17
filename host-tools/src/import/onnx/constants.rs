//! The constants of an ONNX file.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use distill_core::onnx::{Attribute, Numbers, Tensor};
use half::{bf16, f16};

use super::{attributes::attribute_value, names};
use crate::{
    import::checkpoint::decode,
    onnx::{DataLocation, DataType, NodeProto, TensorProto},
};

/// Dimensions of a constant; operators over constants take time for each.
const MOST_DIMENSIONS: usize = 16;
/// Largest extent of a constant, which bounds what computing with it can cost.
const MAX_EXTENT: usize = 1 << 28;
/// The same for a constant without elements.
const MAX_EXTENT_OF_EMPTY: usize = 1 << 16;

/// How often the bytes of a file beside the model may be read, on average: constants may share some.
const MOST_SHARING: u64 = 4;

/// The files beside a model that hold its large constants.
pub struct Outside<'a> {
    folder: &'a Path,
    /// Bytes that may still be read of each.
    left: HashMap<PathBuf, u64>,
}

/// A constant as the file holds it; large ones may be in a file of their own.
pub fn tensor(proto: &TensorProto, outside: &mut Outside<'_>) -> Result<Tensor> {
    let name = proto.name.clone().unwrap_or_default();
    let context = || format!("constant {name}");
    let dims: Option<Vec<usize>> = proto.dims.iter().map(|&extent| usize::try_from(extent).ok()).collect();
    let dims = dims.with_context(context)?;
    let is_outside = proto.data_location() == DataLocation::External;
    let read = is_outside.then(|| outside.bytes(proto).with_context(context)).transpose()?;
    let values = match (read.as_deref().or(proto.raw_data.as_deref()), proto.data_type()) {
        (Some(raw), DataType::Float) => Numbers::Floats(decode(raw, f32::from_le_bytes)),
        (Some(raw), DataType::Double) => Numbers::Floats(decode(raw, |bytes| f64::from_le_bytes(bytes) as f32)),
        (Some(raw), DataType::Float16) => Numbers::Floats(decode(raw, |bytes| f16::from_le_bytes(bytes).to_f32())),
        (Some(raw), DataType::Bfloat16) => Numbers::Floats(decode(raw, |bytes| bf16::from_le_bytes(bytes).to_f32())),
        (Some(raw), DataType::Int64) => Numbers::Ints(decode(raw, i64::from_le_bytes)),
        (Some(raw), DataType::Int32) => Numbers::Ints(decode(raw, |bytes| i32::from_le_bytes(bytes).into())),
        (Some(raw), DataType::Bool | DataType::Uint8) => Numbers::Ints(raw.iter().map(|&byte| byte.into()).collect()),
        (Some(raw), DataType::Int8) => Numbers::Ints(raw.iter().map(|&byte| i64::from(byte as i8)).collect()),
        (None, DataType::Float) => Numbers::Floats(proto.float_data.clone()),
        (None, DataType::Double) => Numbers::Floats(proto.double_data.iter().map(|&value| value as f32).collect()),
        (None, DataType::Int64) => Numbers::Ints(proto.int64_data.clone()),
        // The bits of a half number, each in an integer of its own.
        (None, DataType::Float16) => Numbers::Floats(halves(proto, |bits| f16::from_bits(bits).to_f32())),
        (None, DataType::Bfloat16) => Numbers::Floats(halves(proto, |bits| bf16::from_bits(bits).to_f32())),
        (None, DataType::Int32 | DataType::Bool | DataType::Uint8 | DataType::Int8) => {
            Numbers::Ints(proto.int32_data.iter().map(|&value| value.into()).collect())
        }
        (_, other) => bail!("constant {name} has type {other:?}, which is not supported"),
    };
    let found = length(&values);
    ensure!(elements(&dims) == Some(found), "constant {name} of shape {dims:?} has {found} values");
    Ok(Tensor { name: names::is_chosen(&name).then_some(name), dims, values })
}

fn halves(proto: &TensorProto, value: fn(u16) -> f32) -> Vec<f32> {
    proto.int32_data.iter().map(|&bits| value(bits as u16)).collect()
}

impl<'a> Outside<'a> {
    /// Files in the model's folder.
    pub fn new(folder: &'a Path) -> Self {
        Self { folder, left: HashMap::new() }
    }

    /// The bytes of a constant that is stored in another file.
    fn bytes(&mut self, proto: &TensorProto) -> Result<Vec<u8>> {
        let entry = |key: &str| {
            let entry = proto.external_data.iter().find(|entry| entry.key.as_deref() == Some(key));
            entry.and_then(|entry| entry.value.as_deref())
        };
        let number = |key: &str| entry(key).map(str::parse::<u64>).transpose().with_context(|| format!("its {key}"));
        let location = Path::new(entry("location").context("its values are in another file, which is not named")?);
        // A model must not name files outside its folder; `./` is the folder itself.
        let is_inside = location.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        ensure!(is_inside, "its values are in {}, outside the model's folder", location.display());
        let named = self.folder.join(location);
        let place = || format!("its values are in {}", named.display());
        let path = named.canonicalize().with_context(place)?;
        // The folder of a bare name is empty.
        let folder = Path::new(".").join(self.folder).canonicalize().with_context(place)?;
        ensure!(
            path.starts_with(&folder),
            "{}, which is a link to {}, outside the model's folder: copy that file there",
            place(),
            path.display()
        );
        ensure!(path.is_file(), "{}, which is no regular file", place());
        let mut file = File::open(&path).with_context(place)?;
        let (offset, size) = (number("offset")?.unwrap_or(0), file.metadata()?.len());
        let length = number("length")?.unwrap_or(size.saturating_sub(offset));
        ensure!(
            offset.checked_add(length).is_some_and(|end| end <= size),
            "{} ends before its values",
            named.display()
        );
        let left = self.left.entry(path).or_insert(size.saturating_mul(MOST_SHARING));
        *left = left.checked_sub(length).with_context(|| {
            format!("{}, whose bytes are those of more than {MOST_SHARING} constants each", place())
        })?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(length).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// The value of a `Constant` operator.
pub fn constant(node: &NodeProto, outside: &mut Outside<'_>) -> Result<Tensor> {
    let attribute = node.attribute.first().context("it has no value")?;
    if let Some(proto) = attribute.t.as_deref() {
        return Ok(Tensor { name: None, ..tensor(proto, outside)? });
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
    if dims.len() > MOST_DIMENSIONS {
        return None;
    }
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
