//! The pack file: a network, or some of its neighbourhoods, to be read one block at a time.
//!
//! `docs/pack-format.md` specifies the bytes. A writer reserves header and index, appends the
//! sections, and writes index and header last: a pack that was cut short has no valid header.

use alloc::{string::String, vec, vec::Vec};
use core::fmt;

use crc32fast::Hasher;
use half::f16;
use serde::{Deserialize, Serialize};

use crate::{
    block::{Block, BlockError, Dims, Nodes, Op, Role, Shape, Weight, element_count},
    storage::{ReadAt, WriteAt},
};

/// First four bytes of every pack.
pub const MAGIC: [u8; 4] = *b"NDP\x1A";
/// The version this code writes, and the newest it reads.
pub const VERSION: u16 = 1;

const HEADER_BYTES: u64 = 32;
const ENTRY_BYTES: u64 = 32;
/// Sections a pack may have; ResNet-1001 has about 500 neighbourhoods.
const MAX_SECTIONS: u32 = 4096;
/// Bytes of one section's metadata.
const MAX_METADATA_BYTES: u32 = 1 << 20;
/// Weights are converted through a buffer of this size.
const CHUNK_BYTES: usize = 4096;

/// What a forward pass needs beyond the blocks, and where they came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// A whole network, or neighbourhoods for one.
    pub contents: Contents,
    /// The importer's name for the network (`resnet20-cifar`).
    pub architecture: String,
    /// Per-channel mean subtracted from pixels in 0..1.
    pub mean: Vec<f32>,
    /// Per-channel standard deviation they are then divided by.
    pub std: Vec<f32>,
    /// Class names, in the order of the logits; may be empty.
    pub classes: Vec<String>,
    /// File the network was imported from.
    pub source: String,
    /// SHA-256 of that file.
    pub source_sha256: [u8; 32],
}

/// What a pack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contents {
    /// Every block of a network, in order: a teacher, or a recomposed student.
    Network,
    /// Student neighbourhoods of the network with this [`fingerprint`](Pack::fingerprint).
    Neighbourhoods {
        /// Fingerprint of the teacher pack.
        teacher: u32,
    },
}

/// How the weights of a block are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// Little-endian binary32.
    F32,
    /// Little-endian binary16.
    F16,
}

/// A block without its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    /// The block's name.
    pub name: String,
    /// Stem, neighbourhood or head.
    pub role: Role,
    /// Whether a batch norm with running statistics is in it.
    pub has_statistics: bool,
}

/// Why a pack cannot be read or written.
#[derive(Debug)]
#[non_exhaustive]
pub enum PackError<E> {
    /// The storage failed.
    Storage(E),
    /// The first bytes are not a pack's.
    NotAPack,
    /// Written by a newer program.
    FutureVersion(u16),
    /// Fewer or more bytes than the header says.
    Length {
        /// Bytes the header promises.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A checksum does not match; section 0 is the manifest, `None` the header or index.
    Checksum {
        /// The damaged section.
        section: Option<u32>,
    },
    /// A section whose checksum matches does not decode.
    Malformed {
        /// The section.
        section: u32,
    },
    /// A block's graph and weights do not fit.
    Block(BlockError),
    /// A pack of the other kind was needed.
    WrongContents,
    /// More or fewer blocks were added than the writer was made for.
    SectionCount {
        /// What it was made for.
        expected: u32,
        /// What was added.
        found: u32,
    },
}

/// Metadata of a block's section.
#[derive(Serialize, Deserialize)]
struct Metadata {
    name: String,
    role: Role,
    input: Shape,
    nodes: Nodes,
    weights: Vec<WeightEntry>,
}

#[derive(Serialize, Deserialize)]
struct WeightEntry {
    name: String,
    dims: Dims,
    encoding: Encoding,
}

/// One line of the index.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Entry {
    offset: u64,
    weights_length: u64,
    metadata_length: u32,
    metadata_crc: u32,
    weights_crc: u32,
    position: u32,
}

/// An open pack: header, index and manifest are read and checked, blocks are read on demand.
#[derive(Debug)]
pub struct Pack<R> {
    storage: R,
    manifest: Manifest,
    entries: Vec<Entry>,
    fingerprint: u32,
}

impl<R: ReadAt> Pack<R> {
    /// Reads and checks header, index and manifest.
    ///
    /// # Errors
    /// [`PackError`] for a file that is foreign, newer, truncated or damaged.
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
            return Err(PackError::NotAPack);
        }
        let version = u16::from_le_bytes([header[4], header[5]]);
        if version > VERSION {
            return Err(PackError::FutureVersion(version));
        }
        if crc32fast::hash(&header[..28]) != u32_at(&header, 28) {
            return Err(PackError::Checksum { section: None });
        }
        let (sections, fingerprint, expected) = (u32_at(&header, 8), u32_at(&header, 12), u64_at(&header, 16));
        if expected != found {
            return Err(PackError::Length { expected, found });
        }
        let index_end = HEADER_BYTES + u64::from(sections) * ENTRY_BYTES;
        if sections == 0 || sections > MAX_SECTIONS || index_end > found {
            return Err(PackError::Checksum { section: None });
        }
        let mut index = vec![0; (index_end - HEADER_BYTES) as usize];
        storage.read_at(HEADER_BYTES, &mut index).map_err(PackError::Storage)?;
        if crc32fast::hash(&index) != fingerprint {
            return Err(PackError::Checksum { section: None });
        }
        let entries: Vec<Entry> = index.chunks_exact(ENTRY_BYTES as usize).map(Entry::from_bytes).collect();
        for (section, entry) in entries.iter().enumerate() {
            if entry.metadata_length > MAX_METADATA_BYTES || entry.end().is_none_or(|end| end > found) {
                return Err(PackError::Malformed { section: section as u32 });
            }
        }
        let manifest = read_manifest(&mut storage, &entries[0])?;
        Ok(Self { storage, manifest, entries, fingerprint })
    }

    /// What the network needs beyond its blocks.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Blocks in the pack.
    pub fn blocks(&self) -> usize {
        self.entries.len() - 1
    }

    /// The index's checksum, which covers the checksum of every section: tells packs apart.
    pub fn fingerprint(&self) -> u32 {
        self.fingerprint
    }

    /// Where block `index` stands in its network, counted from the stem at 0.
    pub fn position(&self, index: usize) -> usize {
        self.entries[index + 1].position as usize
    }

    /// Block `index` without reading its weights.
    ///
    /// # Errors
    /// [`PackError`] if its metadata is damaged.
    pub fn outline(&mut self, index: usize) -> Result<Outline, PackError<R::Error>> {
        let metadata = self.metadata(index + 1)?;
        let has_statistics = metadata.nodes.iter().any(|node| matches!(node.op, Op::BatchNorm { .. }));
        Ok(Outline { name: metadata.name, role: metadata.role, has_statistics })
    }

    /// Reads block `index`.
    ///
    /// # Errors
    /// [`PackError`] if the section is damaged or its graph and weights do not fit.
    pub fn block(&mut self, index: usize) -> Result<Block, PackError<R::Error>> {
        let section = index + 1;
        let metadata = self.metadata(section)?;
        let entry = self.entries[section];
        let malformed = || PackError::Malformed { section: section as u32 };
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
            let data = self.read_values(offset, count, encoding, &mut hasher)?;
            weights.push(Weight { name, dims, data });
            offset += bytes;
        }
        if offset != end {
            return Err(malformed());
        }
        if hasher.finalize() != entry.weights_crc {
            return Err(PackError::Checksum { section: Some(section as u32) });
        }
        Block::new(metadata.name, metadata.role, metadata.input, metadata.nodes, weights).map_err(PackError::Block)
    }

    fn metadata(&mut self, section: usize) -> Result<Metadata, PackError<R::Error>> {
        let bytes = read_metadata(&mut self.storage, &self.entries[section], section as u32)?;
        postcard::from_bytes(&bytes).map_err(|_| PackError::Malformed { section: section as u32 })
    }

    fn read_values(
        &mut self,
        mut offset: u64,
        count: usize,
        encoding: Encoding,
        hasher: &mut Hasher,
    ) -> Result<Vec<f32>, PackError<R::Error>> {
        let mut values = Vec::with_capacity(count);
        let mut chunk = [0; CHUNK_BYTES];
        while values.len() < count {
            let length = CHUNK_BYTES.min((count - values.len()) * encoding.bytes());
            let bytes = &mut chunk[..length];
            self.storage.read_at(offset, bytes).map_err(PackError::Storage)?;
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
        Ok(values)
    }
}

fn read_manifest<R: ReadAt>(storage: &mut R, entry: &Entry) -> Result<Manifest, PackError<R::Error>> {
    let bytes = read_metadata(storage, entry, 0)?;
    postcard::from_bytes(&bytes).map_err(|_| PackError::Malformed { section: 0 })
}

fn read_metadata<R: ReadAt>(storage: &mut R, entry: &Entry, section: u32) -> Result<Vec<u8>, PackError<R::Error>> {
    let mut bytes = vec![0; entry.metadata_length as usize];
    storage.read_at(entry.offset, &mut bytes).map_err(PackError::Storage)?;
    if crc32fast::hash(&bytes) != entry.metadata_crc {
        return Err(PackError::Checksum { section: Some(section) });
    }
    Ok(bytes)
}

/// Writes a pack block by block. Nothing is valid before [`finish`](Self::finish).
#[derive(Debug)]
pub struct PackWriter<W> {
    storage: W,
    entries: Vec<Entry>,
    blocks: u32,
    end: u64,
}

impl<W: WriteAt> PackWriter<W> {
    /// Reserves header and index for `blocks` blocks and writes the manifest.
    ///
    /// # Errors
    /// [`PackError`] of the storage, or for more blocks than a pack can hold.
    pub fn new(storage: W, manifest: &Manifest, blocks: usize) -> Result<Self, PackError<W::Error>> {
        let sections = u32::try_from(blocks + 1).ok().filter(|&s| s <= MAX_SECTIONS).ok_or(PackError::SectionCount {
            expected: MAX_SECTIONS - 1,
            found: u32::try_from(blocks).unwrap_or(u32::MAX),
        })?;
        let end = HEADER_BYTES + u64::from(sections) * ENTRY_BYTES;
        let mut writer = Self { storage, entries: Vec::new(), blocks: sections - 1, end };
        let bytes = postcard::to_allocvec(manifest).map_err(|_| PackError::Malformed { section: 0 })?;
        writer.append(0, &bytes, core::iter::empty())?;
        Ok(writer)
    }

    /// Appends a block that stands at `position` in its network.
    ///
    /// # Errors
    /// [`PackError`] of the storage, or for one block too many.
    pub fn add(&mut self, position: usize, block: &Block, encoding: Encoding) -> Result<(), PackError<W::Error>> {
        let section = self.entries.len() as u32;
        let count = || PackError::SectionCount { expected: self.blocks, found: section };
        if section > self.blocks {
            return Err(count());
        }
        let position = u32::try_from(position).map_err(|_| count())?;
        let metadata = Metadata {
            name: block.name().into(),
            role: block.role(),
            input: block.input(),
            nodes: block.nodes().iter().cloned().collect(),
            weights: block
                .weights()
                .iter()
                .map(|w| WeightEntry { name: w.name.clone(), dims: w.dims.clone(), encoding })
                .collect(),
        };
        let bytes = postcard::to_allocvec(&metadata).map_err(|_| PackError::Malformed { section })?;
        let values = block.weights().iter().flat_map(|w| w.data.iter().copied());
        self.append(position, &bytes, encoded(values, encoding))
    }

    /// Syncs the sections, then writes index and header, then syncs those: the pack is valid from here on.
    ///
    /// # Errors
    /// [`PackError`] of the storage, or if blocks are missing.
    pub fn finish(mut self) -> Result<W, PackError<W::Error>> {
        let added = self.entries.len() as u32 - 1;
        if added != self.blocks {
            return Err(PackError::SectionCount { expected: self.blocks, found: added });
        }
        self.storage.sync().map_err(PackError::Storage)?;
        let index: Vec<u8> = self.entries.iter().flat_map(|entry| entry.to_bytes()).collect();
        let mut header = [0; HEADER_BYTES as usize];
        header[..4].copy_from_slice(&MAGIC);
        header[4..6].copy_from_slice(&VERSION.to_le_bytes());
        header[8..12].copy_from_slice(&(added + 1).to_le_bytes());
        header[12..16].copy_from_slice(&crc32fast::hash(&index).to_le_bytes());
        header[16..24].copy_from_slice(&self.end.to_le_bytes());
        let crc = crc32fast::hash(&header[..28]);
        header[28..].copy_from_slice(&crc.to_le_bytes());
        self.storage.write_at(HEADER_BYTES, &index).map_err(PackError::Storage)?;
        self.storage.write_at(0, &header).map_err(PackError::Storage)?;
        self.storage.sync().map_err(PackError::Storage)?;
        Ok(self.storage)
    }

    fn append(
        &mut self,
        position: u32,
        metadata: &[u8],
        weights: impl Iterator<Item = u8>,
    ) -> Result<(), PackError<W::Error>> {
        let section = self.entries.len() as u32;
        let metadata_length = u32::try_from(metadata.len()).ok().filter(|&l| l <= MAX_METADATA_BYTES);
        let metadata_length = metadata_length.ok_or(PackError::Malformed { section })?;
        let offset = self.end;
        self.write(metadata)?;
        let weights_start = self.end;
        let mut hasher = Hasher::new();
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let mut weights = weights.peekable();
        while weights.peek().is_some() {
            chunk.clear();
            chunk.extend(weights.by_ref().take(CHUNK_BYTES));
            hasher.update(&chunk);
            self.write(&chunk)?;
        }
        self.entries.push(Entry {
            offset,
            weights_length: self.end - weights_start,
            metadata_length,
            metadata_crc: crc32fast::hash(metadata),
            weights_crc: hasher.finalize(),
            position,
        });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), PackError<W::Error>> {
        self.storage.write_at(self.end, bytes).map_err(PackError::Storage)?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

fn encoded(values: impl Iterator<Item = f32>, encoding: Encoding) -> impl Iterator<Item = u8> {
    values.flat_map(move |value| {
        let bytes: heapless::Vec<u8, 4> = match encoding {
            Encoding::F32 => value.to_le_bytes().into_iter().collect(),
            Encoding::F16 => f16::from_f32(value).to_le_bytes().into_iter().collect(),
        };
        bytes
    })
}

impl Encoding {
    const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

impl Entry {
    fn to_bytes(self) -> [u8; ENTRY_BYTES as usize] {
        let mut bytes = [0; ENTRY_BYTES as usize];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.weights_length.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.metadata_length.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.metadata_crc.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.weights_crc.to_le_bytes());
        bytes[28..].copy_from_slice(&self.position.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            offset: u64_at(bytes, 0),
            weights_length: u64_at(bytes, 8),
            metadata_length: u32_at(bytes, 16),
            metadata_crc: u32_at(bytes, 20),
            weights_crc: u32_at(bytes, 24),
            position: u32_at(bytes, 28),
        }
    }

    fn end(&self) -> Option<u64> {
        self.offset.checked_add(u64::from(self.metadata_length))?.checked_add(self.weights_length)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl<E: fmt::Display> fmt::Display for PackError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage(error) => write!(f, "{error}"),
            Self::NotAPack => write!(f, "not a distill pack (the first bytes are not \"NDP\\x1A\")"),
            Self::FutureVersion(version) => {
                write!(f, "pack version {version}, but this program reads up to version {VERSION}: update distill")
            }
            Self::Length { expected, found } => {
                write!(f, "the pack should have {expected} bytes, but has {found}: it was truncated or appended to")
            }
            Self::Checksum { section: None } => write!(f, "the pack's header or index is damaged"),
            Self::Checksum { section: Some(section) } => write!(f, "section {section} of the pack is damaged"),
            Self::Malformed { section } => write!(f, "section {section} of the pack does not decode"),
            Self::Block(error) => write!(f, "{error}"),
            Self::WrongContents => {
                write!(f, "the pack holds single neighbourhoods, not a whole network: recompose it with its teacher")
            }
            Self::SectionCount { expected, found } => {
                write!(f, "the pack was made for {expected} blocks, but {found} were added")
            }
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for PackError<E> {}
