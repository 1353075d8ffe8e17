//! Networks from `.onnx` files as exporters write them.
//!
//! The batch is taken to be 1, so that every shape is known and shape arithmetic is constants; what it computes is not
//! kept. Everything else becomes an operator of ours, through the words of `core/src/op/`.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result, anyhow, bail, ensure};
use distill_core::{
    Op, Shape, Slice, Weight,
    onnx::{Attribute, Input, Numbers, OnnxNode, Tensor},
};
use rten_onnx::onnx::{AttributeProto, AttributeType, GraphProto, ModelProto, NodeProto, ValueInfoProto};

use super::{CLASSES, MEAN, STD, constants};
use crate::import::graph::Graph;

/// Elements that constants may grow by beyond the file's size: shapes are a few numbers long.
const SHAPE_ELEMENTS: usize = 1 << 20;

/// What an ONNX file holds.
pub struct OnnxModel {
    /// Its operators.
    pub graph: Graph,
    /// Mean and deviation, as a file that we wrote tells them.
    pub normalisation: Option<[String; 2]>,
    /// Names of the classes, as a file that we wrote tells them.
    pub classes: Vec<String>,
}

/// Reads the bytes of an `.onnx` file; constants that lie beside it are in `folder`. `input` is the shape of an image where
/// the file leaves it open.
///
/// # Errors
/// No such file, a network with more than one input or output, or an operator that we do not know: its kind, its name and
/// what it follows.
pub fn read(bytes: &[u8], folder: &Path, input: Option<Shape>) -> Result<OnnxModel> {
    let model = ModelProto::parse_buf(bytes).map_err(|error| anyhow!("it is no ONNX file: {error}"))?;
    let property = |key: &str| {
        let entry = model.metadata_props.iter().find(|entry| entry.key.as_deref() == Some(key));
        entry.and_then(|entry| entry.value.clone()).filter(|value| !value.is_empty())
    };
    let normalisation = property(MEAN).zip(property(STD)).map(|(mean, std)| [mean, std]);
    let classes = property(CLASSES).map_or_else(Vec::new, |list| list.split(',').map(str::to_owned).collect());
    let graph = model.graph.as_ref().context("the ONNX file has no graph")?;
    let mut reader = Reader::new(graph, folder, input, bytes.len())?;
    for (index, node) in graph.node.iter().enumerate() {
        reader.node(node).with_context(|| reader.place(node, index, graph.node.len()))?;
    }
    let graph = reader.finish(graph)?;
    Ok(OnnxModel { graph, normalisation, classes })
}

/// A value of the network as ONNX sees it.
#[derive(Clone, Debug)]
struct Value {
    /// In the graph.
    id: usize,
    /// Extents, the batch of 1 included.
    dims: Vec<usize>,
}

struct Reader<'a> {
    graph: Graph,
    folder: &'a Path,
    values: HashMap<&'a str, Value>,
    constants: HashMap<&'a str, Tensor>,
    /// Elements that constants may still grow by.
    room: usize,
    /// Names of weights and operators that are taken, each with how often it was asked for.
    used: HashMap<String, usize>,
}

impl<'a> Reader<'a> {
    fn new(graph: &'a GraphProto, folder: &'a Path, input: Option<Shape>, size: usize) -> Result<Self> {
        let mut constants = HashMap::new();
        for initializer in &graph.initializer {
            constants.insert(initializer.name.as_deref().unwrap_or_default(), constants::tensor(initializer, folder)?);
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
        let value = Value { id: 0, dims: vec![1, shape.channels, shape.height, shape.width] };
        Ok(Self {
            graph: Graph::new(shape),
            folder,
            values: HashMap::from([(name(image), value)]),
            constants,
            room: size + SHAPE_ELEMENTS,
            used: HashMap::new(),
        })
    }

    fn node(&mut self, node: &'a NodeProto) -> Result<()> {
        let kind = node.op_type.as_deref().unwrap_or_default();
        let output = node.output.first().map_or("", String::as_str);
        let domain = node.domain.as_deref().unwrap_or_default();
        ensure!(domain.is_empty() || domain == "ai.onnx", "operators of the domain {domain} are not supported");
        if kind == "Constant" {
            self.constants.insert(output, constant(node, self.folder)?);
            return Ok(());
        }
        let known = |name: &String| name.is_empty() || self.constants.contains_key(name.as_str());
        if kind != "Shape" && node.input.iter().all(known) {
            let inputs: Vec<Option<&Tensor>> =
                node.input.iter().map(|name| self.constants.get(name.as_str())).collect();
            let filling = node.attribute.iter().find_map(|attribute| attribute.t.as_ref());
            let filling = filling.map(|tensor| constants::tensor(tensor, self.folder)).transpose()?;
            let found = constants::evaluate(kind, &inputs, |name| attribute_of(node, name), filling, self.room)?;
            let found = found.context("it is not supported over constants")?;
            self.room = self.room.saturating_sub(constants::length(&found.values));
            self.constants.insert(output, found);
            return Ok(());
        }
        let value = |slot: usize| node.input.get(slot).and_then(|name| self.values.get(name.as_str()));
        match (kind, value(0).cloned()) {
            ("Shape", _) => {
                let dims = value(0).map(|value| value.dims.clone());
                let dims = dims.or_else(|| self.constants.get(node.input.first()?.as_str()).map(|c| c.dims.clone()));
                let int = |name: &str, missing| match attribute_of(node, name) {
                    Some(Attribute::Int(value)) => value,
                    _ => missing,
                };
                let dims = dims.context("its input is missing")?;
                self.constants.insert(output, constants::shape(&dims, int("start", 0), int("end", i64::MAX)));
                Ok(())
            }
            ("Identity" | "Dropout" | "Cast" | "CastLike", Some(value)) => {
                let floating = [1, 10, 11, 16].map(|kind| Some(Attribute::Int(kind)));
                ensure!(kind != "Cast" || floating.contains(&attribute_of(node, "to")), "it makes integers of values");
                let training = node.input.get(2).and_then(|name| self.constants.get(name.as_str()));
                let training = kind == "Dropout" && training.is_some_and(|mode| constants::whole(mode) != [0]);
                ensure!(!training, "it drops values at random: export the network in evaluation mode");
                self.values.insert(output, value);
                Ok(())
            }
            ("Flatten" | "Reshape" | "Squeeze" | "Unsqueeze", Some(value)) => self.view(node, kind, output, value),
            ("CastLike", None) => {
                let constant = node.input.first().and_then(|name| self.constants.get(name.as_str()));
                let constant = constant.cloned().context("its input is missing")?;
                self.constants.insert(output, Tensor { name: None, ..constant });
                Ok(())
            }
            ("Split", Some(value)) => self.split(node, value),
            ("Concat" | "Sum", Some(_)) if node.input.len() != 2 => self.many(node, kind, output),
            _ => {
                let value = self.operator(node, kind, &node.input)?;
                self.values.insert(output, value);
                Ok(())
            }
        }
    }

    /// One operator of ours.
    fn operator(&mut self, node: &NodeProto, kind: &str, inputs: &[String]) -> Result<Value> {
        let arguments =
            inputs.iter().map(|name| match (self.values.get(name.as_str()), self.constants.get(name.as_str())) {
                (Some(value), _) => Ok(Input::Value(self.graph.shape(value.id), value.dims.len())),
                (None, Some(constant)) => Ok(Input::Constant(constant)),
                (None, None) if name.is_empty() => Ok(Input::Absent),
                (None, None) => Err(anyhow!("its input {name} is computed by nothing before it")),
            });
        let attributes = node
            .attribute
            .iter()
            .filter_map(|attribute| Some((attribute.name.as_deref()?, attribute_value(attribute)?)));
        let module = self.module(node);
        let own = node.name.as_deref().unwrap_or(kind).trim_start_matches('/');
        let onnx = OnnxNode {
            kind,
            module: if module.is_empty() { own } else { &module },
            inputs: arguments.collect::<Result<_>>()?,
            attributes: attributes.collect(),
        };
        let meaning = Op::from_onnx(&onnx)
            .context("this operator is not supported (docs/add-an-operator.md says how to add it)")??;
        let first = meaning.inputs.first().and_then(|&slot| self.values.get(inputs[slot].as_str()));
        let flat = meaning.flat.unwrap_or_else(|| first.is_some_and(|value| value.dims.len() == 2));
        let read: Option<Vec<usize>> =
            meaning.inputs.iter().map(|&slot| Some(self.values.get(inputs[slot].as_str())?.id)).collect();
        let read = read.context("one of its inputs is a constant where a value is needed")?;
        for &slot in &meaning.inputs {
            self.usual(&inputs[slot], &meaning.op)?;
        }
        let name = self.operator_name(node, &module, &meaning.op);
        let weights = meaning.weights.into_iter().map(|weight| self.own(weight, &name)).collect();
        let id = self.graph.push(&name, meaning.op, &read, weights)?;
        let Shape { channels, height, width } = self.graph.shape(id);
        Ok(Value { id, dims: if flat { vec![1, channels] } else { vec![1, channels, height, width] } })
    }

    /// A value must lie as we hold it: `[1, C, H, W]`, or `[1, C]` of one position.
    fn usual(&self, name: &str, op: &Op) -> Result<()> {
        let Some(value) = self.values.get(name) else { return Ok(()) };
        let Shape { channels, height, width } = self.graph.shape(value.id);
        let whole = value.dims == [1, channels, height, width];
        // The mean over what is left of a value in fewer dimensions is the mean over rows and columns.
        let means = matches!(op, Op::GlobalAveragePool);
        let fewer = means && value.dims.len() == 3 && value.dims[..2] == [1, channels];
        ensure!(
            whole || fewer || value.dims == [1, channels] && height * width == 1,
            "its input has shape {:?}",
            value.dims
        );
        Ok(())
    }

    /// The same elements in other dimensions.
    fn view(&mut self, node: &'a NodeProto, kind: &str, output: &'a str, value: Value) -> Result<()> {
        let constant = |slot: usize| node.input.get(slot).and_then(|name| self.constants.get(name.as_str()));
        let rank = value.dims.len() as i64;
        let axes = || {
            constant(1).map(constants::whole).or_else(|| match attribute_of(node, "axes") {
                Some(Attribute::Ints(axes)) => Some(axes),
                _ => None,
            })
        };
        let dims = match kind {
            "Flatten" => {
                let axis = match attribute_of(node, "axis") {
                    Some(Attribute::Int(axis)) => axis,
                    _ => 1,
                };
                ensure!(axis == 1 || axis + rank == 1, "it flattens from axis {axis} on, not from 1");
                vec![1, value.dims[1..].iter().product()]
            }
            "Reshape" => {
                let wanted = constant(1).context("its shape is computed from the images' values")?;
                constants::reshaped(&value.dims, &constants::whole(wanted))?
            }
            // As of a constant of those extents.
            _ => {
                let stand_in = Tensor { name: None, dims: value.dims.clone(), values: Numbers::Ints(Vec::new()) };
                let axes = axes().map(constants::ints);
                let found = constants::evaluate(kind, &[Some(&stand_in), axes.as_ref()], |_| None, None, 0)?;
                found.context("it is not supported")?.dims
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
                let name = self.operator_name(node, &self.module(node), &Op::Flatten);
                self.graph.push(&name, Op::Flatten, &[value.id], Vec::new())?
            }
            _ => bail!("it reshapes {:?} to {dims:?}, which is more than a flattening", value.dims),
        };
        self.values.insert(output, Value { id, dims });
        Ok(())
    }

    /// Parts of a value's channels.
    fn split(&mut self, node: &'a NodeProto, value: Value) -> Result<()> {
        let axis = match attribute_of(node, "axis") {
            Some(Attribute::Int(axis)) => axis,
            _ => 0,
        };
        ensure!(axis == 1 || axis == 1 - value.dims.len() as i64, "it splits along axis {axis}, not along channels");
        let channels = self.graph.shape(value.id).channels;
        let sizes = node.input.get(1).and_then(|name| self.constants.get(name.as_str())).map(constants::whole);
        let sizes = sizes.or_else(|| match attribute_of(node, "split") {
            Some(Attribute::Ints(sizes)) => Some(sizes),
            _ => None,
        });
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
            let name = self.operator_name(node, &self.module(node), &Op::Slice(slice));
            let id = self.graph.push(&name, Op::Slice(slice), &[value.id], Vec::new())?;
            self.values.insert(output, self.value_like(id, &value));
            start = end;
        }
        Ok(())
    }

    /// A concatenation or a sum of any number of values, two at a time.
    fn many(&mut self, node: &'a NodeProto, kind: &str, output: &'a str) -> Result<()> {
        let first = node.input.first().and_then(|name| self.values.get(name.as_str()));
        let mut whole = first.cloned().context("it joins values and constants")?;
        for name in &node.input[1..] {
            let other = self.values.get(name.as_str()).cloned().context("it joins values and constants")?;
            whole = self.pair(node, kind, [whole, other])?;
        }
        self.values.insert(output, whole);
        Ok(())
    }

    fn pair(&mut self, node: &NodeProto, kind: &str, values: [Value; 2]) -> Result<Value> {
        let op = match (kind, attribute_of(node, "axis")) {
            ("Sum", _) => Op::Add,
            (_, Some(Attribute::Int(axis))) if axis == 1 || axis == 1 - values[0].dims.len() as i64 => Op::Concat,
            (_, axis) => bail!("it joins along axis {axis:?}, not along channels"),
        };
        let name = self.operator_name(node, &self.module(node), &op);
        let [first, second] = values;
        ensure!(first.dims.len() == second.dims.len(), "its values have different numbers of dimensions");
        let id = self.graph.push(&name, op, &[first.id, second.id], Vec::new())?;
        Ok(self.value_like(id, &first))
    }

    /// A value with as many dimensions as another.
    fn value_like(&self, id: usize, other: &Value) -> Value {
        let Shape { channels, height, width } = self.graph.shape(id);
        Value { id, dims: if other.dims.len() == 2 { vec![1, channels] } else { vec![1, channels, height, width] } }
    }

    /// The teacher's name for the layer: of its weight, else of the way through PyTorch's modules to it.
    fn module(&self, node: &NodeProto) -> String {
        let weight = node.input.iter().filter_map(|name| self.constants.get(name.as_str())?.name.as_deref());
        let stem = weight.filter_map(|name| Some(name.rsplit_once('.')?.0)).next();
        stem.map_or_else(|| modules(node.name.as_deref().unwrap_or_default()), str::to_owned)
    }

    /// A name that no operator has yet.
    fn operator_name(&mut self, node: &NodeProto, module: &str, op: &Op) -> String {
        let own = node.name.as_deref().unwrap_or_default();
        let last = own.rsplit('/').next().unwrap_or_default().to_lowercase();
        let kind = node.op_type.as_deref().unwrap_or_default().to_lowercase();
        let last = if last.is_empty() { kind } else { last };
        let layer = op.is_layer() || matches!(op, Op::BatchNorm(_));
        let name = match (layer, module.is_empty()) {
            (true, false) => module.to_owned(),
            (_, true) => last,
            (false, false) => format!("{module}.{last}"),
        };
        self.free(name)
    }

    fn free(&mut self, name: String) -> String {
        let mut free = name.clone();
        while self.used.contains_key(&free) {
            let asked = self.used.entry(name.clone()).or_default();
            *asked += 1;
            free = format!("{name}#{asked}");
        }
        self.used.insert(free.clone(), 0);
        free
    }

    /// A weight under a name of its own: one constant may serve several layers.
    fn own(&mut self, mut weight: Weight, layer: &str) -> Weight {
        let key = format!("weight {}", weight.name);
        if self.used.insert(key, 0).is_some() {
            let part = weight.name.rsplit('.').next().unwrap_or("weight").to_owned();
            let name = self.free(format!("weight {layer}.{part}"));
            weight.name = name.trim_start_matches("weight ").to_owned();
        }
        weight
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
        let value = self.values.get(output).with_context(|| format!("nothing computes the output {output}"))?;
        let mut graph = self.graph;
        // What comes after it is computed for nothing.
        while graph.nodes().len() > value.id {
            graph.pop();
        }
        ensure!(!graph.nodes().is_empty(), "the network computes nothing");
        Ok(graph)
    }
}

/// Extents of an image; the batch may be anything.
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

/// `layer1.0.conv1` from `/layer1/layer1.0/conv1/Conv`: a part that starts with the one before it repeats it.
fn modules(name: &str) -> String {
    let Some((path, _)) = name.strip_prefix('/').and_then(|path| path.rsplit_once('/')) else {
        return String::new();
    };
    let mut full: Vec<&str> = Vec::new();
    let mut before: &str = "";
    for part in path.split('/') {
        if !before.is_empty() && part.strip_prefix(before).is_some_and(|rest| rest.starts_with('.')) {
            full.pop();
        }
        full.push(part);
        before = part;
    }
    full.join(".")
}

/// The value of a `Constant`.
fn constant(node: &NodeProto, folder: &Path) -> Result<Tensor> {
    let attribute = node.attribute.first().context("it has no value")?;
    if let Some(tensor) = &attribute.t {
        return Ok(Tensor { name: None, ..constants::tensor(tensor, folder)? });
    }
    let (dims, values) = match attribute_value(attribute) {
        Some(Attribute::Int(value)) => (vec![], Numbers::Ints(vec![value])),
        Some(Attribute::Float(value)) => (vec![], Numbers::Floats(vec![value])),
        Some(Attribute::Ints(values)) => (vec![values.len()], Numbers::Ints(values)),
        _ if !attribute.floats.is_empty() => (vec![attribute.floats.len()], Numbers::Floats(attribute.floats.clone())),
        _ => bail!("its value is of a kind that we cannot read"),
    };
    Ok(Tensor { name: None, dims, values })
}

fn attribute_of(node: &NodeProto, name: &str) -> Option<Attribute> {
    attribute_value(node.attribute.iter().find(|attribute| attribute.name.as_deref() == Some(name))?)
}

fn attribute_value(attribute: &AttributeProto) -> Option<Attribute> {
    // The protobuf of a 0 may be no bytes at all.
    match attribute.r#type? {
        AttributeType::INT => Some(Attribute::Int(attribute.i.unwrap_or(0))),
        AttributeType::FLOAT => Some(Attribute::Float(attribute.f.unwrap_or(0.0))),
        AttributeType::INTS => Some(Attribute::Ints(attribute.ints.clone())),
        AttributeType::STRING => Some(Attribute::Text(attribute.s.clone().unwrap_or_default())),
        _ => None,
    }
}
