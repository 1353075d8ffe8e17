//! Networks from `.onnx` files as exporters write them.
//!
//! The batch is taken to be 1, so every shape is known and shape arithmetic is over constants ([`super::evaluate`]). Every
//! other operator becomes one of ours, as its file in `core/src/op/` says.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result, anyhow, bail, ensure};
use distill_core::{
    Op, Shape, Slice, SourceKind,
    onnx::{Attribute, Input, Numbers, OnnxNode, Tensor},
};
use rten_onnx::onnx::{GraphProto, ModelProto, NodeProto, ValueInfoProto};

use super::{
    CLASSES, MADE_FROM, MEAN, STD,
    attributes::{attribute, attribute_value, int, ints, kind},
    constants::{constant, length, tensor, to_ints},
    fold_constants::{ConstantOperator, FLOATING_POINT, reshaped, shape},
    names::{self, Names},
};
use crate::import::{Normalisation, graph::Graph};

/// Elements that computed constants may have beyond the file's size: a shape has a few.
const SHAPE_ELEMENTS: usize = 1 << 20;

/// What an ONNX file holds.
pub struct OnnxModel {
    /// Its operators.
    pub graph: Graph,
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
    let model = ModelProto::parse_buf(bytes).map_err(|error| anyhow!("it is not an ONNX file: {error}"))?;
    let graph = model.graph.as_ref().context("the ONNX file has no graph")?;
    let mut reader = Reader::new(graph, folder, input, bytes.len())?;
    for (index, node) in graph.node.iter().enumerate() {
        reader.node(node).with_context(|| reader.place(node, index, graph.node.len()))?;
    }
    let graph = reader.finish(graph)?;
    let property = |key: &str| {
        let entry = model.metadata_props.iter().find(|entry| entry.key.as_deref() == Some(key));
        entry.and_then(|entry| entry.value.as_deref()).filter(|value| !value.is_empty())
    };
    let normalisation = Normalisation::from_entries(property(MEAN), property(STD))?;
    let classes = property(CLASSES).map_or_else(Vec::new, |list| list.split(',').map(str::to_owned).collect());
    let made_from = property(MADE_FROM).and_then(|kind| serde_json::from_value(kind.into()).ok());
    Ok(OnnxModel { graph, normalisation, classes, made_from })
}

/// A value of the network as ONNX sees it.
#[derive(Clone, Debug)]
struct Value {
    id: usize,
    /// Extents, with the batch of 1.
    dims: Vec<usize>,
}

impl Value {
    /// A value whose dimensions are `[1, C]` if it is flat, else `[1, C, H, W]`.
    fn new(id: usize, shape: Shape, is_flat: bool) -> Self {
        let Shape { channels, height, width } = shape;
        Self { id, dims: if is_flat { vec![1, channels] } else { vec![1, channels, height, width] } }
    }

    fn is_flat(&self) -> bool {
        self.dims.len() == 2
    }
}

struct Reader<'a> {
    graph: Graph,
    folder: &'a Path,
    values: HashMap<&'a str, Value>,
    constants: HashMap<&'a str, Tensor>,
    /// Elements that computed constants may still have.
    room: usize,
    names: Names,
}

impl<'a> Reader<'a> {
    fn new(graph: &'a GraphProto, folder: &'a Path, input: Option<Shape>, file_bytes: usize) -> Result<Self> {
        let mut constants = HashMap::new();
        for initializer in &graph.initializer {
            constants.insert(initializer.name.as_deref().unwrap_or_default(), tensor(initializer, folder)?);
        }
        // Old files list their weights among the inputs.
        let name = |info: &'a ValueInfoProto| info.name.as_deref().unwrap_or_default();
        let inputs: Vec<&ValueInfoProto> =
            graph.input.iter().filter(|info| !constants.contains_key(name(info))).collect();
        let [image] = inputs.as_slice() else {
            let names: Vec<&str> = inputs.iter().map(|info| name(info)).collect();
            bail!("the network has {} inputs ({}); it must have one, the images", names.len(), names.join(", "));
        };
        let shape = image_shape(image, input)?;
        Ok(Self {
            graph: Graph::new(shape),
            folder,
            values: HashMap::from([(name(image), Value::new(0, shape, false))]),
            constants,
            room: file_bytes + SHAPE_ELEMENTS,
            names: Names::default(),
        })
    }

    /// The value that an operator reads as input `slot`.
    fn value(&self, node: &NodeProto, slot: usize) -> Option<&Value> {
        self.values.get(node.input.get(slot)?.as_str())
    }

    /// The constant that an operator reads as input `slot`.
    fn constant(&self, node: &NodeProto, slot: usize) -> Option<&Tensor> {
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
        let value = match (kind(node), self.value(node, 0).cloned()) {
            ("Identity" | "Dropout" | "Cast" | "CastLike", Some(value)) => {
                self.check_identity(node)?;
                value
            }
            ("Flatten" | "Reshape" | "Squeeze" | "Unsqueeze", Some(value)) => self.view(node, &value)?,
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
            "Constant" => return constant(node, self.folder).map(Some),
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
        let fill = node.attribute.iter().find_map(|attribute| attribute.t.as_ref());
        let fill = fill.map(|fill| tensor(fill, self.folder)).transpose()?;
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
        let is_flat = meaning.flat.unwrap_or_else(|| first.is_some_and(Value::is_flat));
        let read: Option<Vec<usize>> = meaning.inputs.iter().map(|&slot| Some(self.value(node, slot)?.id)).collect();
        let read = read.context("one of its inputs is a constant where a value is needed")?;
        for &slot in &meaning.inputs {
            self.check_dimensions(node, slot, &meaning.op)?;
        }
        let name = self.names.operator(node, &module, &meaning.op);
        let weights = meaning.weights.into_iter().map(|weight| self.names.weight(weight, &name)).collect();
        let id = self.graph.push(&name, meaning.op, &read, weights)?;
        Ok(Value::new(id, self.graph.shape(id), is_flat))
    }

    /// An input must have the dimensions that our operators assume: `[1, C, H, W]`, or `[1, C]` for one position.
    fn check_dimensions(&self, node: &NodeProto, slot: usize, op: &Op) -> Result<()> {
        let Some(Value { id, dims }) = self.value(node, slot) else { return Ok(()) };
        let Shape { channels, height, width } = self.graph.shape(*id);
        let is_image = *dims == [1, channels, height, width];
        let is_flat = *dims == [1, channels] && height * width == 1;
        // With rows and columns as one dimension, the mean over it is the mean over both.
        let is_row = matches!(op, Op::GlobalAveragePool) && dims.len() == 3 && dims[..2] == [1, channels];
        ensure!(is_image || is_flat || is_row, "its input has shape {dims:?}");
        Ok(())
    }

    /// The same elements in other dimensions.
    fn view(&mut self, node: &NodeProto, value: &Value) -> Result<Value> {
        let dims = match kind(node) {
            "Flatten" => {
                let axis = int(node, "axis").unwrap_or(1);
                ensure!(
                    axis == 1 || axis + value.dims.len() as i64 == 1,
                    "it flattens from axis {axis} on, not from 1"
                );
                vec![1, value.dims[1..].iter().product()]
            }
            "Reshape" => {
                let wanted = self.constant(node, 1).context("its shape is computed from the images' values")?;
                reshaped(&value.dims, &to_ints(wanted))?
            }
            // Axes are squeezed in a value as in a constant of its extents.
            _ => {
                let stand_in = Tensor { name: None, dims: value.dims.clone(), values: Numbers::Ints(Vec::new()) };
                let inputs = [Some(&stand_in), self.constant(node, 1)];
                let squeezed = ConstantOperator { node, inputs: &inputs, fill: None, limit: 0 }.evaluate()?;
                squeezed.context("it is not supported")?.dims
            }
        };
        let Shape { channels, height, width } = self.graph.shape(value.id);
        let elements = channels * height * width;
        let id = match dims.as_slice() {
            [1, c, rest @ ..]
                if *c == channels && rest.len() <= 2 && rest.iter().product::<usize>() == height * width =>
            {
                ensure!(rest.len() < 2 || rest == [height, width], "it changes rows and columns to {dims:?}");
                value.id
            }
            [1, c] | [1, c, 1, 1] if *c == elements => {
                let name = self.names.operator(node, &self.module(node), &Op::Flatten);
                self.graph.push(&name, Op::Flatten, &[value.id], Vec::new())?
            }
            _ => bail!("it reshapes {:?} to {dims:?}, which is more than a flattening", value.dims),
        };
        Ok(Value { id, dims })
    }

    /// Parts of a value's channels.
    fn split(&mut self, node: &'a NodeProto, value: &Value) -> Result<()> {
        let axis = int(node, "axis").unwrap_or(0);
        ensure!(axis == 1 || axis == 1 - value.dims.len() as i64, "it splits along axis {axis}, not along channels");
        let channels = self.graph.shape(value.id).channels;
        let sizes = self.constant(node, 1).map(to_ints).or_else(|| ints(node, "split"));
        let equal = channels.div_ceil(node.output.len().max(1)) as i64;
        let mut start = 0;
        for (index, output) in node.output.iter().enumerate() {
            let size = sizes.as_ref().map_or(equal, |sizes| sizes.get(index).copied().unwrap_or(0));
            let size = usize::try_from(size).context("a part has no channels")?;
            let end = (start + size).min(channels);
            let slice = Slice {
                start: [start as u32, 0, 0],
                end: [if end == channels { u32::MAX } else { end as u32 }, u32::MAX, u32::MAX],
                step: [1; 3],
            };
            let name = self.names.operator(node, &self.module(node), &Op::Slice(slice));
            let id = self.graph.push(&name, Op::Slice(slice), &[value.id], Vec::new())?;
            self.values.insert(output, Value::new(id, self.graph.shape(id), value.is_flat()));
            start = end;
        }
        Ok(())
    }

    /// A concatenation or a sum of any number of values, two at a time.
    fn join(&mut self, node: &NodeProto, first: Value) -> Result<Value> {
        let mut joined = first;
        for slot in 1..node.input.len() {
            let next = self.value(node, slot).cloned().context("it joins values and constants")?;
            let op = match (kind(node), attribute(node, "axis")) {
                ("Sum", _) => Op::Add,
                (_, Some(Attribute::Int(axis))) if axis == 1 || axis == 1 - joined.dims.len() as i64 => Op::Concat,
                (_, axis) => bail!("it joins along axis {axis:?}, not along channels"),
            };
            let name = self.names.operator(node, &self.module(node), &op);
            ensure!(joined.dims.len() == next.dims.len(), "its values have different numbers of dimensions");
            let id = self.graph.push(&name, op, &[joined.id, next.id], Vec::new())?;
            joined = Value::new(id, self.graph.shape(id), joined.is_flat());
        }
        Ok(joined)
    }

    /// The teacher's name for the layer: from its weight, else from the node's path through PyTorch's modules.
    fn module(&self, node: &NodeProto) -> String {
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
        format!("operator {kind}, node {name}{input}, number {} of {total}, after {last}", index + 1)
    }

    fn finish(self, graph: &GraphProto) -> Result<Graph> {
        let names: Vec<&str> = graph.output.iter().filter_map(|info| info.name.as_deref()).collect();
        let [output] = names.as_slice() else {
            bail!("the network has {} outputs ({}); it must have one, the logits", names.len(), names.join(", "));
        };
        let value = self.values.get(output).with_context(|| format!("no operator computes the output {output}"))?;
        let mut graph = self.graph;
        // A graph's output is its last value.
        while graph.nodes().len() > value.id {
            graph.pop();
        }
        ensure!(!graph.nodes().is_empty(), "the network has no operators");
        Ok(graph)
    }
}

/// Shape of an image; the batch may be anything.
fn image_shape(info: &ValueInfoProto, given: Option<Shape>) -> Result<Shape> {
    let name = info.name.as_deref().unwrap_or_default();
    let shape = info.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()?.shape.as_ref());
    let dims: Vec<Option<usize>> = shape.map_or_else(Vec::new, |shape| {
        let extent =
            |value: Option<i64>| value.and_then(|value| usize::try_from(value).ok()).filter(|&extent| extent > 0);
        shape.dim.iter().map(|dim| extent(dim.dim_value)).collect()
    });
    if let Some(given) = given {
        let fits = |(dim, extent): (&Option<usize>, usize)| dim.is_none_or(|dim| dim == extent);
        let wanted = [given.channels, given.height, given.width];
        let ok = dims.is_empty() || dims.len() == 4 && dims[1..].iter().zip(wanted).all(fits);
        ensure!(ok, "the input {name} has shape {dims:?}, not {given}");
        return Ok(given);
    }
    match dims.as_slice() {
        [_, Some(channels), Some(height), Some(width)] => Ok(Shape::new(*channels, *height, *width)),
        [_, _, _, _] | [] => {
            bail!("the file leaves the shape of the input {name} open: give it with --input 3x224x224")
        }
        other => bail!("the input {name} has {} dimensions; images have 4", other.len()),
    }
}
