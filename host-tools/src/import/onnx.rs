//! Networks from `.onnx` files: operators that exporters write become ours, shape arithmetic is computed while reading.

mod arithmetic;
mod attributes;
mod constants;
mod fold_constants;
mod interface;
mod names;
mod read;
mod rearrange;
mod value;

use distill_core::{Block, Op};

pub use self::read::read;

/// Keys of the model's metadata.
pub(crate) const MEAN: &str = "mean";
pub(crate) const STD: &str = "std";
pub(crate) const CLASSES: &str = "classes";
/// What a student was made from.
pub(crate) const MADE_FROM: &str = "made_from";

/// How PyTorch writes an `.onnx` that keeps its batch norms.
pub const KEEP_BATCH_NORMS: &str = "\
torch.onnx.export(model.eval(), x, \"model.onnx\", dynamo=True, optimize=False)   # PyTorch's default exporter
torch.onnx.export(model.eval(), x, \"model.onnx\", dynamo=False, do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE)";

/// Whether a teacher looks as if its exporter had folded the batch norms into the convolutions: they have biases, and no
/// batch norm is left.
pub fn seems_folded(blocks: &[Block]) -> bool {
    let mut biased = false;
    for block in blocks {
        for (index, node) in block.nodes().iter().enumerate() {
            match node.op {
                Op::BatchNorm(_) => return false,
                Op::Conv(_) => biased |= block.weights_of(index).len() == 2,
                _ => {}
            }
        }
    }
    biased
}
