//! Networks as `.onnx` (opset 18), under the teacher's names.
//!
//! The file takes normalised images `[N, C, H, W]` and gives what the teacher's file gave, under its names, a Softmax at the end
//! included; `N` is dynamic. The mean and the standard deviation are in the model's metadata.

use std::collections::HashSet;

use distill_core::{
    Block, Interface, Probabilities, Shape, Weight,
    onnx::{Argument, Attribute},
};
use prost::Message;

use super::{interface, output_shape};
use crate::{
    import::onnx::{CLASSES, MADE_FROM, MEAN, STD},
    network::Network,
    onnx::{
        AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
        StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
    },
};

const OPSET: i64 = 18;
const IR_VERSION: i64 = 8;

/// The bytes of a network's file.
pub fn encode(network: &Network) -> Vec<u8> {
    model(network).encode_to_vec()
}

/// The network as an ONNX model.
fn model(network: &Network) -> ModelProto {
    let (shape, output, ends) = (network.input(), output_shape(network), interface(network));
    let mut graph = GraphBuilder::default();
    graph.values.take(ends.output.clone());
    let mut value = graph.values.take(ends.input.clone());
    for block in &network.blocks {
        value = graph.block(block, value);
    }
    let extents = graph.end(value, output, &ends);
    let input = value_info(&ends.input, &[shape.channels, shape.height, shape.width]);
    let list = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
    let property = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
    ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("distill".to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        graph: Some(GraphProto {
            node: graph.operators,
            name: Some(network.manifest.architecture.clone()),
            initializer: graph.initializers,
            input: vec![input],
            output: vec![value_info(&ends.output, &extents)],
        }),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        metadata_props: vec![
            property(MEAN, list(&network.manifest.mean)),
            property(STD, list(&network.manifest.std)),
            property(CLASSES, network.manifest.classes.join(",")),
            property(MADE_FROM, network.manifest.made_from.map_or_else(String::new, |source| source.to_string())),
        ],
    }
}

/// Names, each given once.
#[derive(Default)]
struct Names(HashSet<String>);

impl Names {
    /// The name, with a number if it is taken.
    fn take(&mut self, name: String) -> String {
        let numbered = (1..).map(|number| format!("{name}#{number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !self.0.contains(name));
        let free = free.unwrap_or(name);
        self.0.insert(free.clone());
        free
    }
}

#[derive(Default)]
struct GraphBuilder {
    operators: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    /// Names of operators.
    names: Names,
    /// Names of values and constants.
    values: Names,
}

impl GraphBuilder {
    /// Adds a block that reads `input`; returns the name of its output.
    fn block(&mut self, block: &Block, input: String) -> String {
        let mut values = vec![input];
        for (index, node) in block.nodes().iter().enumerate() {
            let weights = block.weights_of(index);
            let weight_names: Vec<String> =
                weights.iter().map(|weight| self.values.take(weight.name.clone())).collect();
            let tensors = weights.iter().zip(&weight_names).map(|(weight, name)| float_tensor(weight, name));
            self.initializers.extend(tensors);
            let inputs: Vec<Shape> = block.inputs_of(index);
            let has_prefix = node.name.starts_with(block.name());
            let name = if has_prefix { node.name.clone() } else { format!("{}.{}", block.name(), node.name) };
            let steps = node.op.to_onnx(&inputs, &weights);
            let mut results: Vec<String> = Vec::with_capacity(steps.len());
            for (place, step) in steps.iter().enumerate() {
                let arguments = step.inputs.iter().map(|argument| match argument {
                    Argument::Value(which) => values[usize::from(node.inputs[*which])].clone(),
                    Argument::Weight(slot) => weight_names[*slot].clone(),
                    Argument::Step(step) => results[*step].clone(),
                    Argument::Ints(part, list) => {
                        let raw = list.iter().flat_map(|value| value.to_le_bytes()).collect();
                        self.constant(format!("{name}.{part}"), vec![list.len() as i64], DataType::Int64, raw)
                    }
                    Argument::Float(part, value) => {
                        let raw = value.to_le_bytes().to_vec();
                        self.constant(format!("{name}.{part}"), Vec::new(), DataType::Float, raw)
                    }
                });
                let arguments = arguments.collect();
                let is_last = place + 1 == steps.len();
                let (own, result) = match is_last {
                    true => (name.clone(), format!("{name}.output")),
                    false => (format!("{name}.{place}"), format!("{name}.step{place}")),
                };
                results.push(self.values.take(result));
                self.operator(own, step.kind, arguments, &results[place], &step.attributes);
            }
            values.extend(results.pop());
        }
        values.swap_remove(values.len() - 1)
    }

    /// Gives the last value the dimensions and the name of the teacher's output; returns its extents after the batch.
    fn end(&mut self, value: String, shape: Shape, ends: &Interface) -> Vec<usize> {
        let Shape { channels, height, width } = shape;
        let over_channels = [("axis", Attribute::Int(1))];
        let mut last = value;
        let extents = match ends.rank {
            2 => {
                let flat = self.values.take("output.flat".to_owned());
                self.operator("output".to_owned(), "Flatten", vec![last], &flat, &over_channels);
                last = flat;
                vec![shape.elements()]
            }
            3 => {
                let (row, extents) = (self.values.take("output.row".to_owned()), [0, channels as i64, -1]);
                let raw = extents.into_iter().flat_map(i64::to_le_bytes).collect();
                let extents = self.constant("output.shape".to_owned(), vec![3], DataType::Int64, raw);
                self.operator("output".to_owned(), "Reshape", vec![last, extents], &row, &[]);
                last = row;
                vec![channels, height * width]
            }
            _ => vec![channels, height, width],
        };
        if let Some(probabilities) = ends.probabilities {
            let kind = match probabilities {
                Probabilities::Softmax => "Softmax",
                Probabilities::LogSoftmax => "LogSoftmax",
            };
            self.operator("probabilities".to_owned(), kind, vec![last], &ends.output, &over_channels);
        }
        if let Some(operator) = self.operators.last_mut() {
            operator.output = vec![ends.output.clone()];
        }
        extents
    }

    fn operator(
        &mut self,
        name: String,
        kind: &str,
        input: Vec<String>,
        output: &str,
        attributes: &[(&'static str, Attribute)],
    ) {
        self.operators.push(NodeProto {
            domain: None,
            name: Some(self.names.take(name)),
            input,
            output: vec![output.to_owned()],
            op_type: Some(kind.to_owned()),
            attribute: attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
        });
    }

    /// Adds a constant; returns its name.
    fn constant(&mut self, name: String, dims: Vec<i64>, data_type: DataType, raw: Vec<u8>) -> String {
        let name = self.values.take(name);
        self.initializers.push(tensor(&name, dims, data_type, raw));
        name
    }
}

fn tensor(name: &str, dims: Vec<i64>, data_type: DataType, raw: Vec<u8>) -> TensorProto {
    TensorProto {
        dims,
        data_type: Some(data_type.into()),
        name: Some(name.to_owned()),
        raw_data: Some(raw),
        ..TensorProto::default()
    }
}

fn float_tensor(weight: &Weight, name: &str) -> TensorProto {
    let dims = weight.dims.iter().map(|&d| i64::from(d)).collect();
    let raw = weight.data.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, dims, DataType::Float, raw)
}

fn attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut attribute = AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
    let kind = match value {
        Attribute::Int(value) => {
            attribute.i = Some(*value);
            AttributeType::Int
        }
        Attribute::Ints(values) => {
            attribute.ints = values.clone();
            AttributeType::Ints
        }
        Attribute::Float(value) => {
            attribute.f = Some(*value);
            AttributeType::Float
        }
        Attribute::Text(value) => {
            attribute.s = Some(value.clone().into_bytes());
            AttributeType::String
        }
    };
    attribute.r#type = Some(kind.into());
    attribute
}

/// A float value whose first extent is the dynamic batch.
fn value_info(name: &str, extents: &[usize]) -> ValueInfoProto {
    let batch = Dimension { dim_param: Some("N".to_owned()), dim_value: None };
    let fixed = extents.iter().map(|&extent| Dimension { dim_value: Some(extent as i64), dim_param: None });
    let shape = TensorShapeProto { dim: std::iter::once(batch).chain(fixed).collect() };
    let tensor = TypeProtoTensor { elem_type: Some(DataType::Float.into()), shape: Some(shape) };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}
