//! Networks in ONNX files: read from what exporters write, written straight from the block graph.

mod constants;
mod read;
mod write;

pub use self::{read::read, write::encode};

/// Keys of the model's metadata.
const MEAN: &str = "mean";
const STD: &str = "std";
const CLASSES: &str = "classes";
