//! The ends of a network: the images it takes, and the output it gives.

use anyhow::{Context, Result, bail, ensure};
use distill_core::{Interface, Probabilities, Shape};

use super::{
    attributes::{int, kind},
    constants::elements,
    read::Reader,
    value::Value,
};
use crate::{
    import::graph::Graph,
    onnx::{GraphProto, NodeProto, ValueInfoProto},
};

/// The images of a file.
pub struct Images<'a> {
    pub name: &'a str,
    /// Shape of one.
    pub shape: Shape,
    /// How many are in a batch; 1 where the file leaves it open.
    pub batch: usize,
}

impl<'a> Images<'a> {
    /// From the only input of a network; `given` is the shape where the file leaves it open.
    pub fn new(inputs: &[&'a ValueInfoProto], given: Option<Shape>) -> Result<Self> {
        let name = |info: &'a ValueInfoProto| info.name.as_deref().unwrap_or_default();
        let [image] = inputs else {
            let names: Vec<&str> = inputs.iter().map(|info| name(info)).collect();
            bail!("the network has {} inputs ({}); it must have one, the images", names.len(), names.join(", "));
        };
        let dims = extents(image);
        let shape = image_shape(name(image), &dims, given)?;
        let batch = dims.first().copied().flatten().unwrap_or(1);
        let batch_dims = [batch, shape.channels, shape.height, shape.width];
        elements(&batch_dims).with_context(|| format!("an input of {batch_dims:?} is too large"))?;
        Ok(Self { name: name(image), shape, batch })
    }
}

/// The extents of an input; `None` for those that the file leaves open.
fn extents(info: &ValueInfoProto) -> Vec<Option<usize>> {
    let shape = info.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()?.shape.as_ref());
    let extent = |value: Option<i64>| value.and_then(|value| usize::try_from(value).ok()).filter(|&extent| extent > 0);
    shape.map_or_else(Vec::new, |shape| shape.dim.iter().map(|dim| extent(dim.dim_value)).collect())
}

/// Shape of an image; the batch may be anything.
fn image_shape(name: &str, dims: &[Option<usize>], given: Option<Shape>) -> Result<Shape> {
    if let Some(given) = given {
        let fits = |(dim, extent): (&Option<usize>, usize)| dim.is_none_or(|dim| dim == extent);
        let wanted = [given.channels, given.height, given.width];
        let ok = dims.is_empty() || dims.len() == 4 && dims[1..].iter().zip(wanted).all(fits);
        ensure!(ok, "the input {name} has shape {dims:?}, not {given}");
        return Ok(given);
    }
    match dims {
        [_, Some(channels), Some(height), Some(width)] => Ok(Shape::new(*channels, *height, *width)),
        [_, _, _, _] | [] => {
            bail!("the file leaves the shape of the input {name} open: give it with --input 3x224x224")
        }
        other => bail!("the input {name} has {} dimensions; images have 4", other.len()),
    }
}

impl Reader<'_> {
    /// A Softmax over the channels of the last value, which stays outside of our graph.
    pub(super) fn probabilities(&self, node: &NodeProto, logits: &Value) -> Result<Value> {
        // Before opset 13 it took all axes from the given one on as one.
        let old = self.opset < 13;
        let axis = int(node, "axis").unwrap_or(if old { 1 } else { -1 });
        let positions: usize = logits.dims[2..].iter().product();
        let is_channels = axis == 1 || axis == 1 - logits.rank() as i64;
        ensure!(is_channels && (!old || positions == 1), "it is not over the channels");
        let probabilities = if kind(node) == "Softmax" { Probabilities::Softmax } else { Probabilities::LogSoftmax };
        Ok(Value { probabilities: Some(probabilities), ..logits.clone() })
    }

    /// The graph up to the file's output, and how the file calls both ends.
    pub(super) fn finish(self, graph: &GraphProto) -> Result<(Graph, Interface)> {
        let names: Vec<&str> = graph.output.iter().filter_map(|info| info.name.as_deref()).collect();
        let [output] = names.as_slice() else {
            bail!("the network has {} outputs ({}); it must have one, the logits", names.len(), names.join(", "));
        };
        let value = self.values.get(output).with_context(|| format!("no operator computes the output {output}"))?;
        let interface = Interface {
            input: self.input.to_owned(),
            output: (*output).to_owned(),
            rank: value.rank() as u8,
            probabilities: value.probabilities,
        };
        ensure!(interface.input != interface.output, "its input and its output have the same name");
        let mut graph = self.graph;
        // A graph's output is its last value.
        while graph.nodes().len() > value.id {
            graph.pop();
        }
        ensure!(!graph.nodes().is_empty(), "the network has no operators");
        Ok((graph, interface))
    }
}
