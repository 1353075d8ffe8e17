//! A pack read by offset, block by block.

use alloc::{string::String, vec, vec::Vec};

use crc32fast::Hasher;
use half::f16;
use serde::de::DeserializeOwned;

use crate::{
    block::{Block, Role},
    op::Op,
    pack::{
        CHUNK_BYTES, ENTRY_BYTES, Encoding, Entry, HEADER_BYTES, MAGIC, MAX_METADATA_BYTES, MAX_SECTIONS, Manifest,
        Metadata, PackError, UNFINISHED, VERSION, WeightEntry, u32_at, u64_at,
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
    /// Whether a batch norm with running statistics is in it.
    pub has_statistics: bool,
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
            return Err(if header[..4] == UNFINISHED { PackError::Unfinished } else { PackError::NotAPack });
        }
        let version = u16::from_le_bytes([header[4], header[5]]);
        if version != VERSION {
            return Err(PackError::OtherVersion(version));
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
        let manifest: Manifest = read_metadata(&mut storage, &entries[0], 0)?;
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
        let has_statistics = metadata.nodes.iter().any(|node| matches!(node.op, Op::BatchNorm(_)));
        Ok(Outline { name: metadata.name, role: metadata.role, input: metadata.input, has_statistics })
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

/// Reads and decodes what a section starts with.
fn read_metadata<R: ReadAt, M: DeserializeOwned>(
    storage: &mut R,
    entry: &Entry,
    section: u32,
) -> Result<M, PackError<R::Error>> {
    let mut bytes = vec![0; entry.metadata_length as usize];
    storage.read_at(entry.offset, &mut bytes).map_err(PackError::Storage)?;
    if crc32fast::hash(&bytes) != entry.metadata_crc {
        return Err(PackError::Checksum { section: Some(section) });
    }
    postcard::from_bytes(&bytes).map_err(|_| PackError::Malformed { section })
}
