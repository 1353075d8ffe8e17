//! Networks from the names of their tensors in PyTorch checkpoints: the only code specific to architectures.
//!
//! A checkpoint holds weights, not the network. Widths, kernels, groups and depths follow from the tensors; strides,
//! activations and shortcuts do not, and are defined in a file for each architecture.

mod efficientnet_lite;
mod layers;
mod mobilenet_v2;
mod resnet;
mod timm;
mod vgg;

use anyhow::{Context, Result, bail, ensure};
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

/// A family of architectures with the same names: how to recognise a checkpoint of it.
struct Family {
    title: &'static str,
    /// Tensors that identify it, each a set that does; unless an entry of [`KNOWN`] before it matches.
    tensors: &'static [&'static [&'static str]],
    /// The networks that a checkpoint may be of.
    networks: fn(&Checkpoint) -> Result<Vec<Candidate>>,
    /// What the weights do not tell, where they fit several.
    doubt: &'static str,
}

/// A network that the names and shapes of a checkpoint's tensors fit.
struct Candidate {
    name: String,
    /// The usual shape of its images.
    input: Shape,
    build: fn(&mut Layers<'_>) -> Result<()>,
    normalisation: Option<Normalisation>,
}

impl Candidate {
    /// A network for square images, with as many channels as the kernel `first` takes.
    fn new(checkpoint: &Checkpoint, first: &str, extent: usize, build: fn(&mut Layers<'_>) -> Result<()>) -> Self {
        let channels = checkpoint.extent(first, 1).unwrap_or(3);
        Self { name: String::new(), input: Shape::new(channels, extent, extent), build, normalisation: None }
    }

    fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    fn normalised(self, normalisation: Normalisation) -> Self {
        Self { normalisation: Some(normalisation), ..self }
    }
}

static KNOWN: [Family; 5] =
    [efficientnet_lite::FAMILY, mobilenet_v2::FAMILY, vgg::FAMILY, timm::FAMILY, resnet::FAMILY];

/// The network of a checkpoint. `asked` is the architecture it must have, if any, and `input` the shape of an image instead
/// of the usual one. A prefix that all names share is left out.
///
/// # Errors
/// An unknown architecture, another one than asked for, several that fit, or a tensor that is missing, does not fit or is
/// left over.
pub fn build(checkpoint: &mut Checkpoint, asked: Option<&str>, input: Option<Shape>) -> Result<Built> {
    let Some((family, prefix)) = recognise(checkpoint) else {
        let titles: Vec<&str> = KNOWN.iter().map(|family| family.title).collect();
        bail!(
            "no known architecture has these tensors (known: {}); the file starts with {}. Export the network as .onnx \
             instead",
            titles.join(", "),
            checkpoint.tensors.keys().next().map_or("nothing", String::as_str)
        );
    };
    if let Some((name, tensor)) = checkpoint.tensors.iter().find(|(name, _)| !name.starts_with(&prefix)) {
        bail!(
            "tensor {name} with shape {:?} has no place beside the network, whose names begin with {prefix}: export the \
             whole as .onnx, or save the network without it",
            tensor.dims
        );
    }
    checkpoint.strip(&prefix);
    let network = choose((family.networks)(checkpoint)?, asked, family.doubt)?;
    let mut layers = Layers::new(checkpoint, input.unwrap_or(network.input));
    (network.build)(&mut layers)?;
    let graph = layers.finish();
    if let Some((name, tensor)) = checkpoint.tensors.iter().next() {
        bail!("tensor {name} with shape {:?} has no place in {}", tensor.dims, network.name);
    }
    Ok(Built { graph, architecture: network.name, normalisation: network.normalisation })
}

/// The tensors of a network of this name for so many classes, all zero.
///
/// # Errors
/// An unknown name.
pub fn zeros(name: &str, classes: usize) -> Result<Checkpoint> {
    resnet::cifar(name, classes).with_context(|| {
        format!("{name} is neither a file nor a network that is known by its name: those are resnet20, resnet32 and so on, with 6n + 2 layers, for CIFAR-10")
    })
}

/// The first family whose tensors a checkpoint has, and what its names have in front of the family's.
fn recognise(checkpoint: &Checkpoint) -> Option<(&'static Family, String)> {
    let has = |prefix: &str, tensor: &str| checkpoint.tensors.contains_key(&format!("{prefix}{tensor}"));
    let prefix = |set: &[&str]| {
        let prefixes = checkpoint.tensors.keys().filter_map(|name| name.strip_suffix(set[0]));
        let mut whole = prefixes.filter(|prefix| prefix.is_empty() || prefix.ends_with('.'));
        whole.find(|prefix| set.iter().all(|tensor| has(prefix, tensor))).map(str::to_owned)
    };
    KNOWN.iter().find_map(|family| Some((family, family.tensors.iter().find_map(|set| prefix(set))?)))
}

/// The network that was asked for, or the only one that fits.
fn choose(mut networks: Vec<Candidate>, asked: Option<&str>, doubt: &str) -> Result<Candidate> {
    let names: Vec<String> = networks.iter().map(|network| network.name.clone()).collect();
    let Some(asked) = asked else {
        ensure!(
            names.len() == 1,
            "the names and shapes of its tensors fit {}, and {doubt}: say which it is, by --arch {}, \
             or export it as .onnx",
            names.join(" and "),
            names.join(" or --arch ")
        );
        return Ok(networks.remove(0));
    };
    let short = |name: &str| names.len() == 1 && name.trim_end_matches("-cifar") == asked;
    let found = names.iter().position(|name| name == asked || short(name));
    match found {
        Some(place) => Ok(networks.swap_remove(place)),
        None => bail!("the file's tensors are those of {}, not of {asked}", names.join(" or ")),
    }
}
