//! A graph built layer by layer, with the weights that a checkpoint has under PyTorch's names.

use anyhow::{Context, Result, ensure};
use distill_core::{Activation, BatchNorm, Conv, Op, Shape, Weight};

use crate::import::{checkpoint::Checkpoint, graph::Graph};

/// PyTorch's batch-norm epsilon, which its checkpoints do not store.
const EPSILON: f32 = 1e-5;

/// A network under construction from a checkpoint.
pub struct Layers<'a> {
    checkpoint: &'a mut Checkpoint,
    graph: Graph,
    /// Epsilon of the batch norms that are added next.
    pub epsilon: f32,
    /// Padding of the convolutions that are added next.
    pub padding: Padding,
}

/// How convolutions pad their inputs.
#[derive(Clone, Copy, Debug)]
pub enum Padding {
    /// By half the kernel on all sides.
    Half,
    /// As TensorFlow's `SAME`: an output for each stride of the input, an odd zero at the end.
    Same,
}

impl Padding {
    /// The zeros at both ends of an axis.
    fn zeros(self, taps: usize, extent: usize, stride: usize) -> [u16; 2] {
        let zeros = match self {
            Self::Half => [taps.saturating_sub(1) / 2; 2],
            Self::Same => {
                let missing = ((extent.div_ceil(stride).max(1) - 1) * stride + taps).saturating_sub(extent);
                [missing / 2, missing - missing / 2]
            }
        };
        zeros.map(|zeros| zeros as u16)
    }
}

/// A convolution and the batch norm behind it.
pub struct Normed {
    pub conv: String,
    pub norm: String,
    pub stride: u16,
}

impl<'a> Layers<'a> {
    pub fn new(checkpoint: &'a mut Checkpoint, input: Shape) -> Self {
        Self { checkpoint, graph: Graph::new(input), epsilon: EPSILON, padding: Padding::Half }
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

    /// A convolution; its kernel's extents give the number of groups.
    pub fn conv(&mut self, name: &str, input: usize, stride: u16) -> Result<usize> {
        let kernel = self.weight(name, "weight")?;
        let &[_, inputs, rows, columns] = kernel.dims.as_slice() else {
            let found = kernel.dims.len();
            return Err(anyhow::anyhow!("tensor {} has {found} dimensions, a convolution's kernel has 4", kernel.name));
        };
        let shape = self.shape(input);
        let groups = shape.channels / (inputs as usize).max(1);
        ensure!(groups > 0, "{name} takes {inputs} channels, but is given {}", shape.channels);
        let [top, bottom] = self.padding.zeros(rows as usize, shape.height, stride.into());
        let [left, right] = self.padding.zeros(columns as usize, shape.width, stride.into());
        let groups = u16::try_from(groups).with_context(|| format!("{name} has {groups} groups"))?;
        let conv = Conv { padding: [top, left, bottom, right], ..Conv::square(stride, 0).grouped(groups) };
        let mut weights = vec![kernel];
        if self.has(&format!("{name}.bias")) {
            weights.push(self.weight(name, "bias")?);
        }
        self.graph.push(name, Op::Conv(conv), &[input], weights)
    }

    /// Convolution, batch norm, activation.
    pub fn activated(&mut self, layer: &Normed, input: usize, activation: Op) -> Result<usize> {
        let x = self.conv(&layer.conv, input, layer.stride)?;
        let x = self.norm(&layer.norm, x)?;
        self.plain(&format!("{}.activation", layer.norm), activation, &[x])
    }

    /// Convolutions with ReLU6 between them and not behind the last, and a shortcut where the shape stays (Sandler et al.
    /// 2018).
    pub fn inverted_residual(&mut self, name: &str, input: usize, convs: &[Normed]) -> Result<usize> {
        let mut x = input;
        for (index, layer) in convs.iter().enumerate() {
            if index + 1 < convs.len() {
                x = self.activated(layer, x, Op::Activation(Activation::RELU6))?;
            } else {
                x = self.conv(&layer.conv, x, layer.stride)?;
                x = self.norm(&layer.norm, x)?;
            }
        }
        if self.shape(input) != self.shape(x) {
            return Ok(x);
        }
        self.plain(&format!("{name}.add"), Op::Add, &[x, input])
    }

    pub fn norm(&mut self, name: &str, input: usize) -> Result<usize> {
        let parts = ["weight", "bias", "running_mean", "running_var"];
        let weights = parts.into_iter().map(|part| self.weight(name, part)).collect::<Result<_>>()?;
        self.graph.push(name, Op::BatchNorm(BatchNorm { epsilon: self.epsilon }), &[input], weights)
    }

    /// A linear layer. A kernel that covers its whole input, as timm's VGG has it, is a matrix as well.
    pub fn linear(&mut self, name: &str, input: usize) -> Result<usize> {
        let mut matrix = self.weight(name, "weight")?;
        if let &[outputs, ..] = matrix.dims.as_slice() {
            let inputs = matrix.data.len() / (outputs as usize).max(1);
            matrix = Weight::new(&matrix.name, &[outputs as usize, inputs], matrix.data);
        }
        let weights = vec![matrix, self.weight(name, "bias")?];
        self.graph.push(name, Op::Linear, &[input], weights)
    }

    fn weight(&mut self, layer: &str, part: &str) -> Result<Weight> {
        self.checkpoint.weight(&format!("{layer}.{part}"))
    }
}
