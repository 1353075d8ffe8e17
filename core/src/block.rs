//! A neighbourhood as data: a bounded graph of standard operators with named weights.
//!
//! A [`Block`] has one input and one output. Value 0 is its input, value `i + 1` the output of node
//! `i`, and the last node's value is the output; a node reads only values before its own. Import,
//! fold, shrink, solve, train and export are all functions of this one type: none knows an
//! architecture. A `Block` that exists is valid: [`Block::new`] infers every shape and refuses
//! weights that do not fit, or that nothing reads.

mod error;

use alloc::{string::String, vec::Vec};
use core::fmt;

use serde::{Deserialize, Serialize};

pub use self::error::BlockError;
use crate::heap::held;

/// Nodes a block can hold: an inverted residual with squeeze-and-excite needs about 20.
pub const MAX_NODES: usize = 32;
/// Largest extent of a channel, height or width dimension; bounds what a shape from outside can cost.
pub const MAX_EXTENT: usize = 1 << 16;
/// Largest number of elements in one value of one image: a group of images stays addressable on 32 bits, too.
pub const MAX_ELEMENTS: usize = if usize::BITS > 32 { 1 << 28 } else { 1 << 22 };

/// A neighbourhood `T_i` or its student `S_i` (Shao et al. 2020, section 3).
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    name: String,
    role: Role,
    input: Shape,
    nodes: Nodes,
    weights: Vec<Weight>,
    /// `shapes[v]` is the shape of value `v`.
    shapes: Vec<Shape>,
}

/// The operators of a block, in execution order.
pub type Nodes = heapless::Vec<Node, MAX_NODES>;

/// Where a block stands in its network. Only neighbourhoods are distilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// What comes before the first neighbourhood.
    Stem,
    /// A sub-network that is distilled on its own.
    Neighbourhood,
    /// What comes after the last neighbourhood.
    Head,
}

/// One operator, the values it reads and the weights it owns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The teacher's name for this layer, without the parameter's suffix (`layer1.0.conv1`).
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Values read: 0 is the block's input, `i + 1` the output of node `i`.
    pub inputs: heapless::Vec<u8, 2>,
    /// Indices into the block's weights, in the order the operator documents.
    pub weights: heapless::Vec<u8, 4>,
}

/// The operators. Values are `[N, C, H, W]`; the shapes below leave out the batch `N`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// 2-D convolution; weights: kernel `[C_out, C_in / groups, K_h, K_w]`, then optionally bias `[C_out]`.
    Conv(Conv),
    /// Batch normalisation; weights: scale, shift, running mean, running variance, all `[C]`.
    BatchNorm {
        /// Added to the variance before the square root.
        epsilon: f32,
    },
    /// `max(x, 0)`.
    Relu,
    /// Elementwise sum of two values of one shape.
    Add,
    /// Every `stride`-th row and column, from the first (the option-A shortcut of He et al. 2015).
    Subsample {
        /// Step in both directions.
        stride: u16,
    },
    /// Zero channels before and after.
    PadChannels {
        /// Zero channels put in front.
        before: u16,
        /// Zero channels put behind.
        after: u16,
    },
    /// Mean over height and width: `[C, H, W]` to `[C, 1, 1]`.
    GlobalAveragePool,
    /// Affine map of `[C, 1, 1]` to `[D, 1, 1]`; weights: `[D, C]`, bias `[D]`.
    Linear,
}

/// Geometry of a convolution; padding and stride are the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv {
    /// Step between output positions.
    pub stride: u16,
    /// Zeros on each side.
    pub padding: u16,
    /// Channel groups: 1 is dense, `C_in` is depthwise.
    pub groups: u16,
}

/// A named tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// The teacher's name for it (`layer1.0.conv1.weight`).
    pub name: String,
    /// Extents, outermost first; one to four of them.
    pub dims: Dims,
    /// Row-major values; as many as the product of `dims`.
    pub data: Vec<f32>,
}

/// Extents of a weight.
pub type Dims = heapless::Vec<u32, 4>;

/// Extents of one image's value at a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Feature channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Block {
    /// Checks the graph and infers the shape of every value.
    ///
    /// # Errors
    /// [`BlockError`] names the first node or weight that does not fit.
    pub fn new(
        name: impl Into<String>,
        role: Role,
        input: Shape,
        nodes: Nodes,
        weights: Vec<Weight>,
    ) -> Result<Self, BlockError> {
        let name = name.into();
        if nodes.is_empty() {
            return Err(BlockError::Empty { block: name });
        }
        for weight in &weights {
            let expected = element_count(&weight.dims).unwrap_or(usize::MAX);
            if expected != weight.data.len() {
                return Err(BlockError::WeightLength {
                    weight: weight.name.clone(),
                    expected,
                    found: weight.data.len(),
                });
            }
            if !weight.data.iter().all(|value| value.is_finite()) {
                return Err(BlockError::WeightValue { weight: weight.name.clone() });
            }
        }
        if !input.is_reasonable() {
            let node = nodes[0].name.clone();
            return Err(BlockError::ValueShape { node, found: input });
        }
        let mut shapes = Vec::with_capacity(nodes.len() + 1);
        shapes.push(input);
        for node in &nodes {
            let shape = node.infer(&shapes, &weights)?;
            if !shape.is_reasonable() {
                let node = node.name.clone();
                return Err(BlockError::ValueShape { node, found: shape });
            }
            shapes.push(shape);
        }
        let unread = |value: usize| nodes.iter().all(|node| node.inputs.iter().all(|&read| usize::from(read) != value));
        let uses = |index: usize| {
            nodes.iter().flat_map(|node| &node.weights).filter(move |&&w| usize::from(w) == index).count()
        };
        let node = (1..nodes.len()).find(|&value| unread(value)).map(|value| &nodes[value - 1].name);
        let weight = (0..weights.len()).find(|&index| uses(index) == 0).map(|index| &weights[index].name);
        if let Some(name) = node.or(weight) {
            return Err(BlockError::Unused { name: name.clone() });
        }
        // Training and folding change a node's weights as its own.
        if let Some(index) = (0..weights.len()).find(|&index| uses(index) > 1) {
            return Err(BlockError::SharedWeight { weight: weights[index].name.clone() });
        }
        Ok(Self { name, role, input, nodes, weights, shapes })
    }

    /// The name its layers share (`layer1.0`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Stem, neighbourhood or head.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Shape of value 0.
    pub fn input(&self) -> Shape {
        self.input
    }

    /// Shape of the last value.
    pub fn output(&self) -> Shape {
        self.shapes[self.nodes.len()]
    }

    /// The operators, in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All weights; nodes refer to them by index.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// The `slot`-th weight of node `node`, or `None` where it has fewer.
    pub fn weight(&self, node: usize, slot: usize) -> Option<&Weight> {
        let index = *self.nodes[node].weights.get(slot)?;
        Some(&self.weights[usize::from(index)])
    }

    /// Shape of value `value` (0 is the input, `i + 1` the output of node `i`).
    pub fn shape(&self, value: usize) -> Shape {
        self.shapes[value]
    }

    /// Whether training may move weight `index`: kernels, biases, batch-norm scales and shifts, not running statistics.
    pub fn is_trained(&self, index: usize) -> bool {
        let statistic = |node: &Node| {
            let slot = node.weights.iter().position(|&w| usize::from(w) == index);
            matches!(node.op, Op::BatchNorm { .. }) && slot.is_some_and(|slot| slot >= 2)
        };
        !self.nodes.iter().any(statistic)
    }

    /// Trained scalars.
    pub fn parameters(&self) -> usize {
        let trained = self.weights.iter().enumerate().filter(|&(index, _)| self.is_trained(index));
        trained.map(|(_, weight)| weight.data.len()).sum()
    }

    /// Multiply-accumulates of the convolutions and linear layers for one image.
    pub fn macs(&self) -> u64 {
        let per_node = |(index, node): (usize, &Node)| match node.op {
            Op::Conv(_) => {
                let positions = self.shape(index + 1).height * self.shape(index + 1).width;
                self.weight(index, 0).map_or(0, |kernel| kernel.data.len() * positions)
            }
            Op::Linear => self.weight(index, 0).map_or(0, |matrix| matrix.data.len()),
            _ => 0,
        };
        self.nodes.iter().enumerate().map(|pair| per_node(pair) as u64).sum()
    }

    /// Whether a batch norm with its running statistics is in it: propagated noise needs them.
    pub fn has_statistics(&self) -> bool {
        self.nodes.iter().any(|node| matches!(node.op, Op::BatchNorm { .. }))
    }

    /// Heap bytes: weights, names and shapes.
    pub fn heap_bytes(&self) -> usize {
        let names: usize = self.nodes.iter().map(|node| node.name.capacity()).sum();
        let of_weight = |weight: &Weight| weight.name.capacity() + held(&weight.data);
        self.name.capacity()
            + names
            + held(&self.shapes)
            + held(&self.weights)
            + self.weights.iter().map(of_weight).sum::<usize>()
    }

    /// The same graph with other weights.
    ///
    /// # Errors
    /// [`BlockError`] if they do not fit the graph.
    pub fn with_weights(&self, weights: Vec<Weight>) -> Result<Self, BlockError> {
        Self::new(self.name.clone(), self.role, self.input, self.nodes.clone(), weights)
    }

    /// Takes the values of its weights, in order: what is left has graph and shapes, until
    /// [`with_values`](Self::with_values) makes it a block again.
    pub(crate) fn take_values(&mut self) -> Vec<Vec<f32>> {
        self.weights.iter_mut().map(|weight| core::mem::take(&mut weight.data)).collect()
    }

    /// The same graph with other values.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub(crate) fn with_values(mut self, values: Vec<Vec<f32>>) -> Result<Self, BlockError> {
        for (weight, values) in self.weights.iter_mut().zip(values) {
            weight.data = values;
        }
        Self::new(self.name, self.role, self.input, self.nodes, self.weights)
    }
}

impl Node {
    /// Shape of this node's output, given the values before it.
    fn infer(&self, shapes: &[Shape], weights: &[Weight]) -> Result<Shape, BlockError> {
        let dangling = || BlockError::DanglingReference { node: self.name.clone() };
        let arity = || BlockError::WrongArity { node: self.name.clone() };
        let input = |slot: usize| -> Result<Shape, BlockError> {
            let value = usize::from(*self.inputs.get(slot).ok_or_else(arity)?);
            shapes.get(value).copied().ok_or_else(dangling)
        };
        let expect = |slot: usize, expected: &[usize]| -> Result<(), BlockError> {
            let index = usize::from(*self.weights.get(slot).ok_or_else(arity)?);
            let weight = weights.get(index).ok_or_else(dangling)?;
            let expected: Dims = expected.iter().map(|&d| d as u32).collect();
            if weight.dims == expected {
                return Ok(());
            }
            Err(BlockError::WeightShape { weight: weight.name.clone(), expected, found: weight.dims.clone() })
        };
        let (inputs, least, most) = match self.op {
            Op::Conv(_) => (1, 1, 2),
            Op::BatchNorm { .. } => (1, 4, 4),
            Op::Add => (2, 0, 0),
            Op::Linear => (1, 2, 2),
            Op::Relu | Op::Subsample { .. } | Op::PadChannels { .. } | Op::GlobalAveragePool => (1, 0, 0),
        };
        if self.inputs.len() != inputs || !(least..=most).contains(&self.weights.len()) {
            return Err(arity());
        }
        let x = input(0)?;
        let misfit = || BlockError::ValueShape { node: self.name.clone(), found: x };
        match &self.op {
            Op::Conv(conv) => {
                let index = usize::from(self.weights[0]);
                let kernel = &weights.get(index).ok_or_else(dangling)?.dims;
                let [out, _, kernel_h, kernel_w] = kernel.as_slice() else {
                    return Err(BlockError::WeightShape {
                        weight: weights[index].name.clone(),
                        expected: [0, 0, 0, 0].into_iter().collect(),
                        found: kernel.clone(),
                    });
                };
                let (out, kernel_h, kernel_w) = (*out as usize, *kernel_h as usize, *kernel_w as usize);
                let (stride, groups) = (usize::from(conv.stride), usize::from(conv.groups));
                // An output position that sees padding only means nothing, and could be made to cost any amount of memory.
                let idle = usize::from(conv.padding) >= kernel_h.min(kernel_w).max(1);
                if idle || stride == 0 || groups == 0 || x.channels % groups != 0 || out % groups != 0 {
                    return Err(misfit());
                }
                expect(0, &[out, x.channels / groups, kernel_h, kernel_w])?;
                if self.weights.len() == 2 {
                    expect(1, &[out])?;
                }
                let padded = 2 * usize::from(conv.padding);
                let extent = |size: usize, kernel: usize| {
                    (size + padded).checked_sub(kernel).filter(|_| kernel > 0).map(|room| room / stride + 1)
                };
                Ok(Shape {
                    channels: out,
                    height: extent(x.height, kernel_h).ok_or_else(misfit)?,
                    width: extent(x.width, kernel_w).ok_or_else(misfit)?,
                })
            }
            Op::BatchNorm { epsilon } => {
                for slot in 0..4 {
                    expect(slot, &[x.channels])?;
                }
                let variance = &weights[usize::from(self.weights[3])];
                if variance.data.iter().any(|&value| value < 0.0) {
                    return Err(BlockError::WeightValue { weight: variance.name.clone() });
                }
                if !epsilon.is_finite() || *epsilon < 0.0 {
                    return Err(misfit());
                }
                Ok(x)
            }
            Op::Relu => Ok(x),
            Op::Add => {
                if input(1)? == x {
                    Ok(x)
                } else {
                    Err(BlockError::ValueShape { node: self.name.clone(), found: input(1)? })
                }
            }
            Op::Subsample { stride: 0 } => Err(misfit()),
            Op::Subsample { stride } => {
                let stride = usize::from(*stride);
                Ok(Shape { height: x.height.div_ceil(stride), width: x.width.div_ceil(stride), ..x })
            }
            Op::PadChannels { before, after } => {
                Ok(Shape { channels: x.channels + usize::from(*before) + usize::from(*after), ..x })
            }
            Op::GlobalAveragePool => Ok(Shape { height: 1, width: 1, ..x }),
            Op::Linear => {
                if x.height != 1 || x.width != 1 {
                    return Err(misfit());
                }
                let index = usize::from(self.weights[0]);
                let out = weights.get(index).ok_or_else(dangling)?.dims.first().copied().unwrap_or(0) as usize;
                expect(0, &[out, x.channels])?;
                expect(1, &[out])?;
                Ok(Shape { channels: out, ..x })
            }
        }
    }
}

impl Weight {
    /// A weight of the given extents.
    pub fn new(name: impl Into<String>, dims: &[usize], data: Vec<f32>) -> Self {
        Self { name: name.into(), dims: dims.iter().map(|&d| d as u32).collect(), data }
    }

    /// The slices at these places of the first two dimensions, in that order; all of them where there is no list.
    pub fn select(&self, keep: [Option<&[usize]>; 2]) -> Self {
        let extent = |axis: usize| self.dims.get(axis).map_or(1, |&d| d as usize);
        let kept = |axis: usize| keep[axis].map_or(extent(axis), <[usize]>::len);
        let places = |axis: usize| (0..kept(axis)).map(move |place| keep[axis].map_or(place, |keep| keep[place]));
        let inner = self.data.len() / (extent(0) * extent(1));
        let mut data = Vec::with_capacity(kept(0) * kept(1) * inner);
        for outer in places(0) {
            for index in places(1) {
                data.extend_from_slice(&self.data[(outer * extent(1) + index) * inner..][..inner]);
            }
        }
        let mut dims = self.dims.clone();
        dims.iter_mut().take(2).enumerate().for_each(|(axis, extent)| *extent = kept(axis) as u32);
        Self { name: self.name.clone(), dims, data }
    }
}

/// Product of the extents, or `None` where it overflows or an extent is 0 or too large.
pub fn element_count(dims: &[u32]) -> Option<usize> {
    dims.iter().try_fold(1usize, |product, &d| {
        let d = d as usize;
        (1..=MAX_EXTENT).contains(&d).then_some(d)?;
        product.checked_mul(d).filter(|&p| p <= MAX_ELEMENTS)
    })
}

impl Shape {
    /// `[channels, height, width]` as one value.
    pub const fn new(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width }
    }

    /// Elements of one image.
    pub const fn elements(self) -> usize {
        self.channels * self.height * self.width
    }

    fn is_reasonable(self) -> bool {
        let dims = [self.channels, self.height, self.width].map(|d| u32::try_from(d).unwrap_or(u32::MAX));
        element_count(&dims).is_some()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}
