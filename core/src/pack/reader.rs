//! Reads a pack block by block.

use alloc::{string::String, vec, vec::Vec};

use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::{
    block::{Block, Role, is_printable, op::Op},
    inputs::NoiseImages,
    pack::{
        CHUNK_BYTES, Calibrated, DENSE, Digest, Encoding, Fingerprint, Manifest, Metadata, OLDEST, PackError, VERSION,
        WITHOUT_DIGESTS, WeightEntry,
        index::{self, Entry, Header, read_version},
        older,
        stored::{RUN, Stored},
        u32_at,
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
    pub(super) storage: R,
    pub(super) header: Header,
    manifest: Manifest,
    /// Those of manifest and blocks.
    pub(super) entries: Vec<Entry>,
    /// Metadata of the calibrated noise images, and their section.
    pub(super) noise: Option<(Calibrated, Entry)>,
    /// The part of the manifest that every version has, so that the fingerprint does not change with the version.
    known: Vec<u8>,
}

impl<R: ReadAt> Pack<R> {
    /// Reads and checks header, index and manifest.
    ///
    /// # Errors
    /// [`PackError`] if the file is not a pack, of another version, truncated or damaged, or has noise images of another shape
    /// than its network's input.
    pub fn open(mut storage: R) -> Result<Self, PackError<R::Error>> {
        let version = read_version(&mut storage)?;
        let (header, mut entries) = match version {
            DENSE..=VERSION => index::read_index(&mut storage)?,
            OLDEST..=WITHOUT_DIGESTS => older::read_index(&mut storage)?,
            _ => return Err(PackError::OtherVersion(version)),
        };
        let (manifest, known) = read_manifest(&mut storage, &entries[0], version)?;
        let mut noise = None;
        if header.noise {
            let section = header.sections - 1;
            let entry = entries.pop().filter(|_| section > 0).ok_or(PackError::Malformed { section })?;
            noise = Some((read_calibrated(&mut storage, &entry, section, &manifest)?, entry));
        }
        let mut pack = Self { storage, header, manifest, entries, noise, known };
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

    /// What identifies the network; noise images do not change it.
    pub fn fingerprint(&self) -> Fingerprint {
        let manifest = Entry { metadata: Sha256::digest(&self.known).into(), ..self.entries[0] };
        let mut hasher = Sha256::new();
        for Entry { metadata, weights, position, .. } in [&manifest].into_iter().chain(&self.entries[1..]) {
            hasher.update(metadata);
            hasher.update(weights);
            hasher.update(position.to_le_bytes());
        }
        Fingerprint::Sha256(hasher.finalize().into())
    }

    /// Whether this is the network with that fingerprint. One of older versions takes a pass over the file.
    ///
    /// # Errors
    /// [`PackError`] of the storage.
    pub fn is(&mut self, fingerprint: &Fingerprint) -> Result<bool, PackError<R::Error>> {
        match *fingerprint {
            Fingerprint::Sha256(_) => Ok(*fingerprint == self.fingerprint()),
            Fingerprint::Crc(crc) => {
                let manifest = crc32fast::hash(&self.known);
                let own = older::fingerprint(&mut self.storage, manifest, &self.entries);
                Ok(own.map_err(PackError::Storage)? == crc)
            }
        }
    }

    /// Metadata of the calibrated noise images, if the pack holds any.
    pub fn calibrated(&self) -> Option<&Calibrated> {
        self.noise.as_ref().map(|(calibrated, _)| calibrated)
    }

    /// A checksum of the noise images; 0 without images.
    pub fn noise_checksum(&self) -> u32 {
        self.noise.as_ref().map_or(0, |(_, entry)| u32_at(&entry.weights, 0))
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
        let (mut image, mut hasher) = (vec![0; shape.elements()], Sha256::new());
        let mut offset = entry.weights_offset();
        for index in 0..images as usize {
            self.storage.read_at(offset, &mut image).map_err(PackError::Storage)?;
            hasher.update(&image);
            show(index, &image);
            offset += image.len() as u64;
        }
        if Digest::from(hasher.finalize()) == entry.weights {
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
        let half = metadata.weights.iter().any(|weight| weight.storage.encoding() == Encoding::F16);
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
    let mut offset = entry.weights_offset();
    let end = offset + entry.weights_length;
    let mut hasher = Sha256::new();
    let mut weights = Vec::with_capacity(metadata.weights.len());
    for WeightEntry { name, dims, storage: way } in metadata.weights {
        let count = element_count(&dims).ok_or_else(malformed)?;
        if way.least_bytes(count) as u64 > end - offset {
            return Err(malformed());
        }
        let mut data = Vec::new();
        data.try_reserve_exact(count).map_err(|_| PackError::Memory { section })?;
        let mut reading = Reading { storage: &mut *storage, offset, end, hasher: &mut hasher, section };
        reading.values(way, count, &mut data)?;
        offset = reading.offset;
        weights.push(Weight { name, dims, data });
    }
    if offset != end {
        return Err(malformed());
    }
    if Digest::from(hasher.finalize()) != entry.weights {
        return Err(PackError::Checksum { section: Some(section) });
    }
    let block = Block::new(metadata.name, metadata.role, metadata.input, metadata.nodes, weights);
    block.and_then(|block| block.with_parts(metadata.parts)).map_err(PackError::Block)
}

/// Reads weights one after another.
struct Reading<'a, R> {
    storage: &'a mut R,
    offset: u64,
    /// Where the section ends.
    end: u64,
    hasher: &'a mut Sha256,
    section: u32,
}

impl<R: ReadAt> Reading<'_, R> {
    /// Reads `count` values into a vector with room for them.
    fn values(&mut self, way: Stored, count: usize, values: &mut Vec<f32>) -> Result<(), PackError<R::Error>> {
        let (mut chunk, mut there) = ([0; CHUNK_BYTES], [0; RUN / 8]);
        while values.len() < count {
            if !way.is_sparse() {
                let bytes = &mut chunk[..CHUNK_BYTES.min((count - values.len()) * way.bytes())];
                self.read(bytes)?;
                way.decode(bytes, values);
                continue;
            }
            let run = RUN.min(count - values.len());
            let there = &mut there[..run.div_ceil(8)];
            self.read(there)?;
            // No value stands for a bit past the last.
            let stray = !run.is_multiple_of(8) && there[run / 8] >> (run % 8) > 0;
            let stored: usize = there.iter().map(|bits| bits.count_ones() as usize).sum();
            if stray {
                return Err(PackError::Malformed { section: self.section });
            }
            let bytes = &mut chunk[..stored * way.bytes()];
            self.read(bytes)?;
            let first = values.len();
            way.decode(bytes, values);
            spread(values, first, run, there);
        }
        Ok(())
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), PackError<R::Error>> {
        if bytes.len() as u64 > self.end - self.offset {
            return Err(PackError::Malformed { section: self.section });
        }
        self.storage.read_at(self.offset, bytes).map_err(PackError::Storage)?;
        self.hasher.update(&*bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// Moves the values from `first` on to the places of their bits in a run, with zeros between them.
fn spread(values: &mut Vec<f32>, first: usize, run: usize, there: &[u8]) {
    let mut stored = values.len() - first;
    values.resize(first + run, 0.0);
    // From the end: no value is overwritten before it has moved.
    for place in (0..run).rev() {
        let is_there = there[place / 8] >> (place % 8) & 1 == 1;
        stored -= usize::from(is_there);
        values[first + place] = if is_there { values[first + stored] } else { 0.0 };
    }
}

/// Reads the manifest, and its bytes without the interface and an absent `made_from`, which not every version has.
fn read_manifest<R: ReadAt>(
    storage: &mut R,
    entry: &Entry,
    version: u16,
) -> Result<(Manifest, Vec<u8>), PackError<R::Error>> {
    let mut bytes = older::upgrade_manifest(read_checked(storage, entry, 0)?, version);
    let malformed = PackError::Malformed { section: 0 };
    let Ok((manifest, [])) = postcard::take_from_bytes::<Manifest>(&bytes) else { return Err(malformed) };
    let same_ends = manifest.interface.as_ref().is_some_and(|ends| ends.input == ends.output);
    if same_ends || !manifest.names().all(is_printable) {
        return Err(malformed);
    }
    let Ok(interface) = postcard::to_allocvec(&manifest.interface) else { return Err(malformed) };
    bytes.truncate(bytes.len() - interface.len() - usize::from(manifest.made_from.is_none()));
    Ok((manifest, bytes))
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
    if Digest::from(Sha256::digest(&bytes)) == entry.metadata {
        Ok(bytes)
    } else {
        Err(PackError::Checksum { section: Some(section) })
    }
}
