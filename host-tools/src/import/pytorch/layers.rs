//! A graph built layer by layer, with the weights that a checkpoint has under PyTorch's names.

use anyhow::{Context, Result, ensure};
use distill_core::{BatchNorm, Conv, Op, Shape, Weight};

use crate::import::{checkpoint::Checkpoint, graph::Graph};

/// PyTorch's batch-norm epsilon, which its checkpoints do not store.
const EPSILON: f32 = 1e-5;

/// Adds a residual block of this name and stride to a value.
type Residual = fn(&mut Layers<'_>, &str, usize, u16) -> Result<usize>;

/// A network under construction from a checkpoint.
pub struct Layers<'a> {
    checkpoint: &'a mut Checkpoint,
    graph: Graph,
    /// Epsilon of the batch norms that are added next.
    pub epsilon: f32,
}

/// Extents of a kernel and of its input along one axis.
struct Axis {
    taps: usize,
    extent: usize,
}

impl<'a> Layers<'a> {
    pub fn new(checkpoint: &'a mut Checkpoint, input: Shape) -> Self {
        Self { checkpoint, graph: Graph::new(input), epsilon: EPSILON }
    }

    pub fn finish(self) -> Graph {
        self.graph
    }

    /// Whether the checkpoint has a tensor that is not used yet.
    pub fn has(&self, tensor: &str) -> bool {
        self.checkpoint.tensors.contains_key(tensor)
    }

    /// An extent of a tensor that is not used yet, 0 if there is none. A kernel's are its output channels, input channels,
    /// rows and columns.
    pub fn extent(&self, tensor: &str, axis: usize) -> usize {
        self.checkpoint.extent(tensor, axis).unwrap_or(0)
    }

    /// [`Checkpoint::modules`] of what is not used yet.
    pub fn modules(&self, prefix: &str, tensor: &str) -> Vec<String> {
        self.checkpoint.modules(prefix, tensor)
    }

    pub fn shape(&self, value: usize) -> Shape {
        self.graph.shape(value)
    }

    pub fn plain(&mut self, name: &str, op: Op, inputs: &[usize]) -> Result<usize> {
        self.graph.push(name, op, inputs, Vec::new())
    }

    /// A convolution that pads by half its kernel on all sides; its kernel's extents give the number of groups.
    pub fn conv(&mut self, name: &str, input: usize, stride: u16) -> Result<usize> {
        self.padded_conv(name, input, stride, |Axis { taps, .. }| [taps.saturating_sub(1) / 2; 2])
    }

    /// A convolution that pads as TensorFlow's `SAME`: an output for each stride of the input, an odd zero at the end.
    pub fn same_conv(&mut self, name: &str, input: usize, stride: u16) -> Result<usize> {
        self.padded_conv(name, input, stride, |Axis { taps, extent }| {
            let step = usize::from(stride);
            let missing = ((extent.div_ceil(step) - 1) * step + taps).saturating_sub(extent);
            [missing / 2, missing - missing / 2]
        })
    }

    /// `padding` gives the zeros at both ends of an axis.
    fn padded_conv(
        &mut self,
        name: &str,
        input: usize,
        stride: u16,
        padding: impl Fn(Axis) -> [usize; 2],
    ) -> Result<usize> {
        let kernel = self.weight(name, "weight")?;
        let &[_, inputs, rows, columns] = kernel.dims.as_slice() else {
            let found = kernel.dims.len();
            return Err(anyhow::anyhow!("tensor {} has {found} dimensions, a convolution's kernel has 4", kernel.name));
        };
        let shape = self.shape(input);
        let groups = shape.channels / (inputs as usize).max(1);
        ensure!(groups > 0, "{name} takes {inputs} channels, but is given {}", shape.channels);
        let along = |taps: u32, extent| padding(Axis { taps: taps as usize, extent }).map(|zeros| zeros as u16);
        let [top, bottom] = along(rows, shape.height);
        let [left, right] = along(columns, shape.width);
        let groups = u16::try_from(groups).with_context(|| format!("{name} has {groups} groups"))?;
        let conv = Conv { padding: [top, left, bottom, right], ..Conv::square(stride, 0).grouped(groups) };
        let mut weights = vec![kernel];
        if self.has(&format!("{name}.bias")) {
            weights.push(self.weight(name, "bias")?);
        }
        self.graph.push(name, Op::Conv(conv), &[input], weights)
    }

    /// Stages of residual blocks `layer<stage>.<block>`, each stage but the first with a stride of 2.
    pub fn residual_stages(&mut self, stages: usize, input: usize, residual: Residual) -> Result<usize> {
        let mut x = input;
        for stage in 1..=stages {
            for (index, name) in self.modules(&format!("layer{stage}."), "conv1.weight").iter().enumerate() {
                x = residual(self, name, x, if stage > 1 && index == 0 { 2 } else { 1 })?;
            }
        }
        Ok(x)
    }

    pub fn norm(&mut self, name: &str, input: usize) -> Result<usize> {
        let parts = ["weight", "bias", "running_mean", "running_var"];
        let weights = parts.into_iter().map(|part| self.weight(name, part)).collect::<Result<_>>()?;
        self.graph.push(name, Op::BatchNorm(BatchNorm { epsilon: self.epsilon }), &[input], weights)
    }

    pub fn linear(&mut self, name: &str, input: usize) -> Result<usize> {
        let weights = vec![self.weight(name, "weight")?, self.weight(name, "bias")?];
        self.graph.push(name, Op::Linear, &[input], weights)
    }

    fn weight(&mut self, layer: &str, part: &str) -> Result<Weight> {
        self.checkpoint.weight(&format!("{layer}.{part}"))
    }
}
