//! Networks as `.onnx` (opset 18), straight from the block graph: the teacher's names stay.
//!
//! The file takes normalised images `input [N, C, H, W]` and gives `logits [N, classes]`; `N` is
//! dynamic. Mean and deviation stand in the model's metadata.

use std::path::Path;

use anyhow::Result;
use distill_core::{Block, Op, Weight};
use distill_device::write_file;
use prost::Message;

use crate::{
    network::Network,
    onnx_messages::{
        ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_INTS, Attribute, Dimension, Extent, FLOAT, Graph, INT64, Model,
        Operator, OperatorSet, Property, Tensor, TensorShape, TensorType, Type, ValueInfo,
    },
};

const OPSET: i64 = 18;
const IR_VERSION: i64 = 8;

/// Writes a network, all or not at all.
///
/// # Errors
/// The file.
pub fn write(network: &Network, path: &Path) -> Result<()> {
    write_file(path, &model(network).encode_to_vec())
}

/// The network as an ONNX model.
fn model(network: &Network) -> Model {
    let mut graph = GraphBuilder::default();
    let mut value = "input".to_owned();
    for block in &network.blocks {
        value = graph.block(block, value);
    }
    graph.operator("output", "Flatten", vec![value], vec![int("axis", 1)], "logits");
    let shape = network.input();
    let classes = network.blocks.last().map_or(0, |head| head.output().elements());
    let input = value_info("input", &[shape.channels, shape.height, shape.width]);
    let list = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
    let property = |key: &str, value: String| Property { key: key.to_owned(), value };
    Model {
        ir_version: IR_VERSION,
        producer_name: "distill".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(Graph {
            node: graph.operators,
            name: network.manifest.architecture.clone(),
            initializer: graph.initializers,
            input: vec![input],
            output: vec![value_info("logits", &[classes])],
        }),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
        metadata_props: vec![
            property("mean", list(&network.manifest.mean)),
            property("std", list(&network.manifest.std)),
            property("classes", network.manifest.classes.join(",")),
        ],
    }
}

#[derive(Default)]
struct GraphBuilder {
    operators: Vec<Operator>,
    initializers: Vec<Tensor>,
}

impl GraphBuilder {
    /// Appends a block that reads `input`; returns the name of its output.
    fn block(&mut self, block: &Block, input: String) -> String {
        let mut values = vec![input];
        for (index, node) in block.nodes().iter().enumerate() {
            let mut inputs: Vec<String> = node.inputs.iter().map(|&v| values[usize::from(v)].clone()).collect();
            let weights: Vec<&Weight> = node.weights.iter().map(|&w| &block.weights()[usize::from(w)]).collect();
            self.initializers.extend(weights.iter().map(|w| float_tensor(w)));
            let name = if node.name.starts_with(block.name()) {
                node.name.clone()
            } else {
                format!("{}.{}", block.name(), node.name)
            };
            let output = format!("{name}.output");
            let weight_names = weights.iter().map(|w| w.name.clone());
            let (kind, attributes) = match &node.op {
                Op::Conv(conv) => {
                    inputs.extend(weight_names);
                    let (stride, padding) = (i64::from(conv.stride), i64::from(conv.padding));
                    let kernel: Vec<i64> = weights[0].dims[2..].iter().map(|&d| i64::from(d)).collect();
                    let attributes = vec![
                        ints("kernel_shape", kernel),
                        ints("strides", vec![stride; 2]),
                        ints("pads", vec![padding; 4]),
                        int("group", i64::from(conv.groups)),
                    ];
                    ("Conv", attributes)
                }
                Op::BatchNorm { epsilon } => {
                    inputs.extend(weight_names);
                    ("BatchNormalization", vec![float("epsilon", *epsilon)])
                }
                Op::Relu => ("Relu", Vec::new()),
                Op::Add => ("Add", Vec::new()),
                Op::Subsample { stride } => {
                    let step = i64::from(*stride);
                    for (part, values) in
                        [("starts", [0, 0]), ("ends", [i64::MAX; 2]), ("axes", [2, 3]), ("steps", [step; 2])]
                    {
                        inputs.push(self.constant(&format!("{name}.{part}"), &values));
                    }
                    ("Slice", Vec::new())
                }
                Op::PadChannels { before, after } => {
                    let pads = [0, i64::from(*before), 0, 0, 0, i64::from(*after), 0, 0];
                    inputs.push(self.constant(&format!("{name}.pads"), &pads));
                    ("Pad", Vec::new())
                }
                Op::GlobalAveragePool => ("GlobalAveragePool", Vec::new()),
                Op::Linear => {
                    let flat = format!("{name}.flat");
                    self.operator(&flat, "Flatten", inputs, vec![int("axis", 1)], &flat);
                    inputs = vec![flat];
                    inputs.extend(weight_names);
                    ("Gemm", vec![int("transB", 1)])
                }
            };
            debug_assert_eq!(values.len(), index + 1);
            self.operator(&name, kind, inputs, attributes, &output);
            values.push(output);
        }
        values.swap_remove(values.len() - 1)
    }

    fn operator(&mut self, name: &str, kind: &str, input: Vec<String>, attribute: Vec<Attribute>, output: &str) {
        self.operators.push(Operator {
            input,
            output: vec![output.to_owned()],
            name: name.to_owned(),
            op_type: kind.to_owned(),
            attribute,
        });
    }

    /// Adds a constant list of integers; returns its name.
    fn constant(&mut self, name: &str, values: &[i64]) -> String {
        self.initializers.push(Tensor {
            dims: vec![values.len() as i64],
            data_type: INT64,
            name: name.to_owned(),
            raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        });
        name.to_owned()
    }
}

fn float_tensor(weight: &Weight) -> Tensor {
    Tensor {
        dims: weight.dims.iter().map(|&d| i64::from(d)).collect(),
        data_type: FLOAT,
        name: weight.name.clone(),
        raw_data: weight.data.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn int(name: &str, i: i64) -> Attribute {
    Attribute { name: name.to_owned(), i, r#type: ATTRIBUTE_INT, ..Attribute::default() }
}

fn ints(name: &str, ints: Vec<i64>) -> Attribute {
    Attribute { name: name.to_owned(), ints, r#type: ATTRIBUTE_INTS, ..Attribute::default() }
}

fn float(name: &str, f: f32) -> Attribute {
    Attribute { name: name.to_owned(), f, r#type: ATTRIBUTE_FLOAT, ..Attribute::default() }
}

/// A float value whose first extent is the dynamic batch.
fn value_info(name: &str, extents: &[usize]) -> ValueInfo {
    let batch = Dimension { value: Some(Extent::Named("N".to_owned())) };
    let fixed = extents.iter().map(|&e| Dimension { value: Some(Extent::Fixed(e as i64)) });
    let shape = TensorShape { dim: std::iter::once(batch).chain(fixed).collect() };
    let tensor = TensorType { elem_type: FLOAT, shape: Some(shape) };
    ValueInfo { name: name.to_owned(), r#type: Some(Type { tensor_type: Some(tensor) }) }
}
