//! VGG networks (Simonyan & Zisserman 2014), with batch norms or without: torchvision's and timm's for 224x224 pixels, and
//! those for CIFAR, whose classifier takes the one position that is left of 32x32 pixels.

use anyhow::{Context, Result, ensure};
use distill_core::{MaxPool, Op, Window};

use super::{Candidate, Family, layers::Layers};
use crate::import::Checkpoint;

pub(super) const FAMILY: Family = Family {
    title: "VGG",
    // AlexNet has another first layer of its classifier.
    tensors: &[
        &["features.0.weight", "classifier.0.weight", "classifier.6.weight"],
        &["features.0.weight", "pre_logits.fc1.weight"],
        &["features.0.weight", "classifier.weight"],
    ],
    networks,
    doubt: "",
};

/// The fully connected layers of torchvision (also chenyaofo and huyvnphan), timm, and kuangliu.
const CLASSIFIERS: [&[&str]; 3] = [
    &["classifier.0", "classifier.3", "classifier.6"],
    &["pre_logits.fc1", "pre_logits.fc2", "head.fc"],
    &["classifier"],
];
/// Convolutions of the paper's configurations A, B, D and E.
const CONVOLUTIONS: [usize; 4] = [8, 10, 13, 16];
/// Fully connected layers of the paper's networks, which their names count.
const CONNECTED: usize = 3;
const POOLS: usize = 5;

/// A layer of the features, in place of its index.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Feature {
    Convolution,
    Norm,
    Activation,
    Pool,
}

fn networks(checkpoint: &Checkpoint) -> Result<Vec<Candidate>> {
    let features = features(|tensor| checkpoint.tensors.contains_key(tensor));
    let count = |kind| features.iter().filter(|feature| **feature == kind).count();
    let (convolutions, pools) = (count(Feature::Convolution), count(Feature::Pool));
    ensure!(
        CONVOLUTIONS.contains(&convolutions) && pools == POOLS,
        "its names are those of VGG, but it has {convolutions} convolutions in {pools} groups, and weights do not say where \
         such a network pools: export it as .onnx"
    );
    // How many positions are left of an image is what tells its size.
    let last = features.iter().rposition(|feature| *feature == Feature::Convolution).unwrap_or(0);
    let channels = checkpoint.extent(&format!("features.{last}.weight"), 0).unwrap_or(0).max(1);
    let first = classifier(|tensor| checkpoint.tensors.contains_key(tensor))[0];
    let matrix = checkpoint.tensors.get(&format!("{first}.weight")).map_or(&[][..], |matrix| &matrix.dims);
    let positions =
        matrix.iter().skip(1).try_fold(1usize, |inputs, &extent| inputs.checked_mul(extent)).unwrap_or(0) / channels;
    let side = positions.isqrt();
    ensure!(
        side > 0 && side * side == positions,
        "{first} takes {positions} positions of {channels} channels, which are no square: export the network as .onnx"
    );
    let norms = if count(Feature::Norm) > 0 { "_bn" } else { "" };
    let cifar = if side == 1 { "-cifar" } else { "" };
    let network = Candidate::new(checkpoint, "features.0.weight", side << POOLS, build);
    Ok(vec![network.named(format!("vgg{}{norms}{cifar}", convolutions + CONNECTED))])
}

/// An activation follows each layer; where the next place has no weights either, it is a pool.
fn features(has: impl Fn(&str) -> bool) -> Vec<Feature> {
    let mut features = Vec::new();
    let weight = |place: usize| has(&format!("features.{place}.weight"));
    while weight(features.len()) {
        features.push(Feature::Convolution);
        if has(&format!("features.{}.running_mean", features.len())) {
            features.push(Feature::Norm);
        }
        features.push(Feature::Activation);
        if !weight(features.len()) {
            features.push(Feature::Pool);
        }
    }
    features
}

fn classifier(has: impl Fn(&str) -> bool) -> &'static [&'static str] {
    let found = CLASSIFIERS.into_iter().find(|names| has(&format!("{}.weight", names[0])));
    found.unwrap_or(CLASSIFIERS[0])
}

fn build(layers: &mut Layers<'_>) -> Result<()> {
    let window = Window { kernel: [2; 2], stride: [2; 2], padding: [0; 4] };
    let mut x = 0;
    for (place, feature) in features(|tensor| layers.has(tensor)).into_iter().enumerate() {
        let name = format!("features.{place}");
        x = match feature {
            Feature::Convolution => layers.conv(&name, x, 1)?,
            Feature::Norm => layers.norm(&name, x)?,
            Feature::Activation => layers.plain(&name, Op::RELU, &[x])?,
            Feature::Pool => layers.plain(&name, Op::MaxPool(MaxPool { window }), &[x])?,
        };
    }
    x = layers.plain("flatten", Op::Flatten, &[x])?;
    let names = classifier(|tensor| layers.has(tensor));
    for (index, name) in names.iter().enumerate() {
        x = layers.linear(name, x).with_context(|| {
            format!("{name} takes another number of positions than images of this size leave: leave --input out")
        })?;
        if index + 1 < names.len() {
            x = layers.plain(&format!("{name}.activation"), Op::RELU, &[x])?;
        }
    }
    Ok(())
}
