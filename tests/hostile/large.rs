//! Files whose cost would grow faster than their size: too large to mutate, read once.

use distill_host::onnx::{
    DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, TypeProtoTensor, ValueInfoProto,
};
use prost::Message;

/// `.onnx` files of long chains, wide joins and long names.
pub fn onnx() -> Vec<Vec<u8>> {
    let value = |index: usize| format!("v{index}");
    let chain = |kind: &str, more: &[&str]| {
        let nodes = (0..16_000).map(|index| {
            let inputs = [value(index)].into_iter().chain(more.iter().map(|&name| name.to_owned())).collect();
            node(kind, "same", inputs, vec![value(index + 1)])
        });
        model(1, nodes.collect(), &value(16_000))
    };
    let relu = node("Relu", "", vec![value(0)], vec![value(1)]);
    let long = "n".repeat(200_000);
    let sum = node("Sum", &long, vec![value(1); 32_000], vec![value(2)]);
    let parts: Vec<String> = (1..=4000).map(|index| format!("p{index}")).collect();
    let split = node("Split", &long, vec![value(0)], parts.clone());
    let join = node("Sum", "", parts, vec![value(2)]);
    let dequantized = node("DequantizeLinear", "", vec![long.clone(), "b".to_owned()], vec!["d".to_owned()]);
    let mut named = vec![dequantized];
    let mut wide = Vec::new();
    for index in 0..400 {
        let conv = |weight: &str| node("Conv", "", vec![value(index), weight.to_owned()], vec![value(index + 1)]);
        named.push(conv("d"));
        wide.push(conv("large"));
    }
    let bytes = constant(&long, &[1, 1, 1, 1], DataType::Uint8, vec![1]);
    let large = constant("large", &[1024, 1024, 1, 1], DataType::Float, vec![0; 4 << 20]);
    vec![
        model_with(1, named, &value(400), bytes),
        model_with(1024, wide, &value(400), large),
        chain("Conv", &["w"]),
        chain("BatchNormalization", &["b", "b", "b", "b"]),
        chain("Relu", &[]),
        model(1, vec![relu, sum], &value(2)),
        model(4000, vec![split, join], &value(2)),
    ]
}

fn node(kind: &str, name: &str, input: Vec<String>, output: Vec<String>) -> NodeProto {
    let (op_type, name) = (Some(kind.to_owned()), Some(name.to_owned()));
    NodeProto { input, output, name, op_type, ..NodeProto::default() }
}

fn constant(name: &str, dims: &[i64], kind: DataType, bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(kind.into()),
        raw_data: Some(bytes),
        ..TensorProto::default()
    }
}

fn model(channels: i64, node: Vec<NodeProto>, output: &str) -> Vec<u8> {
    model_with(channels, node, output, constant("", &[1], DataType::Float, vec![0; 4]))
}

/// A network of images of one pixel, with one more constant.
fn model_with(channels: i64, node: Vec<NodeProto>, output: &str, more: TensorProto) -> Vec<u8> {
    let extents = [1, channels, 1, 1].map(|extent| Dimension { dim_value: Some(extent), ..Dimension::default() });
    let shape = Some(TensorShapeProto { dim: extents.to_vec() });
    let tensor = TypeProtoTensor { elem_type: Some(DataType::Float.into()), shape };
    let image = TypeProto { tensor_type: Some(tensor) };
    let one = |name: &str, dims: &[i64]| constant(name, dims, DataType::Float, 1f32.to_le_bytes().to_vec());
    let graph = GraphProto {
        node,
        initializer: vec![one("w", &[1, 1, 1, 1]), one("b", &[1]), more],
        input: vec![ValueInfoProto { name: Some("v0".to_owned()), r#type: Some(image) }],
        output: vec![ValueInfoProto { name: Some(output.to_owned()), r#type: None }],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { domain: None, version: Some(17) };
    ModelProto { ir_version: Some(8), graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() }
        .encode_to_vec()
}
