//! Networks in ONNX files: read from what exporters write, written straight from the block graph.

mod constants;
mod read;

pub use self::read::read;

/// Keys of the model's metadata.
pub(crate) const MEAN: &str = "mean";
pub(crate) const STD: &str = "std";
pub(crate) const CLASSES: &str = "classes";
