//! Files that `torch.save` wrote: a pickle, and the values of its tensors beside it.
//!
//! Since PyTorch 1.6 a file is a zip archive without compression: `<name>/data.pkl`, and `<name>/data/<key>` for each
//! storage. Before, it was pickles one after another (a magic number, the protocol, the writer's system, the object, the
//! keys of its storages), and then each storage: its length and its values.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Error, Result, anyhow, ensure};
use half::{bf16, f16};
use rawzip::{CompressionMethod, ZipArchive};

use super::{
    TensorValues, decode,
    pickle::{Pickle, Value},
};
use crate::import::format::foreign_zip;

/// Wrappers around a tensor that a function makes: parameters and subclasses of tensors.
const PARAMETERS: [&str; 2] = ["torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"];
const SUBCLASS: &str = "torch._tensor._rebuild_from_type_v2";
/// The functions that make a tensor of a storage, an offset, a shape and strides.
const TENSORS: [&str; 2] = ["torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"];

/// Extents of a tensor that are read; with more it is no weight.
const MOST_EXTENTS: usize = 8;

/// A file's pickle, and its storages.
pub struct TorchFile<'a> {
    pub pickle: Pickle,
    storages: HashMap<String, &'a [u8]>,
    /// Values that may still be read: as many as the file has bytes, so that tensors that share or repeat a storage's values
    /// cost no more than the file justifies.
    allowance: usize,
}

/// Where a tensor's values are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlace {
    /// `Float`, `Half`, `Long`, …
    pub kind: String,
    key: String,
    offset: usize,
    pub dims: Vec<usize>,
    strides: Vec<usize>,
}

impl TensorPlace {
    pub fn is_floating(&self) -> bool {
        matches!(self.kind.as_str(), "Float" | "Double" | "Half" | "BFloat16")
    }
}

impl<'a> TorchFile<'a> {
    /// Reads a zip archive.
    ///
    /// # Errors
    /// It is damaged, compressed, or no checkpoint: what it is, and what to do.
    pub fn of_zip(bytes: &'a [u8]) -> Result<Self> {
        let archive = ZipArchive::from_slice(bytes).map_err(damaged)?;
        let mut entries = BTreeMap::new();
        let mut directory = archive.entries();
        while let Some(entry) = directory.next_entry().map_err(damaged)? {
            let name = String::from_utf8_lossy(entry.file_path().as_ref()).into_owned();
            let (start, end) = archive.get_entry(entry.wayfinder()).map_err(damaged)?.compressed_data_range();
            let is_plain = entry.compression_method() == CompressionMethod::STORE;
            let content = bytes.get(usize::try_from(start)?..usize::try_from(end)?).filter(|_| is_plain);
            entries.insert(name, content);
        }
        let is_program = entries.keys().any(|name| name.ends_with("/constants.pkl"));
        let pickles = entries.keys().filter(|name| name.ends_with("/data.pkl") && !is_program);
        let pickle = pickles.min_by_key(|name| name.len());
        let Some(folder) = pickle.and_then(|name| name.strip_suffix("data.pkl")).map(str::to_owned) else {
            return Err(foreign_zip(entries.keys().map(String::as_str)));
        };
        let entry = |name: &str| entries.get(&format!("{folder}{name}")).copied().flatten();
        let is_big_endian = entry("byteorder").is_some_and(|order| order.starts_with(b"big"));
        ensure!(!is_big_endian, "it was saved on a big-endian machine: load and save it again on another");
        let pickle = entry("data.pkl")
            .context("it was compressed after it was saved: unpack it, and zip it without compression")?;
        let (pickle, _) = Pickle::read(pickle)?;
        let data = format!("{folder}data/");
        let storages =
            entries.into_iter().filter_map(|(name, content)| Some((name.strip_prefix(&data)?.to_owned(), content?)));
        Ok(Self { pickle, storages: storages.collect(), allowance: bytes.len() })
    }

    /// Reads pickles one after another.
    ///
    /// # Errors
    /// They are cut off or damaged.
    pub fn of_legacy(bytes: &'a [u8]) -> Result<Self> {
        let mut rest = bytes;
        for _ in ["magic number", "protocol", "system"] {
            (_, rest) = Pickle::read(rest)?;
        }
        let (pickle, rest) = Pickle::read(rest)?;
        let (keys, mut rest) = Pickle::read(rest)?;
        let sizes: HashMap<&str, usize> = pickle
            .identifiers()
            .filter_map(|identifier| storage(&pickle, identifier))
            .map(|(kind, key, _)| (key, element_bytes(kind)))
            .collect();
        let mut storages = HashMap::new();
        for &key in keys.elements(keys.root).context("it has no list of storages")? {
            let key = keys.text(key).context("a storage has no name")?;
            let (length, values) = rest.split_first_chunk::<8>().context("the file is cut off")?;
            let elements = usize::try_from(u64::from_le_bytes(*length))?;
            let length = elements.checked_mul(sizes.get(key).copied().unwrap_or(0)).context("the file is damaged")?;
            let (content, following) = values.split_at_checked(length).context("the file is cut off")?;
            storages.insert(key.to_owned(), content);
            rest = following;
        }
        Ok(Self { pickle, storages, allowance: bytes.len() })
    }

    /// Where the tensor is that `value` stands for; `None` if it stands for something else.
    pub fn tensor(&self, value: Value) -> Option<TensorPlace> {
        let pickle = &self.pickle;
        let mut made = pickle.made(value)?;
        if PARAMETERS.contains(&&*made.by) {
            made = pickle.made(*pickle.elements(made.arguments)?.first()?)?;
        }
        let (function, arguments) = match &*made.by {
            SUBCLASS => match pickle.elements(made.arguments)? {
                &[function, _, arguments, ..] => (pickle.global(function)?, arguments),
                _ => return None,
            },
            by => (by, made.arguments),
        };
        let &[stored, offset, dims, strides, ..] = pickle.elements(arguments)? else { return None };
        if !TENSORS.contains(&function) {
            return None;
        }
        let size = |value| match value {
            Value::Int(size) => usize::try_from(size).ok(),
            _ => None,
        };
        let sizes = |value| {
            pickle.elements(value)?.iter().take(MOST_EXTENTS + 1).map(|&value| size(value)).collect::<Option<Vec<_>>>()
        };
        let (kind, key, base) = storage(pickle, pickle.identifier(stored)?)?;
        Some(TensorPlace {
            kind: kind.to_owned(),
            key: key.to_owned(),
            offset: size(offset)?.checked_add(base)?,
            dims: sizes(dims)?,
            strides: sizes(strides)?,
        })
    }

    /// The values of a tensor, in the order of its extents.
    ///
    /// # Errors
    /// Its values are not in the file, or more than the file can hold.
    pub fn values(&mut self, place: &TensorPlace) -> Result<TensorValues> {
        let TensorPlace { kind, key, offset, dims, strides } = place;
        ensure!(
            dims.len() == strides.len() && dims.len() <= MOST_EXTENTS,
            "it has {} extents and {} strides",
            dims.len(),
            strides.len()
        );
        let too_large = || format!("its shape {dims:?} has more values than the file can hold");
        let count = dims.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent)).with_context(too_large)?;
        if count == 0 {
            return Ok(TensorValues { dims: dims.clone(), data: Vec::new() });
        }
        // From the first value to the last: as many as there are, unless the strides jump over others.
        let reach = dims.iter().zip(strides).try_fold(1usize, |reach, (&extent, &stride)| {
            reach.checked_add(extent.saturating_sub(1).checked_mul(stride)?)
        });
        let reach = reach.with_context(too_large)?;
        self.allowance = self.allowance.checked_sub(count.max(reach)).with_context(too_large)?;
        let size = element_bytes(kind);
        let bytes = self.storages.get(key).copied().context("its values are missing")?;
        let start = offset.checked_mul(size).and_then(|start| bytes.get(start..));
        let bytes = start.and_then(|bytes| bytes.get(..reach * size));
        let bytes = bytes.context("its values end early: the file is cut off or damaged")?;
        let stored = match kind.as_str() {
            "Float" => decode(bytes, f32::from_le_bytes),
            "Half" => decode(bytes, |b| f16::from_le_bytes(b).to_f32()),
            "BFloat16" => decode(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            _ => decode(bytes, |b| f64::from_le_bytes(b) as f32),
        };
        let mut row_major = 1;
        let mut is_row_major = true;
        for (&extent, &stride) in dims.iter().zip(strides).rev() {
            is_row_major &= extent == 1 || stride == row_major;
            row_major *= extent;
        }
        let data = if is_row_major { stored } else { gather(&stored, count, dims, strides) };
        Ok(TensorValues { dims: dims.clone(), data })
    }
}

fn damaged(error: impl std::fmt::Display) -> Error {
    anyhow!("the file is cut off or damaged: {error}")
}

/// The values of a view with these strides, in the order of its extents.
fn gather(stored: &[f32], count: usize, dims: &[usize], strides: &[usize]) -> Vec<f32> {
    let place = |mut index: usize| {
        let mut place = 0;
        for (extent, stride) in dims.iter().zip(strides).rev() {
            place += index % extent * stride;
            index /= extent;
        }
        place
    };
    (0..count).map(|index| stored[place(index)]).collect()
}

/// Kind, key and first element of the storage that a persistent identifier names.
fn storage(pickle: &Pickle, identifier: Value) -> Option<(&str, &str, usize)> {
    let elements = pickle.elements(identifier)?;
    let &[tag, class, key, ..] = elements else { return None };
    let class = pickle.global(class)?.rsplit('.').next()?;
    // Before PyTorch 0.4, a storage could be a view: its key, the first element and the length.
    let base = match elements.get(5).and_then(|&view| pickle.elements(view)) {
        Some(&[_, Value::Int(base), ..]) => base.try_into().ok()?,
        _ => 0,
    };
    (pickle.text(tag)? == "storage").then_some((class.strip_suffix("Storage")?, pickle.text(key)?, base))
}

/// Size of an element of a storage; 0 if the kind is unknown.
fn element_bytes(kind: &str) -> usize {
    match kind {
        "Char" | "Byte" | "Bool" | "QInt8" | "QUInt8" => 1,
        "Half" | "BFloat16" | "Short" => 2,
        "Float" | "Int" | "QInt32" => 4,
        "Double" | "Long" | "ComplexFloat" => 8,
        "ComplexDouble" => 16,
        _ => 0,
    }
}
