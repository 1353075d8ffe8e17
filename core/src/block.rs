//! A neighbourhood as data: a bounded graph of standard operators with named weights.
//!
//! A [`Block`] has one input and one output. Value 0 is its input, value `i + 1` the output of node `i`, and the last
//! node's value is the output; a node reads only earlier values. Import, fold, shrink, solve, train and export are
//! functions of this one type and contain no architecture-specific code. Every `Block` is valid: [`Block::new`] infers
//! all shapes and rejects weights that do not fit or that no node reads.

mod builder;
mod error;
pub mod op;
mod parts;
mod rewrite;
mod statistics;

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    block::op::Op,
    heap::held,
    tensor::{Shape, Weight, element_count},
};

pub use self::{
    builder::BlockBuilder,
    error::{BlockError, MAX_NODES},
    parts::{MAX_PARTS, Part, Parts},
    rewrite::Change,
    statistics::Statistics,
};

/// A neighbourhood `T_i` or its student `S_i` (Shao et al. 2020, section 3).
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    name: String,
    role: Role,
    input: Shape,
    nodes: Nodes,
    parts: Parts,
    weights: Vec<Weight>,
    /// `shapes[v]` is the shape of value `v`.
    shapes: Vec<Shape>,
}

/// The operators of a block, in execution order.
pub type Nodes = heapless::Vec<Node, MAX_NODES>;

/// The position of a block in its network. Only neighbourhoods are distilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Everything before the first neighbourhood.
    Stem,
    /// A sub-network that is distilled on its own.
    Neighbourhood,
    /// Everything after the last neighbourhood.
    Head,
}

/// One operator with the values it reads and the weights it owns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The layer's name in the teacher, without the parameter suffix (`layer1.0.conv1`).
    pub name: String,
    /// The operator.
    pub op: Op,
    /// Values read: 0 is the block's input, `i + 1` the output of node `i`.
    pub inputs: heapless::Vec<u8, 2>,
    /// Indices into the block's weights, in the order the operator documents.
    pub weights: heapless::Vec<u8, 4>,
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
        let names = nodes.iter().map(|node| &node.name).chain(weights.iter().map(|weight| &weight.name));
        if let Some(name) = core::iter::once(&name).chain(names).find(|name| !is_printable(name)) {
            return Err(BlockError::Name { name: name.clone() });
        }
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
            shapes.push(node.infer(&shapes, &weights)?);
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
        // Training and folding change a node's weights in place, so no two nodes may share one.
        if let Some(index) = (0..weights.len()).find(|&index| uses(index) > 1) {
            return Err(BlockError::SharedWeight { weight: weights[index].name.clone() });
        }
        Ok(Self { name, role, input, nodes, parts: Parts::new(), weights, shapes })
    }

    /// The common prefix of its layers' names (`layer1.0`).
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

    /// The neighbourhoods inside the block, each distilled on its own; empty if the whole block is one neighbourhood.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// All weights; nodes refer to them by index.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// Weight `slot` of node `node`, or `None` if the node has fewer weights.
    pub fn weight(&self, node: usize, slot: usize) -> Option<&Weight> {
        let index = *self.nodes[node].weights.get(slot)?;
        Some(&self.weights[usize::from(index)])
    }

    /// Shape of value `value` (0 is the input, `i + 1` the output of node `i`).
    pub fn shape(&self, value: usize) -> Shape {
        self.shapes[value]
    }

    /// Whether training updates weight `index`: kernels, biases, batch-norm scales and shifts, not running statistics.
    pub fn is_trained(&self, index: usize) -> bool {
        let slot = |node: &Node| node.weights.iter().position(|&weight| usize::from(weight) == index);
        self.nodes.iter().all(|node| slot(node).is_none_or(|slot| node.op.operator().is_trained(slot)))
    }

    /// Number of trainable scalars.
    pub fn parameters(&self) -> usize {
        let trained = self.weights.iter().enumerate().filter(|&(index, _)| self.is_trained(index));
        trained.map(|(_, weight)| weight.data.len()).sum()
    }

    /// Weights of its kernels that are zero.
    pub fn zeros(&self) -> usize {
        self.weights.iter().filter(|weight| weight.is_kernel()).map(Weight::zeros).sum()
    }

    /// Multiply-accumulates per image in convolutions and linear layers.
    pub fn macs(&self) -> u64 {
        let per_node = |(index, node): (usize, &Node)| node.op.macs(&self.weights_of(index), self.shape(index + 1));
        self.nodes.iter().enumerate().map(per_node).sum()
    }

    /// The weights of node `node`, in the order its operator documents.
    pub fn weights_of(&self, node: usize) -> Vec<&Weight> {
        self.nodes[node].weights.iter().map(|&index| &self.weights[usize::from(index)]).collect()
    }

    /// Shapes of the values that node `node` reads.
    pub fn inputs_of(&self, node: usize) -> Vec<Shape> {
        self.nodes[node].inputs.iter().map(|&value| self.shape(value.into())).collect()
    }

    /// Whether the block contains a batch norm, whose running statistics propagated noise needs.
    pub fn has_statistics(&self) -> bool {
        self.nodes.iter().any(|node| matches!(node.op, Op::BatchNorm(_)))
    }

    /// Heap bytes: weights, names and shapes.
    pub fn heap_bytes(&self) -> usize {
        self.graph_bytes() + self.weights.iter().map(|weight| held(&weight.data)).sum::<usize>()
    }

    /// Heap bytes, excluding weight values.
    pub(crate) fn graph_bytes(&self) -> usize {
        let nodes = self.nodes.iter().map(|node| node.name.capacity());
        let names: usize = nodes.chain(self.weights.iter().map(|weight| weight.name.capacity())).sum();
        self.name.capacity() + names + held(&self.shapes) + held(&self.weights)
    }

    /// The same graph with other weights.
    ///
    /// # Errors
    /// [`BlockError`] if the weights do not fit the graph.
    pub fn with_weights(&self, weights: Vec<Weight>) -> Result<Self, BlockError> {
        let block = Self::new(self.name.clone(), self.role, self.input, self.nodes.clone(), weights)?;
        Ok(Self { parts: self.parts.clone(), ..block })
    }

    /// Moves the weight values out, in order, until [`with_values`](Self::with_values) restores the block.
    pub(crate) fn take_values(&mut self) -> Vec<Vec<f32>> {
        self.weights.iter_mut().map(|weight| core::mem::take(&mut weight.data)).collect()
    }

    /// The same graph with other weight values.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub(crate) fn with_values(mut self, values: Vec<Vec<f32>>) -> Result<Self, BlockError> {
        for (weight, values) in self.weights.iter_mut().zip(values) {
            weight.data = values;
        }
        let block = Self::new(self.name, self.role, self.input, self.nodes, self.weights)?;
        Ok(Self { parts: self.parts, ..block })
    }
}

/// Whether a name can be shown on a terminal.
pub(crate) fn is_printable(name: &str) -> bool {
    !name.chars().any(char::is_control)
}

impl Node {
    /// Infers the shape of this node's output from the shapes of all earlier values.
    fn infer(&self, shapes: &[Shape], weights: &[Weight]) -> Result<Shape, BlockError> {
        let dangling = || BlockError::DanglingReference { node: self.name.clone() };
        let inputs: Option<Vec<Shape>> =
            self.inputs.iter().map(|&value| shapes.get(usize::from(value)).copied()).collect();
        let weights: Option<Vec<&Weight>> = self.weights.iter().map(|&index| weights.get(usize::from(index))).collect();
        self.op.shape(&self.name, &inputs.ok_or_else(dangling)?, &weights.ok_or_else(dangling)?)
    }
}
