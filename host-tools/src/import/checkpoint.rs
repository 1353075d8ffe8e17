//! Weights by name, from PyTorch checkpoints (`.pth`, `.pt`, `.th`) and `.safetensors` files.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use distill_core::Weight;
use half::{bf16, f16};
use pytorch_reader::{DType, PytorchReader};
use safetensors::{Dtype, SafeTensors};

use crate::network::ending;

/// The floating-point tensors of a file, and its metadata if it has any.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// By name, without the prefix `module.`.
    pub tensors: BTreeMap<String, TensorValues>,
    /// Text entries (safetensors only).
    pub metadata: HashMap<String, String>,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorValues {
    /// Extents, outermost first.
    pub dims: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

impl Checkpoint {
    /// Reads a file, in the format that its ending names.
    ///
    /// # Errors
    /// The file is missing or damaged, or its ending is unknown.
    pub fn read(path: &Path) -> Result<Self> {
        let context = || format!("cannot import {}", path.display());
        match ending(path) {
            "pth" | "pt" | "th" => read_pytorch(path).with_context(context),
            "safetensors" => {
                let bytes = std::fs::read(path).with_context(context)?;
                Self::from_safetensors(&bytes).with_context(context)
            }
            other => {
                bail!("cannot import {}: unknown ending {other:?} (known: th, pth, pt, safetensors)", path.display())
            }
        }
    }

    /// Reads the bytes of a safetensors file.
    ///
    /// # Errors
    /// Not such a file, or a tensor that is not floating-point.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let mut tensors = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(bytes)?.iter() {
            let data = match view.dtype() {
                Dtype::F32 => decode(view.data(), f32::from_le_bytes),
                Dtype::F16 => decode(view.data(), |b| f16::from_le_bytes(b).to_f32()),
                Dtype::BF16 => decode(view.data(), |b| bf16::from_le_bytes(b).to_f32()),
                Dtype::F64 => decode(view.data(), |b| f64::from_le_bytes(b) as f32),
                Dtype::I64 => continue, // counters such as num_batches_tracked
                other => bail!("tensor {name} has type {other:?}, which is not a floating-point type"),
            };
            insert(&mut tensors, name, view.shape().to_vec(), data);
        }
        Ok(Self { tensors, metadata })
    }

    /// An extent of a tensor; `None` if there is no such tensor or axis.
    pub fn extent(&self, tensor: &str, axis: usize) -> Option<usize> {
        self.tensors.get(tensor)?.dims.get(axis).copied()
    }

    /// The modules `<prefix>0`, `<prefix>1`, … up to the first without the tensor `<module>.<tensor>`.
    pub fn modules(&self, prefix: &str, tensor: &str) -> Vec<String> {
        let names = (0..).map(|index| format!("{prefix}{index}"));
        names.take_while(|name| self.tensors.contains_key(&format!("{name}.{tensor}"))).collect()
    }

    /// Takes the tensor `name`.
    ///
    /// # Errors
    /// It is missing: the error names the most similar name in the file.
    pub fn take(&mut self, name: &str) -> Result<TensorValues> {
        if let Some(tensor) = self.tensors.remove(name) {
            return Ok(tensor);
        }
        match self.tensors.iter().min_by_key(|(other, _)| strsim::osa_distance(name, other)) {
            Some((other, tensor)) => {
                bail!("tensor {name} is missing; the nearest name in the file is {other} with shape {:?}", tensor.dims)
            }
            None => bail!("tensor {name} is missing; the file has no tensors left"),
        }
    }

    /// Takes the tensor `name` as a weight of a block.
    ///
    /// # Errors
    /// It is missing, or has no dimensions or more than 4.
    pub fn weight(&mut self, name: &str) -> Result<Weight> {
        let TensorValues { dims, data } = self.take(name)?;
        ensure!((1..=4).contains(&dims.len()), "tensor {name} has {} dimensions", dims.len());
        Ok(Weight::new(name, &dims, data))
    }
}

fn read_pytorch(path: &Path) -> Result<Checkpoint> {
    // Training scripts store the state dict under this key; a bare one has no key.
    let reader = PytorchReader::with_top_level_key(path, "state_dict").or_else(|_| PytorchReader::new(path))?;
    let mut tensors = BTreeMap::new();
    for (name, tensor) in reader.tensors() {
        let bytes = || tensor.read().with_context(|| format!("tensor {name}"));
        let data = match tensor.dtype() {
            DType::F32 => decode(&bytes()?, f32::from_le_bytes),
            DType::F16 => decode(&bytes()?, |b| f16::from_le_bytes(b).to_f32()),
            DType::BF16 => decode(&bytes()?, |b| bf16::from_le_bytes(b).to_f32()),
            DType::F64 => decode(&bytes()?, |b| f64::from_le_bytes(b) as f32),
            _ => continue, // counters such as num_batches_tracked
        };
        insert(&mut tensors, name, tensor.shape().to_vec(), data);
    }
    ensure!(!tensors.is_empty(), "the file has no floating-point tensors");
    Ok(Checkpoint { tensors, metadata: HashMap::new() })
}

fn insert(tensors: &mut BTreeMap<String, TensorValues>, name: &str, dims: Vec<usize>, data: Vec<f32>) {
    // DataParallel adds it to every name.
    let name = name.strip_prefix("module.").unwrap_or(name).to_owned();
    tensors.insert(name, TensorValues { dims, data });
}

/// Numbers of `B` bytes each.
pub(super) fn decode<const B: usize, T>(bytes: &[u8], value: impl Fn([u8; B]) -> T) -> Vec<T> {
    bytes.as_chunks::<B>().0.iter().map(|chunk| value(*chunk)).collect()
}
