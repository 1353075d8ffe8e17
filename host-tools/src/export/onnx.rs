//! Networks as `.onnx` (opset 18), under the teacher's names.
//!
//! The file takes normalised images `input [N, C, H, W]` and gives `logits [N, classes]`; `N` is dynamic. The mean and the
//! standard deviation are in the model's metadata.

use std::cell::RefCell;

use anyhow::Result;
use distill_core::{
    Block, Shape, Weight,
    onnx::{Argument, Attribute},
};
use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};

use crate::{
    import::onnx::{CLASSES, MADE_FROM, MEAN, STD},
    network::Network,
};

const OPSET: i64 = 18;
const IR_VERSION: i64 = 8;

/// The bytes of a network's file.
pub fn encode(network: &Network) -> Result<Vec<u8>> {
    let mut bytes = graph_name(&network.manifest.architecture);
    bytes.extend(model(network).write_buf()?);
    Ok(bytes)
}

/// A model with nothing but its graph's name, which the schema requires and `rten-onnx` does not write. Protobuf merges it
/// with the model that follows.
fn graph_name(name: &str) -> Vec<u8> {
    const GRAPH: u8 = (7 << 3) | 2;
    const NAME: u8 = (2 << 3) | 2;
    let mut graph = vec![NAME];
    push_length(&mut graph, name.len());
    graph.extend_from_slice(name.as_bytes());
    let mut model = vec![GRAPH];
    push_length(&mut model, graph.len());
    model.extend(graph);
    model
}

/// A length in protobuf's encoding: seven bits a byte, lowest first.
fn push_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}

/// The network as an ONNX model.
fn model(network: &Network) -> ModelProto {
    let mut graph = GraphBuilder::default();
    let mut value = "input".to_owned();
    for block in &network.blocks {
        value = graph.block(block, value);
    }
    graph.operators.push(NodeProto {
        domain: None,
        name: Some("output".to_owned()),
        input: vec![value],
        output: vec!["logits".to_owned()],
        op_type: Some("Flatten".to_owned()),
        attribute: vec![attribute("axis", &Attribute::Int(1))],
    });
    let shape = network.input();
    let classes = network.blocks.last().map_or(0, |head| head.output().elements());
    let input = value_info("input", &[shape.channels, shape.height, shape.width]);
    let list = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
    let property = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
    ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("distill".to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        graph: Some(GraphProto {
            node: graph.operators,
            initializer: graph.initializers,
            input: vec![input],
            output: vec![value_info("logits", &[classes])],
            value_info: Vec::new(),
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

#[derive(Default)]
struct GraphBuilder {
    operators: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
}

impl GraphBuilder {
    /// Adds a block that reads `input`; returns the name of its output.
    fn block(&mut self, block: &Block, input: String) -> String {
        let mut values = vec![input];
        for (index, node) in block.nodes().iter().enumerate() {
            let weights = block.weights_of(index);
            self.initializers.extend(weights.iter().map(|weight| float_tensor(weight)));
            let inputs: Vec<Shape> = block.inputs_of(index);
            let has_prefix = node.name.starts_with(block.name());
            let name = if has_prefix { node.name.clone() } else { format!("{}.{}", block.name(), node.name) };
            let steps = node.op.to_onnx(&inputs, &weights);
            let result = |step: usize| match step + 1 == steps.len() {
                true => format!("{name}.output"),
                false => format!("{name}.step{step}"),
            };
            for (place, step) in steps.iter().enumerate() {
                let arguments = step.inputs.iter().map(|argument| match argument {
                    Argument::Value(which) => values[usize::from(node.inputs[*which])].clone(),
                    Argument::Weight(slot) => weights[*slot].name.clone(),
                    Argument::Step(step) => result(*step),
                    Argument::Ints(part, list) => {
                        let raw = list.iter().flat_map(|value| value.to_le_bytes()).collect();
                        self.constant(format!("{name}.{part}"), vec![list.len() as i64], DataType::INT64, raw)
                    }
                    Argument::Float(part, value) => {
                        let raw = value.to_le_bytes().to_vec();
                        self.constant(format!("{name}.{part}"), Vec::new(), DataType::FLOAT, raw)
                    }
                });
                let arguments = arguments.collect();
                let attributes = step.attributes.iter().map(|(name, value)| attribute(name, value)).collect();
                self.operators.push(NodeProto {
                    domain: None,
                    name: Some(if place + 1 == steps.len() { name.clone() } else { format!("{name}.{place}") }),
                    input: arguments,
                    output: vec![result(place)],
                    op_type: Some(step.kind.to_owned()),
                    attribute: attributes,
                });
            }
            values.push(format!("{name}.output"));
        }
        values.swap_remove(values.len() - 1)
    }

    /// Adds a constant; returns its name.
    fn constant(&mut self, name: String, dims: Vec<i64>, data_type: DataType, raw: Vec<u8>) -> String {
        self.initializers.push(tensor(&name, dims, data_type, raw));
        name
    }
}

fn tensor(name: &str, dims: Vec<i64>, data_type: DataType, raw: Vec<u8>) -> TensorProto {
    TensorProto {
        dims,
        data_type: Some(data_type),
        name: Some(name.to_owned()),
        raw_data: Some(RefCell::new(raw)),
        ..TensorProto::default()
    }
}

fn float_tensor(weight: &Weight) -> TensorProto {
    let dims = weight.dims.iter().map(|&d| i64::from(d)).collect();
    let raw = weight.data.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(&weight.name, dims, DataType::FLOAT, raw)
}

fn attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut attribute = AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
    attribute.r#type = Some(match value {
        Attribute::Int(value) => {
            attribute.i = Some(*value);
            AttributeType::INT
        }
        Attribute::Ints(values) => {
            attribute.ints = values.clone();
            AttributeType::INTS
        }
        Attribute::Float(value) => {
            attribute.f = Some(*value);
            AttributeType::FLOAT
        }
        Attribute::Text(value) => {
            attribute.s = Some(value.clone());
            AttributeType::STRING
        }
    });
    attribute
}

/// A float value whose first extent is the dynamic batch.
fn value_info(name: &str, extents: &[usize]) -> ValueInfoProto {
    let batch = Dimension { dim_param: Some("N".to_owned()), dim_value: None };
    let fixed = extents.iter().map(|&extent| Dimension { dim_value: Some(extent as i64), dim_param: None });
    let shape = TensorShapeProto { dim: std::iter::once(batch).chain(fixed).collect() };
    let tensor = TypeProtoTensor { elem_type: Some(DataType::FLOAT), shape: Some(shape) };
    let r#type = TypeProto { tensor_type: Some(tensor), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(r#type) }
}
