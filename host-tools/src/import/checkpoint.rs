//! Weights by name, from files that `torch.save` wrote and from `.safetensors` files.

mod pickle;
mod state_dict;
mod torch_file;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use distill_core::Weight;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use self::torch_file::TorchFile;
use super::format::Format;

/// Tensors that count something: in batch norms, in running averages of weights, and thop's counts of operations.
const COUNTERS: [&str; 4] = ["num_batches_tracked", "n_averaged", "total_ops", "total_params"];

/// The floating-point tensors of a file, and its metadata if it has any.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// By name, as the file has it. Counters are left out, and a pruned weight is multiplied with its mask.
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
    /// Reads a file; its content says what it is, whatever its ending.
    ///
    /// # Errors
    /// The file is missing, damaged, or no checkpoint: what it is then, and what to do.
    pub fn read(path: &Path) -> Result<Self> {
        let read = || {
            let (format, bytes) = Format::read(path)?;
            Self::of(format, &bytes)
        };
        read().with_context(|| format!("cannot import {}", path.display()))
    }

    /// Reads the bytes of a file of this format.
    pub(super) fn of(format: Format, bytes: &[u8]) -> Result<Self> {
        match format {
            Format::TorchZip => Self::from_torch(TorchFile::of_zip(bytes)?),
            Format::TorchLegacy => Self::from_torch(TorchFile::of_legacy(bytes)?),
            Format::Safetensors => Self::from_safetensors(bytes),
            Format::Onnx => bail!("it is a network in ONNX, not weights alone"),
        }
    }

    /// Reads the bytes of a safetensors file.
    ///
    /// # Errors
    /// Not such a file.
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
                _ => continue, // counters and masks
            };
            tensors.insert(name.to_owned(), TensorValues { dims: view.shape().to_vec(), data });
        }
        Self { tensors, metadata }.cleaned()
    }

    fn from_torch(mut file: TorchFile<'_>) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (name, place) in state_dict::find(&file)?.into_iter().filter(|(_, place)| place.is_floating()) {
            let values = file.values(&place).with_context(|| format!("tensor {name}"))?;
            tensors.insert(name, values);
        }
        Self { tensors, metadata: HashMap::new() }.cleaned()
    }

    /// Without counters, and with pruned weights multiplied with their masks (`torch.nn.utils.prune`).
    fn cleaned(mut self) -> Result<Self> {
        let last = |name: &str| name.rsplit('.').next().is_some_and(|part| COUNTERS.contains(&part));
        self.tensors.retain(|name, tensor| !tensor.dims.is_empty() && !last(name));
        let pruned = self.tensors.keys().filter_map(|name| name.strip_suffix("_orig").map(str::to_owned));
        for name in pruned.collect::<Vec<_>>() {
            let Some(mask) = self.tensors.remove(&format!("{name}_mask")) else { continue };
            let mut weight = self.take(&format!("{name}_orig"))?;
            ensure!(weight.dims == mask.dims, "tensor {name}_orig and its mask have different shapes");
            weight.data.iter_mut().zip(&mask.data).for_each(|(value, mask)| *value *= mask);
            self.tensors.insert(name, weight);
        }
        Ok(self)
    }

    /// Leaves out a prefix of the tensors' names.
    pub(super) fn strip(&mut self, prefix: &str) {
        let tensors = std::mem::take(&mut self.tensors);
        let stripped = |name: String| name.strip_prefix(prefix).map(str::to_owned).unwrap_or(name);
        self.tensors = tensors.into_iter().map(|(name, tensor)| (stripped(name), tensor)).collect();
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

/// Numbers of `B` bytes each.
pub(super) fn decode<const B: usize, T>(bytes: &[u8], value: impl Fn([u8; B]) -> T) -> Vec<T> {
    bytes.as_chunks::<B>().0.iter().map(|chunk| value(*chunk)).collect()
}
