//! A pack written block by block.

use alloc::vec::Vec;

use crc32fast::Hasher;
use half::f16;

use crate::{
    block::Block,
    pack::{
        CHUNK_BYTES, ENTRY_BYTES, Encoding, Entry, HEADER_BYTES, MAGIC, MAX_METADATA_BYTES, MAX_SECTIONS, Manifest,
        Metadata, PackError, VERSION, WeightEntry,
    },
    storage::WriteAt,
};

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
        let sections =
            u32::try_from(blocks + 1).ok().filter(|&s| s <= MAX_SECTIONS).ok_or(PackError::SectionCount {
                expected: MAX_SECTIONS - 1,
                found: u32::try_from(blocks).unwrap_or(u32::MAX),
            })?;
        let end = HEADER_BYTES + u64::from(sections) * ENTRY_BYTES;
        let mut writer = Self { storage, entries: Vec::new(), blocks: sections - 1, end };
        let bytes = postcard::to_allocvec(manifest).map_err(|_| PackError::Malformed { section: 0 })?;
        writer.append(0, &bytes, core::iter::empty())?;
        Ok(writer)
    }

    /// Appends a block that stands at `position` in its network. A weight that half precision cannot hold stays in single.
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
        let encodings: Vec<Encoding> = block.weights().iter().map(|weight| encoding.for_values(&weight.data)).collect();
        let metadata = Metadata {
            name: block.name().into(),
            role: block.role(),
            input: block.input(),
            nodes: block.nodes().iter().cloned().collect(),
            weights: block
                .weights()
                .iter()
                .zip(&encodings)
                .map(|(w, &encoding)| WeightEntry { name: w.name.clone(), dims: w.dims.clone(), encoding })
                .collect(),
        };
        let bytes = postcard::to_allocvec(&metadata).map_err(|_| PackError::Malformed { section })?;
        let weights = block.weights().iter().zip(encodings);
        self.append(position, &bytes, weights.flat_map(|(weight, encoding)| encoded(&weight.data, encoding)))
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

fn encoded(values: &[f32], encoding: Encoding) -> impl Iterator<Item = u8> {
    values.iter().flat_map(move |&value| {
        let bytes: heapless::Vec<u8, 4> = match encoding {
            Encoding::F32 => value.to_le_bytes().into_iter().collect(),
            Encoding::F16 => f16::from_f32(value).to_le_bytes().into_iter().collect(),
        };
        bytes
    })
}
