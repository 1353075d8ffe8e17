//! What an ONNX node says of itself besides its inputs and outputs.

use distill_core::onnx::Attribute;

use crate::onnx::{AttributeProto, AttributeType, NodeProto};

/// The operator, such as `Conv`.
pub fn kind(node: &NodeProto) -> &str {
    node.op_type.as_deref().unwrap_or_default()
}

pub fn attribute(node: &NodeProto, name: &str) -> Option<Attribute> {
    attribute_value(node.attribute.iter().find(|attribute| attribute.name.as_deref() == Some(name))?)
}

/// An integer attribute; `None` also for one of another type.
pub fn int(node: &NodeProto, name: &str) -> Option<i64> {
    match attribute(node, name) {
        Some(Attribute::Int(value)) => Some(value),
        _ => None,
    }
}

/// A list of integers; `None` also for an attribute of another type.
pub fn ints(node: &NodeProto, name: &str) -> Option<Vec<i64>> {
    match attribute(node, name) {
        Some(Attribute::Ints(values)) => Some(values),
        _ => None,
    }
}

/// The value of an attribute; `None` for a type that no supported operator has.
pub fn attribute_value(attribute: &AttributeProto) -> Option<Attribute> {
    // Protobuf may omit a value of 0.
    match AttributeType::try_from(attribute.r#type?).ok()? {
        AttributeType::Int => Some(Attribute::Int(attribute.i.unwrap_or(0))),
        AttributeType::Float => Some(Attribute::Float(attribute.f.unwrap_or(0.0))),
        AttributeType::Ints => Some(Attribute::Ints(attribute.ints.clone())),
        AttributeType::String => {
            Some(Attribute::Text(String::from_utf8_lossy(attribute.s.as_deref().unwrap_or_default()).into_owned()))
        }
        _ => None,
    }
}
