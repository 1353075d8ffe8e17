//! What `--data` names.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{cifar10, crop::Preparation, fetch, image_folder::ImageFolder, images::LabelledImages, network::Network};

/// The images `data` names, for `network`: `cifar10` (fetched before), `builtin` (its first 1,000 test images), or a
/// folder of CIFAR-10's binary files or of pictures (see [`ImageFolder`]).
///
/// # Errors
/// What the folder lacks, and what to do.
pub fn open(data: &str, network: &Network, preparation: Preparation) -> Result<Box<dyn LabelledImages>> {
    match data {
        "cifar10" => return Ok(Box::new(cifar10::read_test(&fetch::default_dir()?)?)),
        "builtin" => return Ok(Box::new(cifar10::builtin_test_images()?)),
        _ => {}
    }
    let folder = Path::new(data);
    let hint = "name a folder of pictures, or get CIFAR-10 with `distill data fetch cifar10`";
    fs::read_dir(folder).with_context(|| format!("cannot open the folder {data}: {hint}"))?;
    if cifar10::test_file(folder).is_some() {
        return Ok(Box::new(cifar10::read_test(folder)?));
    }
    Ok(Box::new(ImageFolder::open(folder, network, preparation)?))
}
