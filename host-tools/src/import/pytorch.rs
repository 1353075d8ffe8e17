//! Networks from the names of their tensors in PyTorch checkpoints: the only code specific to architectures.
//!
//! A checkpoint holds weights, not the network. Widths, kernels, groups and depths follow from the tensors; strides,
//! activations and shortcuts do not, and are defined in a file for each architecture.

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

/// A network built from a checkpoint.
pub struct Built {
    pub graph: Graph,
    pub architecture: String,
    /// How its pixels are normalised, if the architecture defines that.
    pub normalisation: Option<Normalisation>,
}

/// An architecture: how to recognise a checkpoint of it, and how to build the network.
struct Architecture {
    title: &'static str,
    /// Tensors that identify it, unless an entry of [`KNOWN`] before it matches.
    tensors: &'static [&'static str],
    /// The network's name and the usual shape of its images.
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

/// The network of a checkpoint. `asked` is the architecture it must have, if any, and `input` the shape of an image instead
/// of the usual one.
///
/// # Errors
/// An unknown architecture, another one than asked for, or a tensor that is missing, does not fit or is left over.
pub fn build(checkpoint: &mut Checkpoint, asked: Option<&str>, input: Option<Shape>) -> Result<Built> {
    let has = |tensor: &&str| checkpoint.tensors.contains_key(*tensor);
    let Some(known) = KNOWN.iter().find(|known| known.tensors.iter().all(has)) else {
        let titles: Vec<&str> = KNOWN.iter().map(|known| known.title).collect();
        bail!(
            "no known architecture has these tensors (known: {}); the file starts with {}. Export the network as .onnx \
             instead",
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
