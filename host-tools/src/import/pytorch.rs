//! Networks by the names of their tensors in PyTorch's checkpoints: the only code that knows an architecture.
//!
//! A checkpoint holds weights, not the network. Widths, kernels, groups and depths are read off the tensors; what they do
//! not tell (strides, activations, shortcuts) is the architecture's file to know.

mod cifar_resnet;
mod efficientnet_lite;
mod layers;
mod mobilenet_v2;
mod resnet;
mod vgg;

use anyhow::{Result, bail, ensure};
use distill_core::Shape;

use self::layers::Layers;
use super::{checkpoint::Checkpoint, graph::Graph, normalisation::Normalisation};

/// A network made of a checkpoint.
pub struct Built {
    /// Its operators.
    pub graph: Graph,
    /// Its name (`resnet50`).
    pub architecture: String,
    /// How its pixels are normalised, where the architecture comes with a way of its own.
    pub normalisation: Option<Normalisation>,
}

/// An architecture: what says that a checkpoint is of it, and what makes the network.
struct Architecture {
    /// For messages.
    title: &'static str,
    /// Tensors that it has, and those before it in the list do not.
    tensors: &'static [&'static str],
    /// Its name and the usual shape of an image.
    describe: fn(&Checkpoint) -> (String, Shape),
    build: fn(&mut Layers<'_>) -> Result<()>,
    normalisation: fn() -> Option<Normalisation>,
}

const KNOWN: [Architecture; 5] = [
    efficientnet_lite::ARCHITECTURE,
    mobilenet_v2::ARCHITECTURE,
    vgg::ARCHITECTURE,
    resnet::ARCHITECTURE,
    cifar_resnet::ARCHITECTURE,
];

/// The network of a checkpoint. `asked` is the architecture that it should be of, `input` the shape of an image where that
/// is not the usual.
///
/// # Errors
/// An unknown architecture, another than asked, or a tensor that is missing, does not fit or is left over.
pub fn build(checkpoint: &mut Checkpoint, asked: Option<&str>, input: Option<Shape>) -> Result<Built> {
    let has = |tensor: &&str| checkpoint.tensors.contains_key(*tensor);
    let Some(known) = KNOWN.iter().find(|known| known.tensors.iter().all(has)) else {
        let titles: Vec<&str> = KNOWN.iter().map(|known| known.title).collect();
        bail!(
            "no known architecture has these tensors (known: {}); the file starts with {}. Export the network as .onnx to \
             import any other",
            titles.join(", "),
            checkpoint.tensors.keys().next().map_or("nothing", String::as_str)
        );
    };
    let (architecture, usual) = (known.describe)(checkpoint);
    if let Some(asked) = asked {
        let short = architecture.trim_end_matches("-cifar");
        ensure!(
            asked == architecture || asked == short,
            "the file's tensors are those of {architecture}, not of {asked}"
        );
    }
    let mut layers = Layers::new(checkpoint, input.unwrap_or(usual));
    (known.build)(&mut layers)?;
    let graph = layers.finish();
    if let Some((name, tensor)) = checkpoint.tensors.iter().next() {
        bail!("tensor {name} with shape {:?} has no place in {architecture}", tensor.dims);
    }
    Ok(Built { graph, architecture, normalisation: (known.normalisation)() })
}
