//! Networks from `.onnx` files: operators that exporters write become ours, shape arithmetic is computed while reading.

mod attributes;
mod constants;
mod fold_constants;
mod names;
mod read;

pub use self::read::read;

/// Keys of the model's metadata.
pub(crate) const MEAN: &str = "mean";
pub(crate) const STD: &str = "std";
pub(crate) const CLASSES: &str = "classes";
/// What a student was made from.
pub(crate) const MADE_FROM: &str = "made_from";
