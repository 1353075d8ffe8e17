//! torchvision's VGG networks (Simonyan & Zisserman 2014), with batch norms or without.

use anyhow::{Result, ensure};
use distill_core::{MaxPool, Op, Shape, Window};

use super::{Architecture, layers::Layers};
use crate::import::Checkpoint;

/// AlexNet has the second one too.
const TENSORS: [&str; 3] = ["features.0.weight", "classifier.6.weight", "classifier.0.weight"];

pub(super) const ARCHITECTURE: Architecture =
    Architecture { title: "VGG", tensors: &TENSORS, describe, build, normalisation: || None };

fn describe(checkpoint: &Checkpoint) -> (String, Shape) {
    let layer = |name: &str| name.ends_with(".weight");
    let kernels = checkpoint.tensors.iter().filter(|(name, tensor)| layer(name) && tensor.dims.len() > 1).count();
    let norms = checkpoint.tensors.contains_key("features.1.running_mean");
    (format!("vgg{kernels}{}", if norms { "_bn" } else { "" }), Shape::new(3, 224, 224))
}

fn build(layers: &mut Layers<'_>) -> Result<()> {
    let window = Window { kernel: [2; 2], stride: [2; 2], padding: [0; 4] };
    let (mut x, mut place) = (0, 0);
    // An activation follows each layer; where the next place has no weights either, it is a pool.
    while layers.has(&format!("features.{place}.weight")) {
        x = layers.conv(&format!("features.{place}"), x, 1)?;
        place += 1;
        if layers.has(&format!("features.{place}.running_mean")) {
            x = layers.norm(&format!("features.{place}"), x)?;
            place += 1;
        }
        x = layers.plain(&format!("features.{place}"), Op::RELU, &[x])?;
        place += 1;
        if !layers.has(&format!("features.{place}.weight")) {
            x = layers.plain(&format!("features.{place}"), Op::MaxPool(MaxPool { window }), &[x])?;
            place += 1;
        }
    }
    let last = layers.shape(x);
    ensure!(
        (last.height, last.width) == (7, 7),
        "VGG's classifier takes 7x7 positions, but {last} are left: give the network images of 224x224"
    );
    x = layers.plain("flatten", Op::Flatten, &[x])?;
    for (index, name) in ["classifier.0", "classifier.3", "classifier.6"].into_iter().enumerate() {
        x = layers.linear(name, x)?;
        if index < 2 {
            x = layers.plain(&format!("classifier.{}", 3 * index + 1), Op::RELU, &[x])?;
        }
    }
    Ok(())
}
