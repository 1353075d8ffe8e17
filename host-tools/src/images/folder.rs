//! Folders of pictures, and the classes that follow from names.
//!
//! - Class folders, told by the names of all of them: classes of the network; or numbers, which are indices of its classes;
//!   or any other names, which are the classes 0, 1, … in byte order.
//! - `<index>_…` files, such as `0007_n01518878.jpg`: the number before the first underscore is the class.
//!
//! Images are in byte order of their paths. A picture is decoded each time it is read.

use std::{
    borrow::Cow,
    fs::{self, File},
    io::{self, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use distill_core::Shape;
use distill_device::Progress;
use rayon::prelude::*;

use super::{Colour, Images, LabelledImages, Picture, Preparation};
use crate::network::{Network, ending};

/// Pictures that are decoded at once to check them.
const CHECKED: usize = 32;

const ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];
const EXPECTED: &str =
    "expected a sub-folder of .jpg or .png files for each class, or files named by class such as 0007_n01518878.jpg";

/// Pictures on a disk, and how they are prepared for a network.
#[derive(Clone, Debug)]
pub struct Pictures {
    shape: Shape,
    colour: Colour,
    preparation: Preparation,
    files: Vec<PathBuf>,
}

impl Pictures {
    /// Lists the pictures in `folder` and in its sub-folders, without opening any.
    ///
    /// # Errors
    /// No pictures, or a network that takes other channels than pictures have.
    pub fn open(folder: &Path, network: &Network, preparation: Preparation) -> Result<Self> {
        let Listing { folders, pictures } = Listing::of(folder)?;
        let mut files: Vec<PathBuf> = pictures.iter().map(|picture| folder.join(picture)).collect();
        for path in folders.iter().map(|name| folder.join(name)) {
            files.extend(Listing::of(&path)?.pictures.iter().map(|picture| path.join(picture)));
        }
        ensure!(!files.is_empty(), "there are no .jpg or .png files in {}", folder.display());
        Self::of(files, network, preparation)
    }

    fn of(files: Vec<PathBuf>, network: &Network, preparation: Preparation) -> Result<Self> {
        let shape = network.input();
        Ok(Self { shape, colour: Colour::of_channels(shape.channels)?, preparation, files })
    }

    fn read(&self, index: usize, image: &mut [u8]) -> Result<()> {
        let file = &self.files[index];
        let read = || {
            ensure!(file.is_file(), "it is not a regular file");
            Picture::decode(&fs::read(file)?, self.colour)
        };
        let picture = read();
        let picture = picture.with_context(|| format!("cannot read {}", file.display()))?;
        self.preparation.prepare(&picture, self.shape, image);
        Ok(())
    }
}

impl Images for Pictures {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn len(&self) -> usize {
        self.files.len()
    }

    fn check(&self) -> Result<()> {
        let count = self.len();
        let mut progress = Progress::new("checking the pictures", Some(count as u64), "{pos}/{len} pictures")?;
        for start in (0..count).step_by(CHECKED) {
            let end = count.min(start + CHECKED);
            self.pixels(start..end)?;
            progress.set(end as u64);
        }
        Ok(())
    }

    /// Of all files' bytes: reading them is cheap beside decoding.
    fn checksum(&self) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        for file in &self.files {
            let context = || format!("cannot read {}", file.display());
            ensure!(file.is_file(), "{}: it is not a regular file", context());
            io::copy(&mut File::open(file).with_context(context)?, &mut Hashing(&mut hasher)).with_context(context)?;
        }
        Ok(hasher.finalize())
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

/// Hashes what is written to it.
struct Hashing<'a>(&'a mut crc32fast::Hasher);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Pictures whose names, or whose folders' names, tell their classes.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    pictures: Pictures,
    labels: Vec<u16>,
}

impl ImageFolder {
    /// Lists the pictures in `folder` and their classes, without opening any. Classes without a folder are logged.
    ///
    /// # Errors
    /// No pictures, both kinds of names at once, a name without a class, or a class that the network does not have.
    pub fn open(folder: &Path, network: &Network, preparation: Preparation) -> Result<Self> {
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
        Ok(Self { pictures: Pictures::of(files, network, preparation)?, labels })
    }

    /// The pictures, in order.
    pub fn files(&self) -> &[PathBuf] {
        &self.pictures.files
    }
}

impl Images for ImageFolder {
    fn shape(&self) -> Shape {
        self.pictures.shape()
    }

    fn len(&self) -> usize {
        self.pictures.len()
    }

    fn check(&self) -> Result<()> {
        self.pictures.check()
    }

    fn checksum(&self) -> Result<u32> {
        self.pictures.checksum()
    }

    fn pixels(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        self.pictures.pixels(range)
    }
}

impl LabelledImages for ImageFolder {
    fn labels(&self) -> &[u16] {
        &self.labels
    }
}

/// The names of the classes in a folder of class folders.
pub(super) fn class_names(folder: &Path) -> Result<Vec<String>> {
    let names = Listing::of(folder)?.folders;
    ensure!(!names.is_empty(), "there is no sub-folder in {}: {EXPECTED}", folder.display());
    match names.iter().map(|name| name.parse::<u16>().ok().filter(|_| is_decimal(name))).collect::<Option<Vec<u16>>>() {
        Some(numbers) => Ok((0..=numbers.into_iter().max().unwrap_or(0)).map(|number| number.to_string()).collect()),
        None => Ok(names),
    }
}

fn by_file_name(folder: &Path, pictures: &[String], classes: usize) -> Result<Vec<(PathBuf, u16)>> {
    let label = |name: &String| {
        let index = name.split_once('_').map(|(index, _)| index).filter(|index| is_decimal(index));
        let index = index.with_context(|| format!("{name} in {} names no class: {EXPECTED}", folder.display()))?;
        Ok((folder.join(name), class_of(index, classes).with_context(|| stray(folder, name, index, classes))? as u16))
    };
    pictures.iter().map(label).collect()
}

fn is_decimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The class of this index, if there is one.
fn class_of(index: &str, classes: usize) -> Option<usize> {
    index.parse().ok().filter(|&class| class < classes)
}

fn stray(folder: &Path, name: &str, index: &str, classes: usize) -> String {
    format!(
        "{name} in {} is of class {index}, but the network's are 0 to {}: take images of its own classes",
        folder.display(),
        classes - 1
    )
}

fn by_class_folder(folder: &Path, names: &[String], network: &Network) -> Result<Vec<(PathBuf, u16)>> {
    let mut labelled = Vec::new();
    for (name, class) in names.iter().zip(folder_classes(folder, names, network)?) {
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

/// The class of each folder in `names`.
fn folder_classes(folder: &Path, names: &[String], network: &Network) -> Result<Vec<usize>> {
    let (shown, count, classes) = (folder.display(), names.len(), network.logits());
    let known: Vec<Option<usize>> =
        names.iter().map(|name| network.manifest.classes.iter().position(|class| class == name)).collect();
    let few = |how: &str| {
        if count < classes {
            log::warn!("{shown} has folders for {count} of the network's {classes} classes: {how}");
        }
    };
    if known.iter().any(Option::is_some) {
        let class = |(name, class): (&String, &Option<usize>)| {
            class.with_context(|| format!("{name} in {shown} is none of the network's classes: rename or remove it"))
        };
        let named = names.iter().zip(&known).map(class).collect::<Result<_>>()?;
        few("told by their names");
        return Ok(named);
    }
    if names.iter().all(|name| is_decimal(name)) {
        let index = |name: &String| class_of(name, classes).with_context(|| stray(folder, name, name, classes));
        let indices = names.iter().map(index).collect::<Result<_>>()?;
        few("their names are taken as the classes' indices, from 0");
        return Ok(indices);
    }
    ensure!(
        count <= classes,
        "{shown} has {count} class folders, but the network {classes} classes: take images of its own classes"
    );
    few(&format!(
        "taken as its first, 0 to {} in order of their names; name each by its class's index if that is wrong",
        count - 1
    ));
    Ok((0..count).collect())
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
