//! PyTorch's layers, by name, onto a graph.

use anyhow::{Context, Result, ensure};
use distill_core::{BatchNorm, Conv, Op, Shape, Weight};

use crate::import::{checkpoint::Checkpoint, graph::Graph};

/// PyTorch's batch-norm epsilon, which its checkpoints do not store.
const EPSILON: f32 = 1e-5;

/// A network under construction from a checkpoint.
pub struct Layers<'a> {
    checkpoint: &'a mut Checkpoint,
    graph: Graph,
    /// Of the batch norms to come.
    pub epsilon: f32,
}

impl<'a> Layers<'a> {
    /// An empty network.
    pub fn new(checkpoint: &'a mut Checkpoint, input: Shape) -> Self {
        Self { checkpoint, graph: Graph::new(input), epsilon: EPSILON }
    }

    /// The network.
    pub fn finish(self) -> Graph {
        self.graph
    }

    /// Whether the checkpoint has this tensor, and it is not used yet.
    pub fn has(&self, tensor: &str) -> bool {
        self.checkpoint.tensors.contains_key(tensor)
    }

    /// An extent of a tensor that is not used yet, 0 where there is none: the channels that a kernel writes and reads, its
    /// rows and its columns.
    pub fn extent(&self, tensor: &str, axis: usize) -> usize {
        self.checkpoint.tensors.get(tensor).and_then(|tensor| tensor.dims.get(axis)).copied().unwrap_or(0)
    }

    /// Shape of a value.
    pub fn shape(&self, value: usize) -> Shape {
        self.graph.shape(value)
    }

    /// An operator without weights.
    pub fn plain(&mut self, name: &str, op: Op, inputs: &[usize]) -> Result<usize> {
        self.graph.push(name, op, inputs, Vec::new())
    }

    /// A convolution; groups follow from the kernel, and it pads by half of that.
    pub fn conv(&mut self, name: &str, input: usize, stride: u16) -> Result<usize> {
        self.padded_conv(name, input, stride, |extent, _| [(extent.saturating_sub(1) / 2) as u16; 2])
    }

    /// A convolution that pads as TensorFlow does: as many positions as strides fit, the odd zero behind.
    pub fn same_conv(&mut self, name: &str, input: usize, stride: u16) -> Result<usize> {
        self.padded_conv(name, input, stride, |extent, size| {
            let step = usize::from(stride);
            let missing = ((size.div_ceil(step) - 1) * step + extent).saturating_sub(size);
            [missing / 2, missing - missing / 2].map(|zeros| zeros as u16)
        })
    }

    /// `padding(extent of the kernel, extent of the input)` is the zeros in front and behind.
    fn padded_conv(
        &mut self,
        name: &str,
        input: usize,
        stride: u16,
        padding: impl Fn(usize, usize) -> [u16; 2],
    ) -> Result<usize> {
        let kernel = self.weight(name, "weight")?;
        let &[_, inputs, rows, columns] = kernel.dims.as_slice() else {
            let found = kernel.dims.len();
            return Err(anyhow::anyhow!("tensor {} has {found} dimensions, a convolution's kernel has 4", kernel.name));
        };
        let shape = self.shape(input);
        let groups = shape.channels / (inputs as usize).max(1);
        ensure!(groups > 0, "{name} takes {inputs} channels, but is given {}", shape.channels);
        let [top, bottom] = padding(rows as usize, shape.height);
        let [left, right] = padding(columns as usize, shape.width);
        let groups = u16::try_from(groups).with_context(|| format!("{name} has {groups} groups"))?;
        let conv = Conv { padding: [top, left, bottom, right], ..Conv::square(stride, 0).grouped(groups) };
        let mut weights = vec![kernel];
        if self.has(&format!("{name}.bias")) {
            weights.push(self.weight(name, "bias")?);
        }
        self.graph.push(name, Op::Conv(conv), &[input], weights)
    }

    /// A batch norm.
    pub fn norm(&mut self, name: &str, input: usize) -> Result<usize> {
        let parts = ["weight", "bias", "running_mean", "running_var"];
        let weights = parts.into_iter().map(|part| self.weight(name, part)).collect::<Result<_>>()?;
        self.graph.push(name, Op::BatchNorm(BatchNorm { epsilon: self.epsilon }), &[input], weights)
    }

    /// A linear layer.
    pub fn linear(&mut self, name: &str, input: usize) -> Result<usize> {
        let weights = vec![self.weight(name, "weight")?, self.weight(name, "bias")?];
        self.graph.push(name, Op::Linear, &[input], weights)
    }

    fn weight(&mut self, layer: &str, part: &str) -> Result<Weight> {
        let name = format!("{layer}.{part}");
        let tensor = self.checkpoint.take(&name)?;
        ensure!((1..=4).contains(&tensor.dims.len()), "tensor {name} has {} dimensions", tensor.dims.len());
        Ok(Weight::new(name, &tensor.dims, tensor.data))
    }
}
