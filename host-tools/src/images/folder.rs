//! A folder of pictures whose classes follow from names.
//!
//! - Class folders: the sub-folders are the classes 0, 1, … in byte order of their names, or, if every name is one of the
//!   network's classes, those classes.
//! - `<index>_…` files, such as `0007_n01518878.jpg`: the number before the first underscore is the class.
//!
//! Images are in byte order of their paths. A picture is decoded each time it is read.

use std::{
    borrow::Cow,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use distill_core::Shape;
use rayon::prelude::*;

use super::{LabelledImages, Picture, Preparation};
use crate::network::{Network, ending};

const ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];
const EXPECTED: &str =
    "expected a sub-folder of .jpg or .png files for each class, or files named by class such as 0007_n01518878.jpg";

/// Pictures on a disk, and how they are prepared for a network.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    shape: Shape,
    preparation: Preparation,
    files: Vec<PathBuf>,
    labels: Vec<u16>,
}

impl ImageFolder {
    /// Lists the pictures in `folder` and their classes, without opening any.
    ///
    /// # Errors
    /// No pictures, both kinds of names at once, a name without a class, or a class that the network does not have.
    pub fn open(folder: &Path, network: &Network, preparation: Preparation) -> Result<Self> {
        let shape = network.input();
        ensure!(shape.channels == 3, "the network takes {} channels, pictures have 3", shape.channels);
        let Listing { folders, pictures } = Listing::of(folder)?;
        let shown = folder.display();
        ensure!(folders.is_empty() || pictures.is_empty(), "{shown} holds both pictures and sub-folders: {EXPECTED}");
        let labelled = if folders.is_empty() {
            by_file_name(folder, &pictures, network.logits())
        } else {
            by_class_folder(folder, &folders, network)
        }?;
        ensure!(
            !labelled.is_empty(),
            "there are neither pictures nor CIFAR-10's test_batch.bin in {shown}: {EXPECTED}"
        );
        let (files, labels) = labelled.into_iter().unzip();
        Ok(Self { shape, preparation, files, labels })
    }

    /// The pictures, in order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    fn read(&self, index: usize, image: &mut [u8]) -> Result<()> {
        let file = &self.files[index];
        let picture = fs::read(file).map_err(Into::into).and_then(|bytes| Picture::decode(&bytes));
        let picture = picture.with_context(|| format!("cannot read {}", file.display()))?;
        self.preparation.prepare(&picture, self.shape, image);
        Ok(())
    }
}

impl LabelledImages for ImageFolder {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn labels(&self) -> &[u16] {
        &self.labels
    }

    fn pixels(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let elements = self.shape.elements();
        let mut pixels = vec![0; range.len() * elements];
        let images = pixels.par_chunks_exact_mut(elements).zip(range);
        // The error must be that of the first image, whichever thread fails first.
        let results: Vec<Result<()>> = images.map(|(image, index)| self.read(index, image)).collect();
        results.into_iter().collect::<Result<()>>()?;
        Ok(Cow::Owned(pixels))
    }
}

fn by_file_name(folder: &Path, pictures: &[String], logits: usize) -> Result<Vec<(PathBuf, u16)>> {
    let label = |name: &String| {
        let index = name.split_once('_').map(|(index, _)| index).filter(|index| is_decimal(index));
        let index = index.with_context(|| format!("{name} in {} names no class: {EXPECTED}", folder.display()))?;
        let class = index.parse::<u16>().ok().filter(|&class| usize::from(class) < logits).ok_or_else(|| {
            anyhow!(
                "{name} in {} is of class {index}, but the network's are 0 to {}: take images of its own classes",
                folder.display(),
                logits - 1
            )
        })?;
        Ok((folder.join(name), class))
    };
    pictures.iter().map(label).collect()
}

fn is_decimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn by_class_folder(folder: &Path, names: &[String], network: &Network) -> Result<Vec<(PathBuf, u16)>> {
    let known: Option<Vec<usize>> =
        names.iter().map(|name| network.manifest.classes.iter().position(|class| class == name)).collect();
    let classes = known.unwrap_or_else(|| (0..names.len()).collect());
    ensure!(
        classes.iter().all(|&class| class < network.logits()),
        "{} has {} class folders, but the network {} classes: take images of its own classes",
        folder.display(),
        names.len(),
        network.logits()
    );
    let mut labelled = Vec::new();
    for (name, class) in names.iter().zip(classes) {
        let path = folder.join(name);
        let Listing { folders, pictures } = Listing::of(&path)?;
        if let Some(inner) = folders.first() {
            let inner = path.join(inner);
            bail!("{} lies in a class folder: name the folder that holds the class folders", inner.display());
        }
        labelled.extend(pictures.iter().map(|picture| (path.join(picture), class as u16)));
    }
    Ok(labelled)
}

/// The names in a folder in byte order, without hidden ones.
struct Listing {
    folders: Vec<String>,
    pictures: Vec<String>,
}

impl Listing {
    fn of(folder: &Path) -> Result<Self> {
        let (mut folders, mut pictures, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let context = || format!("cannot read the folder {}", folder.display());
        for entry in fs::read_dir(folder).with_context(context)? {
            let path = entry.with_context(context)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                bail!("the name of {} is not UTF-8: rename it", path.display());
            };
            if name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                folders.push(name.to_owned());
            } else if ENDINGS.iter().any(|known| ending(&path).eq_ignore_ascii_case(known)) {
                pictures.push(name.to_owned());
            } else {
                others.push(name.to_owned());
            }
        }
        if let Some(name) = others.iter().min() {
            let (folder, count) = (folder.display(), others.len());
            log::warn!("ignored {count} files in {folder} that are neither .jpg nor .png, such as {name}");
        }
        folders.sort_unstable();
        pictures.sort_unstable();
        Ok(Self { folders, pictures })
    }
}
