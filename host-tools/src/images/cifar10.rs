//! CIFAR-10 in its authors' binary files: records of a label and three planes of 32×32 pixels (Krizhevsky 2009).

use std::{
    borrow::Cow,
    fs::File,
    io::{Cursor, Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use distill_core::Shape;
use png::{BitDepth, ColorType, Decoder, Info};

use super::{Images, LabelledImages};

/// Names of the classes, in the order of the labels.
pub const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// The training files, then the test file.
pub const FILES: [&str; 6] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
];
const TEST_FILE: &str = FILES[5];

/// Images in each file.
pub const IMAGES_PER_FILE: usize = 10_000;
const SHAPE: Shape = Shape { channels: 3, height: 32, width: 32 };
const PIXELS: usize = 3 * 32 * 32;
const RECORD: usize = 1 + PIXELS;
/// Length of each file in bytes.
pub const FILE_BYTES: usize = IMAGES_PER_FILE * RECORD;

/// The first 1,000 test images as a sheet of 40 × 25, with the labels in a text chunk; see `assets/README.md`.
const BUILTIN_SHEET: &[u8] = include_bytes!("../../assets/cifar10-test-1000.png");
const SHEET_COLUMNS: usize = 40;
const SHEET_ROWS: usize = 25;

/// Images and the class of each, in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CifarImages {
    /// All images one after another, each `[C, H, W]`, 0 to 255.
    pub pixels: Vec<u8>,
    /// Index of each image's class.
    pub labels: Vec<u16>,
}

impl Images for CifarImages {
    fn shape(&self) -> Shape {
        SHAPE
    }

    fn len(&self) -> usize {
        self.labels.len()
    }

    fn checksum(&self) -> Result<u32> {
        Ok(crc32fast::hash(&self.pixels))
    }

    fn pixels(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(&self.pixels[range.start * PIXELS..range.end * PIXELS]))
    }
}

impl LabelledImages for CifarImages {
    fn labels(&self) -> &[u16] {
        &self.labels
    }
}

/// The file of test images in `folder`, or in its sub-folder `cifar-10-batches-bin`, the name in the authors' archive.
pub fn test_file(folder: &Path) -> Option<PathBuf> {
    find(folder, TEST_FILE)
}

/// The first file of training images there.
pub fn training_file(folder: &Path) -> Option<PathBuf> {
    find(folder, FILES[0])
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    ["cifar-10-batches-bin", ""].map(|inner| folder.join(inner).join(name)).into_iter().find(|path| path.exists())
}

/// The 10,000 test images in that file.
///
/// # Errors
/// The file is missing, has another length, or holds a label that is not a class.
pub fn read_test(folder: &Path) -> Result<CifarImages> {
    let (mut file, path) = open_file(folder, TEST_FILE)?;
    let mut records = Vec::with_capacity(FILE_BYTES);
    let read = file.read_to_end(&mut records).map_err(Into::into).and_then(|_| images(&records));
    read.with_context(|| format!("cannot read {}", path.display()))
}

/// The 50,000 training images in the other files, read one by one: they are 154 MB.
#[derive(Clone, Debug)]
pub struct TrainingImages {
    files: Vec<PathBuf>,
    /// Empty unless they were asked for.
    labels: Vec<u16>,
}

impl TrainingImages {
    /// Finds the files in `folder`, and checks their lengths.
    ///
    /// # Errors
    /// As [`read_test`].
    pub fn open(folder: &Path) -> Result<Self> {
        let files = FILES[..5].iter().map(|name| open_file(folder, name).map(|(_, path)| path));
        Ok(Self { files: files.collect::<Result<_>>()?, labels: Vec::new() })
    }

    /// The same, with their labels read.
    ///
    /// # Errors
    /// As [`read_test`].
    pub fn labelled(mut self) -> Result<Self> {
        let mut labels = Vec::with_capacity(self.len());
        self.each(0..self.len(), |record| labels.push(u16::from(record[0])))?;
        let wrong = labels.iter().position(|&label| usize::from(label) >= CLASSES.len());
        if let Some(image) = wrong {
            let (file, place) = (self.files[image / IMAGES_PER_FILE].display(), image % IMAGES_PER_FILE);
            bail!("image {place} of {file} has label {}, there are {} classes", labels[image], CLASSES.len());
        }
        self.labels = labels;
        Ok(self)
    }

    /// Shows the records of images.
    fn each(&self, range: Range<usize>, mut show: impl FnMut(&[u8])) -> Result<()> {
        let mut record = [0; RECORD];
        for index in range {
            let path = &self.files[index / IMAGES_PER_FILE];
            let mut read = || {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start((index % IMAGES_PER_FILE * RECORD) as u64))?;
                file.read_exact(&mut record)
            };
            read().with_context(|| format!("cannot read {}", path.display()))?;
            show(&record);
        }
        Ok(())
    }
}

impl Images for TrainingImages {
    fn shape(&self) -> Shape {
        SHAPE
    }

    fn len(&self) -> usize {
        self.files.len() * IMAGES_PER_FILE
    }

    fn checksum(&self) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        self.each(0..self.len(), |record| hasher.update(&record[1..]))?;
        Ok(hasher.finalize())
    }

    fn pixels(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let mut all = Vec::with_capacity(range.len() * PIXELS);
        self.each(range, |record| all.extend_from_slice(&record[1..]))?;
        Ok(Cow::Owned(all))
    }
}

impl LabelledImages for TrainingImages {
    fn labels(&self) -> &[u16] {
        &self.labels
    }
}

/// A binary file of the right length, and where it is.
fn open_file(folder: &Path, name: &str) -> Result<(File, PathBuf)> {
    let path = find(folder, name).unwrap_or_else(|| folder.join(name));
    let shown = path.display();
    let hint = "get CIFAR-10 with `distill data fetch cifar10`, or name a folder that has it";
    let file = File::open(&path).with_context(|| format!("cannot open {shown}: {hint}"))?;
    let (length, expected) = (file.metadata()?.len(), FILE_BYTES as u64);
    ensure!(length == expected, "{shown} is not a file of CIFAR-10: {length} bytes, expected {expected}");
    Ok((file, path))
}

/// The first 1,000 test images, built in.
pub fn builtin_test_images() -> Result<CifarImages> {
    let (columns, rows) = (32 * SHEET_COLUMNS, 32 * SHEET_ROWS);
    let (rgb, info) = decode_rgb(BUILTIN_SHEET, columns, rows).context("the built-in images")?;
    let text = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == "labels");
    let labels = text.context("the built-in images have no labels")?.text.bytes().map(|digit| digit.wrapping_sub(b'0'));
    let mut records = Vec::with_capacity(SHEET_COLUMNS * SHEET_ROWS * RECORD);
    for (image, label) in labels.take(SHEET_COLUMNS * SHEET_ROWS).enumerate() {
        let (top, left) = (32 * (image / SHEET_COLUMNS), 32 * (image % SHEET_COLUMNS));
        push_record(&mut records, label, &rgb, |y, x| (top + y) * columns + left + x);
    }
    images(&records)
}

/// The content of one binary file, from a PNG whose row `i` is image `i` (1,024 RGB pixels, row by row).
pub fn records_from_png_rows(png: &[u8], labels: &[u8]) -> Result<Vec<u8>> {
    ensure!(labels.len() == IMAGES_PER_FILE, "{} labels for {IMAGES_PER_FILE} images", labels.len());
    let (rgb, _) = decode_rgb(png, 32 * 32, IMAGES_PER_FILE)?;
    let mut records = Vec::with_capacity(FILE_BYTES);
    for (image, &label) in labels.iter().enumerate() {
        push_record(&mut records, label, &rgb, |y, x| 32 * (32 * image + y) + x);
    }
    Ok(records)
}

fn images(records: &[u8]) -> Result<CifarImages> {
    let mut pixels = Vec::with_capacity(records.len());
    let mut labels = Vec::with_capacity(records.len() / RECORD);
    for record in records.chunks_exact(RECORD) {
        let label = u16::from(record[0]);
        if usize::from(label) >= CLASSES.len() {
            bail!("image {} has label {label}, there are {} classes", labels.len(), CLASSES.len());
        }
        labels.push(label);
        pixels.extend_from_slice(&record[1..]);
    }
    Ok(CifarImages { pixels, labels })
}

/// Appends one image; `pixel(y, x)` is the index of its pixel in `rgb`.
fn push_record(records: &mut Vec<u8>, label: u8, rgb: &[u8], pixel: impl Fn(usize, usize) -> usize) {
    records.push(label);
    for channel in 0..3 {
        for y in 0..32 {
            records.extend((0..32).map(|x| rgb[3 * pixel(y, x) + channel]));
        }
    }
}

/// The interleaved 8-bit RGB pixels of a PNG that must have this size, and its header.
fn decode_rgb(png: &[u8], width: usize, height: usize) -> Result<(Vec<u8>, Info<'static>)> {
    let mut reader = Decoder::new(Cursor::new(png)).read_info()?;
    let found = (reader.info().width as usize, reader.info().height as usize, reader.output_color_type());
    let expected = (width, height, (ColorType::Rgb, BitDepth::Eight));
    ensure!(found == expected, "the PNG is {found:?}, expected {expected:?}");
    let mut rgb = vec![0; 3 * width * height];
    reader.next_frame(&mut rgb)?;
    Ok((rgb, reader.info().clone()))
}
