//! Reads a pack block by block.

use alloc::{string::String, vec, vec::Vec};

use crc32fast::Hasher;
use half::f16;
use serde::de::DeserializeOwned;

use crate::{
    block::{Block, Role, is_printable, op::Op},
    inputs::NoiseImages,
    pack::{
        CHUNK_BYTES, Calibrated, ENTRY_BYTES, Encoding, Entry, HEADER_BYTES, MAGIC, MAX_METADATA_BYTES, MAX_SECTIONS,
        Manifest, Metadata, OLDEST, PackError, UNFINISHED, VERSION, WITHOUT_INTERFACE, WeightEntry, u32_at, u64_at,
    },
    storage::ReadAt,
    tensor::{Shape, Weight, element_count},
};

/// A block without its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    /// The block's name.
    pub name: String,
    /// Stem, neighbourhood or head.
    pub role: Role,
    /// Shape of its input.
    pub input: Shape,
    /// Whether the block contains a batch norm with running statistics.
    pub has_statistics: bool,
    /// Half precision if any weight is stored in it, else single.
    pub encoding: Encoding,
}

/// An open pack. Header, index and manifest are read and checked; blocks are read on demand.
#[derive(Debug)]
pub struct Pack<R> {
    storage: R,
    manifest: Manifest,
    entries: Vec<Entry>,
    /// Metadata of the calibrated noise images, and their section.
    noise: Option<(Calibrated, Entry)>,
    /// The manifest's checksum as [`read_manifest`] says, so that the fingerprint does not change with the version.
    manifest_crc: u32,
}

impl<R: ReadAt> Pack<R> {
    /// Reads and checks header, index and manifest.
    ///
    /// # Errors
    /// [`PackError`] if the file is not a pack, of another version, truncated or damaged, or has noise images of another shape
    /// than its network's input.
    pub fn open(mut storage: R) -> Result<Self, PackError<R::Error>> {
        let found = storage.length().map_err(PackError::Storage)?;
        let mut header = [0; HEADER_BYTES as usize];
        if found < HEADER_BYTES {
            let mut start = [0; 4];
            let known = found >= 4 && storage.read_at(0, &mut start).is_ok() && start == MAGIC;
            return Err(if known { PackError::Length { expected: HEADER_BYTES, found } } else { PackError::NotAPack });
        }
        storage.read_at(0, &mut header).map_err(PackError::Storage)?;
        if header[..4] != MAGIC {
            return Err(if header[..4] == UNFINISHED { PackError::Unfinished } else { PackError::NotAPack });
        }
        let version = u16::from_le_bytes([header[4], header[5]]);
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(PackError::OtherVersion(version));
        }
        if crc32fast::hash(&header[..28]) != u32_at(&header, 28) {
            return Err(PackError::Checksum { section: None });
        }
        let (sections, index_crc, expected) = (u32_at(&header, 8), u32_at(&header, 12), u64_at(&header, 16));
        if expected != found {
            return Err(PackError::Length { expected, found });
        }
        let index_end = HEADER_BYTES + u64::from(sections) * ENTRY_BYTES;
        if sections == 0 || sections > MAX_SECTIONS || index_end > found {
            return Err(PackError::Checksum { section: None });
        }
        let mut index = vec![0; (index_end - HEADER_BYTES) as usize];
        storage.read_at(HEADER_BYTES, &mut index).map_err(PackError::Storage)?;
        if crc32fast::hash(&index) != index_crc {
            return Err(PackError::Checksum { section: None });
        }
        let mut entries: Vec<Entry> = index.chunks_exact(ENTRY_BYTES as usize).map(Entry::from_bytes).collect();
        for (section, entry) in entries.iter().enumerate() {
            if entry.metadata_length > MAX_METADATA_BYTES || entry.end().is_none_or(|end| end > found) {
                return Err(PackError::Malformed { section: section as u32 });
            }
        }
        if let Some(section) = first_overlap(index_end, &entries) {
            return Err(PackError::Malformed { section: section as u32 });
        }
        let (manifest, manifest_crc) = read_manifest(&mut storage, &entries[0], version)?;
        let mut noise = None;
        if header[7] > 0 || header[6] > 1 {
            return Err(PackError::Checksum { section: None });
        }
        if header[6] == 1 {
            let section = sections - 1;
            let entry = entries.pop().filter(|_| section > 0).ok_or(PackError::Malformed { section })?;
            noise = Some((read_calibrated(&mut storage, &entry, section, &manifest)?, entry));
        }
        let mut pack = Self { storage, manifest, entries, noise, manifest_crc };
        let shape = pack.calibrated().map(|calibrated| calibrated.shape);
        if shape.is_some() && (pack.blocks() == 0 || Some(pack.outline(0)?.input) != shape) {
            return Err(PackError::Malformed { section: pack.noise_section() });
        }
        Ok(pack)
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Number of blocks in the pack.
    pub fn blocks(&self) -> usize {
        self.entries.len() - 1
    }

    /// A checksum over manifest and blocks that identifies the network; noise images do not change it.
    pub fn fingerprint(&self) -> u32 {
        let mut hasher = Hasher::new();
        let manifest = Entry { metadata_crc: self.manifest_crc, ..self.entries[0] };
        for Entry { metadata_crc, weights_crc, position, .. } in [&manifest].into_iter().chain(&self.entries[1..]) {
            [metadata_crc, weights_crc, position].iter().for_each(|part| hasher.update(&part.to_le_bytes()));
        }
        hasher.finalize()
    }

    /// Metadata of the calibrated noise images, if the pack holds any.
    pub fn calibrated(&self) -> Option<&Calibrated> {
        self.noise.as_ref().map(|(calibrated, _)| calibrated)
    }

    /// A checksum of the noise images; 0 without images.
    pub fn noise_checksum(&self) -> u32 {
        self.noise.as_ref().map_or(0, |(_, entry)| entry.weights_crc)
    }

    /// Reads the calibrated noise images; `None` if the pack holds none.
    ///
    /// # Errors
    /// [`PackError`] if the section is damaged.
    pub fn noise_images(&mut self) -> Result<Option<NoiseImages>, PackError<R::Error>> {
        let Some((Calibrated { shape, .. }, entry)) = self.noise else { return Ok(None) };
        let mut pixels = Vec::new();
        let length = usize::try_from(entry.weights_length).unwrap_or(usize::MAX);
        pixels.try_reserve_exact(length).map_err(|_| PackError::Memory { section: self.noise_section() })?;
        self.each_noise_image(|_, image| pixels.extend_from_slice(image))?;
        Ok(Some(NoiseImages::from_pixels(shape, pixels)))
    }

    /// Passes every noise image's index and pixels to `show`, with one image at a time in memory.
    pub(crate) fn each_noise_image(&mut self, mut show: impl FnMut(usize, &[u8])) -> Result<(), PackError<R::Error>> {
        let Some((Calibrated { images, shape, .. }, entry)) = self.noise else { return Ok(()) };
        let (mut image, mut hasher) = (vec![0; shape.elements()], Hasher::new());
        let mut offset = entry.offset + u64::from(entry.metadata_length);
        for index in 0..images as usize {
            self.storage.read_at(offset, &mut image).map_err(PackError::Storage)?;
            hasher.update(&image);
            show(index, &image);
            offset += image.len() as u64;
        }
        if hasher.finalize() == entry.weights_crc {
            Ok(())
        } else {
            Err(PackError::Checksum { section: Some(self.noise_section()) })
        }
    }

    fn noise_section(&self) -> u32 {
        self.entries.len() as u32
    }

    /// The position of block `index` in its network, counted from the stem at 0.
    pub fn position(&self, index: usize) -> usize {
        self.entries[index + 1].position as usize
    }

    /// Reads block `index` without its weights.
    ///
    /// # Errors
    /// [`PackError`] if its metadata is damaged.
    pub fn outline(&mut self, index: usize) -> Result<Outline, PackError<R::Error>> {
        let metadata = self.metadata(index + 1)?;
        let has_statistics = metadata.nodes.iter().any(|node| matches!(node.op, Op::BatchNorm(_)));
        let half = metadata.weights.iter().any(|weight| weight.encoding == Encoding::F16);
        let encoding = if half { Encoding::F16 } else { Encoding::F32 };
        Ok(Outline { name: metadata.name, role: metadata.role, input: metadata.input, has_statistics, encoding })
    }

    /// Reads block `index`.
    ///
    /// # Errors
    /// [`PackError`] if the section is damaged or its graph and weights do not fit.
    pub fn block(&mut self, index: usize) -> Result<Block, PackError<R::Error>> {
        read_block(&mut self.storage, &self.entries[index + 1], index as u32 + 1)
    }

    fn metadata(&mut self, section: usize) -> Result<Metadata, PackError<R::Error>> {
        read_metadata(&mut self.storage, &self.entries[section], section as u32)
    }
}

/// The first section that shares bytes with the index or with one before it: what is read must not exceed the file.
fn first_overlap(index_end: u64, entries: &[Entry]) -> Option<usize> {
    let span = |entry: &Entry| (entry.offset, entry.end().unwrap_or(u64::MAX));
    let shares = |place: usize| {
        let (start, end) = span(&entries[place]);
        let before = |other: &Entry| span(other).0 < end && start < span(other).1;
        start < index_end || entries[..place].iter().any(before)
    };
    (0..entries.len()).find(|&place| shares(place))
}

/// Reads the metadata of noise images, and checks that the images fill their section.
fn read_calibrated<R: ReadAt>(
    storage: &mut R,
    entry: &Entry,
    section: u32,
    manifest: &Manifest,
) -> Result<Calibrated, PackError<R::Error>> {
    let calibrated: Calibrated = read_metadata(storage, entry, section)?;
    let Shape { channels, height, width } = calibrated.shape;
    let extents = [channels, height, width].map(|extent| extent as u64);
    let bytes = extents.iter().try_fold(u64::from(calibrated.images), |bytes, &extent| bytes.checked_mul(extent));
    if manifest.normalises(channels) && bytes.is_some_and(|bytes| bytes > 0 && bytes == entry.weights_length) {
        Ok(calibrated)
    } else {
        Err(PackError::Malformed { section })
    }
}

/// Reads the block of a section.
pub fn read_block<R: ReadAt>(storage: &mut R, entry: &Entry, section: u32) -> Result<Block, PackError<R::Error>> {
    let metadata: Metadata = read_metadata(storage, entry, section)?;
    let malformed = || PackError::Malformed { section };
    let mut offset = entry.offset + u64::from(entry.metadata_length);
    let end = offset + entry.weights_length;
    let mut hasher = Hasher::new();
    let mut weights = Vec::with_capacity(metadata.weights.len());
    for WeightEntry { name, dims, encoding } in metadata.weights {
        let count = element_count(&dims).ok_or_else(malformed)?;
        let bytes = (count * encoding.bytes()) as u64;
        if bytes > end - offset {
            return Err(malformed());
        }
        let mut data = Vec::new();
        data.try_reserve_exact(count).map_err(|_| PackError::Memory { section })?;
        read_values(storage, offset, count, encoding, &mut hasher, &mut data)?;
        weights.push(Weight { name, dims, data });
        offset += bytes;
    }
    if offset != end {
        return Err(malformed());
    }
    if hasher.finalize() != entry.weights_crc {
        return Err(PackError::Checksum { section: Some(section) });
    }
    let block = Block::new(metadata.name, metadata.role, metadata.input, metadata.nodes, weights);
    block.and_then(|block| block.with_parts(metadata.parts)).map_err(PackError::Block)
}

fn read_values<R: ReadAt>(
    storage: &mut R,
    mut offset: u64,
    count: usize,
    encoding: Encoding,
    hasher: &mut Hasher,
    values: &mut Vec<f32>,
) -> Result<(), PackError<R::Error>> {
    let mut chunk = [0; CHUNK_BYTES];
    while values.len() < count {
        let length = CHUNK_BYTES.min((count - values.len()) * encoding.bytes());
        let bytes = &mut chunk[..length];
        storage.read_at(offset, bytes).map_err(PackError::Storage)?;
        hasher.update(bytes);
        match encoding {
            Encoding::F32 => {
                values.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            }
            Encoding::F16 => {
                values.extend(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()));
            }
        }
        offset += length as u64;
    }
    Ok(())
}

/// Reads the manifest, and the checksum of its bytes without the interface and an absent `made_from`.
fn read_manifest<R: ReadAt>(
    storage: &mut R,
    entry: &Entry,
    version: u16,
) -> Result<(Manifest, u32), PackError<R::Error>> {
    let mut bytes = read_checked(storage, entry, 0)?;
    // Each later version adds an `Option`; zero is the encoding of `None`.
    bytes.extend([OLDEST, WITHOUT_INTERFACE].iter().filter(|&&last| version <= last).map(|_| 0));
    let malformed = PackError::Malformed { section: 0 };
    let Ok((manifest, [])) = postcard::take_from_bytes::<Manifest>(&bytes) else { return Err(malformed) };
    if !manifest.names().all(is_printable) {
        return Err(malformed);
    }
    let Ok(interface) = postcard::to_allocvec(&manifest.interface) else { return Err(malformed) };
    let known = bytes.len() - interface.len() - usize::from(manifest.made_from.is_none());
    Ok((manifest, crc32fast::hash(&bytes[..known])))
}

/// Reads, checks and decodes a section's metadata.
fn read_metadata<R: ReadAt, M: DeserializeOwned>(
    storage: &mut R,
    entry: &Entry,
    section: u32,
) -> Result<M, PackError<R::Error>> {
    let bytes = read_checked(storage, entry, section)?;
    postcard::from_bytes(&bytes).map_err(|_| PackError::Malformed { section })
}

/// Reads a section's metadata and checks its checksum.
fn read_checked<R: ReadAt>(storage: &mut R, entry: &Entry, section: u32) -> Result<Vec<u8>, PackError<R::Error>> {
    let mut bytes = vec![0; entry.metadata_length as usize];
    storage.read_at(entry.offset, &mut bytes).map_err(PackError::Storage)?;
    if crc32fast::hash(&bytes) == entry.metadata_crc {
        Ok(bytes)
    } else {
        Err(PackError::Checksum { section: Some(section) })
    }
}
