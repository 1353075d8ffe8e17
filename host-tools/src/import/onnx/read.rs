//! Networks from `.onnx` files as exporters write them.
//!
//! The batch is the file's, or 1 where the file leaves it open, so every shape is known and shape arithmetic is over constants
//! ([`super::fold_constants`]). Every other operator becomes one of ours for a single image, as its file in
//! `core/src/block/op/` says.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result, anyhow, ensure};
use distill_core::{
    Interface, Op, Shape, SourceKind,
    onnx::{Attribute, Input, OnnxNode, Tensor},
};

use super::{
    CLASSES, MADE_FROM, MEAN, STD,
    arithmetic::FLOATING_POINT,
    attributes::{attribute, attribute_value, kind},
    constants::{Outside, constant, length, tensor, to_ints},
    fold_constants::{ConstantOperator, shape},
    interface::Images,
    names::{self, Names},
    value::Value,
};
use crate::{
    import::{Normalisation, graph::Graph},
    onnx::{GraphProto, NodeProto, ValueInfoProto, decode},
};

/// Elements that computed constants may have beyond the size of what is read: a shape has a few.
const SHAPE_ELEMENTS: usize = 1 << 20;

/// Operators that change nothing in a trained network.
const IDENTITIES: [&str; 4] = ["Identity", "Dropout", "Cast", "CastLike"];
/// Operators that change the extents alone.
const VIEWS: [&str; 4] = ["Flatten", "Reshape", "Squeeze", "Unsqueeze"];

/// What an ONNX file holds.
pub struct OnnxModel {
    /// Its operators.
    pub graph: Graph,
    /// Names and dimensions of its input and output.
    pub interface: Interface,
    /// How its inputs are normalised, if it is a file that we wrote.
    pub normalisation: Option<Normalisation>,
    /// Names of the classes, if it is a file that we wrote.
    pub classes: Vec<String>,
    /// What it was made from, if it is a student that we wrote.
    pub made_from: Option<SourceKind>,
}

/// Reads the bytes of an `.onnx` file. Constants in files of their own are in `folder`; `input` is the shape of an image
/// where the file leaves it open.
///
/// # Errors
/// Not an ONNX file, a network with more than one input or output, or an operator that is not supported: its kind, its
/// name and what it follows.
pub fn read(bytes: &[u8], folder: &Path, input: Option<Shape>) -> Result<OnnxModel> {
    let model = decode(bytes)?;
    let graph = model.graph.as_ref().context("the ONNX file has no graph")?;
    let mut reader = Reader::new(graph, folder, input, bytes.len())?;
    let is_onnx = |domain: &Option<String>| matches!(domain.as_deref().unwrap_or_default(), "" | "ai.onnx");
    let opset = model.opset_import.iter().find(|opset| is_onnx(&opset.domain));
    reader.opset = opset.and_then(|opset| opset.version).unwrap_or(1);
    for (index, node) in graph.node.iter().enumerate() {
        reader.node(node).with_context(|| reader.place(node, index, graph.node.len()))?;
    }
    let (graph, interface) = reader.finish(graph)?;
    let property = |key: &str| {
        let entry = model.metadata_props.iter().find(|entry| entry.key.as_deref() == Some(key));
        entry.and_then(|entry| entry.value.as_deref()).filter(|value| !value.is_empty())
    };
    let normalisation = Normalisation::from_entries(property(MEAN), property(STD))?;
    let classes = property(CLASSES).map_or_else(Vec::new, |list| list.split(',').map(str::to_owned).collect());
    let made_from = property(MADE_FROM).and_then(|kind| serde_json::from_value(kind.into()).ok());
    Ok(OnnxModel { graph, interface, normalisation, classes, made_from })
}

/// A graph of ours that grows node by node.
pub struct Reader<'a> {
    pub(super) graph: Graph,
    outside: Outside<'a>,
    /// Name of the images.
    pub(super) input: &'a str,
    /// Images in a batch.
    pub(super) batch: usize,
    /// Version of ONNX's operators.
    pub(super) opset: i64,
    pub(super) values: HashMap<&'a str, Value>,
    constants: HashMap<&'a str, Tensor>,
    /// Elements that computed constants may still have.
    room: usize,
    /// Elements that the layers' weights may still have: each layer has a copy of its own.
    weights: usize,
    pub(super) names: Names,
}

impl<'a> Reader<'a> {
    fn new(graph: &'a GraphProto, folder: &'a Path, given: Option<Shape>, file_bytes: usize) -> Result<Self> {
        let (mut outside, mut constants) = (Outside::new(folder), HashMap::new());
        for initializer in &graph.initializer {
            constants.insert(initializer.name.as_deref().unwrap_or_default(), tensor(initializer, &mut outside)?);
        }
        // Old files list their weights among the inputs.
        let name = |info: &'a ValueInfoProto| info.name.as_deref().unwrap_or_default();
        let inputs: Vec<&ValueInfoProto> =
            graph.input.iter().filter(|info| !constants.contains_key(name(info))).collect();
        let Images { name: input, shape, batch } = Images::new(&inputs, given)?;
        // Constants may be in other files.
        let read: usize = constants.values().map(|constant| length(&constant.values)).sum();
        Ok(Self {
            graph: Graph::new(shape),
            outside,
            input,
            batch,
            opset: 1,
            values: HashMap::from([(input, Value::new(0, shape, batch, 4))]),
            constants,
            room: file_bytes + read + SHAPE_ELEMENTS,
            weights: file_bytes + read + SHAPE_ELEMENTS,
            names: Names::default(),
        })
    }

    /// The value that an operator reads as input `slot`.
    pub(super) fn value(&self, node: &NodeProto, slot: usize) -> Option<&Value> {
        self.values.get(node.input.get(slot)?.as_str())
    }

    /// A value of our graph as ONNX sees it, with this number of dimensions.
    pub(super) fn new_value(&self, id: usize, rank: usize) -> Value {
        Value::new(id, self.graph.shape(id), self.batch, rank)
    }

    /// The constant that an operator reads as input `slot`.
    pub(super) fn constant(&self, node: &NodeProto, slot: usize) -> Option<&Tensor> {
        self.constants.get(node.input.get(slot)?.as_str())
    }

    fn node(&mut self, node: &'a NodeProto) -> Result<()> {
        let output = node.output.first().map_or("", String::as_str);
        let domain = node.domain.as_deref().unwrap_or_default();
        ensure!(domain.is_empty() || domain == "ai.onnx", "operators of the domain {domain} are not supported");
        if let Some(constant) = self.as_constant(node)? {
            self.constants.insert(output, constant);
            return Ok(());
        }
        if !IDENTITIES.contains(&kind(node)) && !VIEWS.contains(&kind(node)) {
            let mut read = node.input.iter().filter_map(|name| self.values.get(name.as_str()));
            read.try_for_each(Value::check_logits)?;
        }
        let value = match (kind(node), self.value(node, 0).cloned()) {
            (identity, Some(value)) if IDENTITIES.contains(&identity) => {
                self.check_identity(node)?;
                value
            }
            (view, Some(value)) if VIEWS.contains(&view) => self.view(node, &value)?,
            ("Softmax" | "LogSoftmax", Some(logits)) => self.probabilities(node, &logits)?,
            ("Split", Some(value)) => return self.split(node, &value),
            ("Concat" | "Sum", Some(first)) if node.input.len() != 2 => self.join(node, first)?,
            _ => self.operator(node)?,
        };
        self.values.insert(output, value);
        Ok(())
    }

    /// The result of an operator that does not depend on the images.
    fn as_constant(&mut self, node: &'a NodeProto) -> Result<Option<Tensor>> {
        let is_constant = |name: &String| name.is_empty() || self.constants.contains_key(name.as_str());
        match kind(node) {
            "Constant" => return constant(node, &mut self.outside).map(Some),
            "Shape" => {
                let dims = self.value(node, 0).map(|value| &value.dims);
                let dims = dims.or_else(|| self.constant(node, 0).map(|constant| &constant.dims));
                return Ok(Some(shape(node, dims.context("its input is missing")?)));
            }
            // Its second input, which may be a value, only gives the type.
            "CastLike" if self.constant(node, 0).is_some() => {}
            _ if node.input.iter().all(is_constant) => {}
            _ => return Ok(None),
        }
        let fill = node.attribute.iter().find_map(|attribute| attribute.t.as_deref());
        let fill = fill.map(|fill| tensor(fill, &mut self.outside)).transpose()?;
        let inputs: Vec<Option<&Tensor>> = node.input.iter().map(|name| self.constants.get(name.as_str())).collect();
        let operator = ConstantOperator { node, inputs: &inputs, fill, limit: self.room };
        let result = operator.evaluate()?.context("it is not supported over constants")?;
        self.room = self.room.saturating_sub(length(&result.values));
        Ok(Some(result))
    }

    /// Fails for an operator that is only sometimes the identity, and is not here.
    fn check_identity(&self, node: &NodeProto) -> Result<()> {
        let floating = FLOATING_POINT.map(|dtype| Some(Attribute::Int(dtype)));
        ensure!(kind(node) != "Cast" || floating.contains(&attribute(node, "to")), "it makes integers of values");
        let is_training = kind(node) == "Dropout" && self.constant(node, 2).is_some_and(|mode| to_ints(mode) != [0]);
        ensure!(!is_training, "it drops values at random: export the network in evaluation mode");
        Ok(())
    }

    fn operator(&mut self, node: &NodeProto) -> Result<Value> {
        let arguments =
            node.input.iter().map(|name| match (self.values.get(name.as_str()), self.constants.get(name.as_str())) {
                (Some(value), _) => Ok(Input::Value(self.graph.shape(value.id), value.dims.len())),
                (None, Some(constant)) => Ok(Input::Constant(constant)),
                (None, None) if name.is_empty() => Ok(Input::Absent),
                (None, None) => Err(anyhow!("no operator before it computes its input {name}")),
            });
        let attributes = node
            .attribute
            .iter()
            .filter_map(|attribute| Some((attribute.name.as_deref()?, attribute_value(attribute)?)));
        let module = self.module(node);
        let own = node.name.as_deref().unwrap_or(kind(node)).trim_start_matches('/');
        let onnx = OnnxNode {
            kind: kind(node),
            module: if module.is_empty() { own } else { &module },
            inputs: arguments.collect::<Result<_>>()?,
            attributes: attributes.collect(),
        };
        let meaning = Op::from_onnx(&onnx)
            .context("this operator is not supported (docs/add-an-operator.md says how to add it)")??;
        let first = meaning.inputs.first().and_then(|&slot| self.value(node, slot));
        let rank = first.map_or(4, Value::rank);
        let read: Option<Vec<usize>> = meaning.inputs.iter().map(|&slot| Some(self.value(node, slot)?.id)).collect();
        let read = read.context("one of its inputs is a constant where a value is needed")?;
        for &slot in &meaning.inputs {
            self.check_dimensions(node, slot, &meaning.op)?;
        }
        let name = self.names.operator(node, &module, &meaning.op);
        let elements: usize = meaning.weights.iter().map(|weight| weight.data.len()).sum();
        let left = self.weights.checked_sub(elements);
        self.weights = left.context("so many layers share constants that their weights are more than the file")?;
        let weights = meaning.weights.into_iter().map(|weight| self.names.weight(weight, &name)).collect();
        let id = self.graph.push(&name, meaning.op, &read, weights)?;
        let Value { dims, .. } = self.new_value(id, rank);
        let kept = dims.into_iter().enumerate().filter(|(axis, _)| !meaning.dropped.contains(axis));
        Ok(Value { id, dims: kept.map(|(_, extent)| extent).collect(), probabilities: None })
    }

    /// An input must have the dimensions that our operators assume: `[N, C, H, W]`, or `[N, C]` for one position.
    fn check_dimensions(&self, node: &NodeProto, slot: usize, op: &Op) -> Result<()> {
        let Some(value) = self.value(node, slot) else { return Ok(()) };
        let (Shape { channels, height, width }, dims) = (self.graph.shape(value.id), &value.dims);
        let is_image = *dims == [self.batch, channels, height, width];
        let is_flat = *dims == [self.batch, channels] && height * width == 1;
        // With rows and columns as one dimension, the mean over it is the mean over both.
        let is_row = matches!(op, Op::GlobalAveragePool) && dims.len() == 3 && dims[..2] == [self.batch, channels];
        ensure!(is_image || is_flat || is_row, "its input has shape {dims:?}");
        Ok(())
    }

    /// The teacher's name for the layer: from its weight, else from the node's path through PyTorch's modules.
    pub(super) fn module(&self, node: &NodeProto) -> String {
        let weights = node.input.iter().filter_map(|name| self.constants.get(name.as_str())?.name.as_deref());
        let module = weights.filter_map(|name| Some(name.rsplit_once('.')?.0)).next();
        module.map_or_else(|| names::module(node.name.as_deref().unwrap_or_default()), str::to_owned)
    }

    /// Where an operator is, for errors.
    fn place(&self, node: &NodeProto, index: usize, total: usize) -> String {
        let kind = node.op_type.as_deref().unwrap_or("(no kind)");
        let name = node.name.as_deref().filter(|name| !name.is_empty()).unwrap_or("(no name)");
        let shape = |name: &String| Some(self.graph.shape(self.values.get(name.as_str())?.id));
        let input = node.input.iter().find_map(shape).map_or_else(String::new, |shape| format!(" on {shape}"));
        let last = self.graph.nodes().last().map_or("the network's input", |node| &node.name);
        let batch = match self.batch {
            1 => String::new(),
            batch => format!(" (the file is for {batch} images at a time: if that is the cause, export it for one)"),
        };
        format!("operator {kind}, node {name}{input}, number {} of {total}, after {last}{batch}", index + 1)
    }
}
