//! A whole network as one graph, before it is split into blocks.

use anyhow::{Context, Result};
use distill_core::{Op, Shape, Weight};

/// A network of operators in execution order. Value 0 is its input, value `i + 1` the output of node `i`; the last value is
/// the network's output.
#[derive(Clone, Debug)]
pub struct Graph {
    nodes: Vec<GraphNode>,
    shapes: Vec<Shape>,
}

/// An operator, the values it reads and its weights.
#[derive(Clone, Debug)]
pub struct GraphNode {
    /// The teacher's name for the layer (`layer1.0.conv1`).
    pub name: String,
    pub op: Op,
    pub inputs: Vec<usize>,
    /// Weights, in the order the operator documents.
    pub weights: Vec<Weight>,
}

impl Graph {
    /// A network without operators, for images of this shape.
    pub fn new(input: Shape) -> Self {
        Self { nodes: Vec::new(), shapes: vec![input] }
    }

    /// Appends an operator; returns the value that it computes.
    pub fn push(&mut self, name: &str, op: Op, inputs: &[usize], weights: Vec<Weight>) -> Result<usize> {
        let node = GraphNode { name: name.to_owned(), op, inputs: inputs.to_vec(), weights };
        self.shapes.push(self.output_shape(&node)?);
        self.nodes.push(node);
        Ok(self.nodes.len())
    }

    pub fn fits(&self, node: &GraphNode) -> bool {
        self.output_shape(node).is_ok()
    }

    fn output_shape(&self, node: &GraphNode) -> Result<Shape> {
        let shape = |&value: &usize| {
            let shape = self.shapes.get(value).copied();
            shape.with_context(|| format!("{} reads value {value}, which no operator before it computes", node.name))
        };
        let shapes: Vec<Shape> = node.inputs.iter().map(shape).collect::<Result<_>>()?;
        Ok(node.op.shape(&node.name, &shapes, &node.weights.iter().collect::<Vec<_>>())?)
    }

    pub fn pop(&mut self) -> Option<GraphNode> {
        let node = self.nodes.pop()?;
        self.shapes.pop();
        Some(node)
    }

    pub fn nodes(&self) -> &[GraphNode] {
        &self.nodes
    }

    pub fn shape(&self, value: usize) -> Shape {
        self.shapes[value]
    }

    /// The last node that reads each value: `None` if no node does, the number of nodes for the network's output.
    pub fn last_readers(&self) -> Vec<Option<usize>> {
        let mut last = vec![None; self.shapes.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&value| last[value] = Some(index));
        }
        if let Some(output) = last.last_mut() {
            *output = Some(self.nodes.len());
        }
        last
    }

    /// How many operators read each value.
    pub fn readers(&self) -> Vec<usize> {
        let mut readers = vec![0; self.shapes.len()];
        self.nodes.iter().flat_map(|node| &node.inputs).for_each(|&value| readers[value] += 1);
        readers
    }

    pub fn into_nodes(self) -> Vec<GraphNode> {
        self.nodes
    }
}
