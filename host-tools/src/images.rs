//! Labelled images to measure networks on: CIFAR-10, or folders of pictures.

pub mod cifar10;
mod crop;
mod download;
mod fetch;
mod folder;
mod labelled;
mod picture;
mod resample;

use std::{fs, path::Path};

use anyhow::{Context, Result};

pub use self::{
    crop::{CROP_FRACTION, Preparation},
    download::Download,
    fetch::{Fetched, cifar10_folder, fetch_cifar10},
    folder::ImageFolder,
    labelled::{LabelledImages, normalised},
    picture::Picture,
    resample::Filter,
};
use crate::network::Network;

/// The images that `data` names: `cifar10` (already fetched), `builtin` (its first 1,000 test images), or a folder of
/// CIFAR-10's binary files or of pictures for `network` (see [`ImageFolder`]).
pub fn open(data: &str, network: &Network, preparation: Preparation) -> Result<Box<dyn LabelledImages>> {
    match data {
        "cifar10" => return Ok(Box::new(cifar10::read_test(&cifar10_folder()?)?)),
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
