//! Named tensors from a file of weights: `.pth`, `.pt`, `.th` (PyTorch) and `.safetensors`.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use pytorch_reader::{DType, PytorchReader};
use safetensors::{Dtype, SafeTensors};

/// The floating-point tensors of a file, and its metadata if it has any.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// By name, without a leading `module.`.
    pub tensors: BTreeMap<String, TensorValues>,
    /// Free text entries (safetensors).
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
    /// Reads a file by its ending.
    ///
    /// # Errors
    /// The file is missing, foreign or damaged, or its ending is not known.
    pub fn read(path: &Path) -> Result<Self> {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let context = || format!("cannot import {}", path.display());
        match ending {
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
    /// They are none, or hold a type that is not floating-point.
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

    /// Takes the tensor `name`.
    ///
    /// # Errors
    /// It is missing: names the nearest there is.
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
}

fn read_pytorch(path: &Path) -> Result<Checkpoint> {
    // A bare state dict has no top-level key; training scripts put theirs under "state_dict".
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
    ensure!(!tensors.is_empty(), "the file holds no floating-point tensors");
    Ok(Checkpoint { tensors, metadata: HashMap::new() })
}

fn insert(tensors: &mut BTreeMap<String, TensorValues>, name: &str, dims: Vec<usize>, data: Vec<f32>) {
    // DataParallel puts "module." before every name.
    let name = name.strip_prefix("module.").unwrap_or(name).to_owned();
    tensors.insert(name, TensorValues { dims, data });
}

fn decode<const B: usize>(bytes: &[u8], value: impl Fn([u8; B]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<B>().0.iter().map(|chunk| value(*chunk)).collect()
}
