//! Images to measure networks on, with labels or without, and to learn from: CIFAR-10, or folders of pictures.

pub mod cifar10;
mod crop;
mod download;
mod fetch;
mod folder;
mod labelled;
mod part;
mod picture;
mod resample;
mod variation;

use std::{
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Context, Result, ensure};

use self::cifar10::{CifarImages, TrainingImages};
pub use self::{
    crop::{CROP_FRACTION, Preparation},
    download::Download,
    fetch::{Fetched, cifar10_folder, fetch_cifar10},
    folder::{ImageFolder, Pictures},
    labelled::{Images, LabelledImages, check_labels, normalised},
    part::{Part, Split, TRAIN_SPLIT},
    picture::{Colour, Picture},
    resample::Filter,
    variation::Variation,
};
use crate::network::Network;

/// The images that `data` names: `cifar10` (already fetched), `builtin` (its first 1,000 test images), or a folder of
/// CIFAR-10's binary files or of pictures for `network` (see [`ImageFolder`]).
///
/// # Errors
/// They cannot be found, or the network's accuracy on them cannot be measured ([`check_labels`]).
pub fn open(data: &str, network: &Network, preparation: Preparation) -> Result<Box<dyn LabelledImages>> {
    let images: Box<dyn LabelledImages> = match known(data)? {
        Some(images) => Box::new(images),
        None => Box::new(ImageFolder::open(Path::new(data), network, preparation)?),
    };
    check_labels(network, &*images)?;
    Ok(images)
}

/// The images that `data` names, as for [`open`]; but the folder's pictures need no classes: they lie in it or in its
/// sub-folders.
///
/// # Errors
/// They cannot be found, or the network takes other ones.
pub fn open_unlabelled(data: &str, network: &Network, preparation: Preparation) -> Result<Box<dyn Images>> {
    let images: Box<dyn Images> = match known(data)? {
        Some(images) => Box::new(images),
        None => Box::new(Pictures::open(Path::new(data), network, preparation)?),
    };
    labelled::check_shape(network, &*images)?;
    Ok(images)
}

/// Images to learn from that `data` names: CIFAR-10's training images (`cifar10`, or a folder with its binary files), or a
/// folder's pictures. None of CIFAR-10's test images is among them. Their classes stay unknown.
///
/// # Errors
/// They cannot be found, the network takes other ones, or a `share` that [`Split`] does not take.
pub fn open_training(data: &str, network: &Network, preparation: Preparation, share: f32) -> Result<Split> {
    let images: Rc<dyn Images> = match training_images(data)? {
        Training::Cifar(images) => Rc::new(images),
        Training::Folder(folder) => Rc::new(Pictures::open(&folder, network, preparation)?),
    };
    labelled::check_shape(network, &*images)?;
    Split::new(images, &[], share)
}

/// The same with the class of each image, as for [`open`].
///
/// # Errors
/// As [`open_training`]; as [`check_labels`].
pub fn open_lessons(data: &str, network: &Network, preparation: Preparation, share: f32) -> Result<Split> {
    let images: Rc<dyn LabelledImages> = match training_images(data)? {
        Training::Cifar(images) => Rc::new(images.labelled()?),
        Training::Folder(folder) => Rc::new(ImageFolder::open(&folder, network, preparation)?),
    };
    check_labels(network, &*images)?;
    Split::new(images.clone(), images.labels(), share)
}

/// The names of the classes that `data` has: CIFAR-10's, or those of the sub-folders of a folder, as [`ImageFolder`] takes them. Folders
/// that are named by numbers are classes without a name, up to the largest.
///
/// # Errors
/// A folder that cannot be read, or one without sub-folders.
pub fn class_names(data: &str) -> Result<Vec<String>> {
    let Training::Folder(folder) = training_images(data)? else {
        return Ok(cifar10::CLASSES.map(str::to_owned).to_vec());
    };
    folder::class_names(&folder)
}

/// Where images to learn from are.
enum Training {
    Cifar(TrainingImages),
    Folder(PathBuf),
}

fn training_images(data: &str) -> Result<Training> {
    ensure!(data != "builtin", "the built-in images are for measuring: nothing learns from them");
    let folder = if data == "cifar10" { cifar10_folder()? } else { data.into() };
    Ok(match data == "cifar10" || cifar10::training_file(&folder).is_some() {
        true => Training::Cifar(TrainingImages::open(&folder)?),
        false => Training::Folder(folder),
    })
}

/// CIFAR-10's images, unless `data` is another folder.
fn known(data: &str) -> Result<Option<CifarImages>> {
    match data {
        "cifar10" => return cifar10::read_test(&cifar10_folder()?).map(Some),
        "builtin" => return cifar10::builtin_test_images().map(Some),
        _ => {}
    }
    let folder = Path::new(data);
    let hint = "name a folder of pictures, or get CIFAR-10 with `distill data fetch cifar10`";
    fs::read_dir(folder).with_context(|| format!("cannot open the folder {data}: {hint}"))?;
    cifar10::test_file(folder).map(|_| cifar10::read_test(folder)).transpose()
}
