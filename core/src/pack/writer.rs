//! Writes a pack block by block.

use alloc::vec::Vec;

use sha2::{Digest as _, Sha256};

use crate::{
    block::Block,
    inputs::NoiseImages,
    pack::{
        CHUNK_BYTES, Calibrated, Digest, Encoding, MAGIC, MAX_METADATA_BYTES, MAX_SECTIONS, Manifest, Metadata,
        PackError, UNFINISHED, VERSION, WeightEntry,
        index::{ENTRY_BYTES, Entry, HEADER_BYTES, Header},
        reader::read_block,
        stored::Stored,
        u32_at,
    },
    recipe::Calibration,
    storage::WriteAt,
};

/// Writes a pack block by block. The pack is not valid before [`finish`](Self::finish).
#[derive(Debug)]
pub struct PackWriter<W> {
    storage: W,
    entries: Vec<Entry>,
    blocks: u32,
    /// Whether noise images follow the blocks.
    noise: bool,
    end: u64,
    /// Checksum of everything that determines the blocks; 0 if unused.
    job: u32,
}

impl<W: WriteAt> PackWriter<W> {
    /// Reserves space for the header and an index of `blocks` blocks, and writes the manifest.
    ///
    /// # Errors
    /// [`PackError`] if the storage fails, or for more blocks than a pack can hold.
    pub fn new(storage: W, manifest: &Manifest, blocks: usize) -> Result<Self, PackError<W::Error>> {
        let mut writer = Self::empty(storage, blocks, false, 0)?;
        writer.add_manifest(manifest)?;
        Ok(writer)
    }

    /// [`new`](Self::new) with space for noise images, which [`add_noise`](Self::add_noise) appends after the blocks.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_noise(storage: W, manifest: &Manifest, blocks: usize) -> Result<Self, PackError<W::Error>> {
        let mut writer = Self::empty(storage, blocks, true, 0)?;
        writer.add_manifest(manifest)?;
        Ok(writer)
    }

    /// Resumes the unfinished pack of blocks at these positions in `storage`, or starts a new one. `job` is a checksum
    /// of everything that determines the blocks; a pack of another job is left unchanged.
    ///
    /// # Errors
    /// [`PackError::OtherJob`], and as [`new`](Self::new).
    pub fn resume(storage: W, manifest: &Manifest, positions: &[usize], job: u32) -> Result<Self, PackError<W::Error>> {
        let mut writer = Self::empty(storage, positions.len(), false, job)?;
        let mut header = [0; HEADER_BYTES as usize];
        let length = writer.storage.length().map_err(PackError::Storage)?;
        let start = &mut header[..length.min(HEADER_BYTES) as usize];
        writer.storage.read_at(0, start).map_err(PackError::Storage)?;
        // Compare only fields that `finish` leaves unchanged: its header write may have been cut short.
        let known = header[..3] == MAGIC[..3];
        let version = u16::from_le_bytes([header[4], header[5]]);
        let same = version == VERSION && u32_at(&header, 12) == job;
        if known && same && u32_at(&header, 8) == writer.sections() {
            writer.find_entries(length, positions)?;
            // Bytes after the last section would stay, and the pack be refused.
            if writer.entries.len() as u32 == writer.sections() && length > writer.end {
                writer = Self::empty(writer.storage, positions.len(), false, job)?;
            }
        } else if known && (Header::from_bytes(&header).is_some() || ![0, VERSION].contains(&version)) {
            return Err(PackError::OtherJob);
        }
        if writer.entries.is_empty() {
            writer.storage.clear().map_err(PackError::Storage)?;
            writer.write_header(UNFINISHED, [0; 32], 0)?;
            writer.add_manifest(manifest)?;
            writer.checkpoint()?;
        }
        Ok(writer)
    }

    fn empty(storage: W, blocks: usize, noise: bool, job: u32) -> Result<Self, PackError<W::Error>> {
        let others = 1 + usize::from(noise);
        let sections =
            u32::try_from(blocks + others).ok().filter(|&s| s <= MAX_SECTIONS).ok_or(PackError::SectionCount {
                expected: MAX_SECTIONS - 1,
                found: u32::try_from(blocks).unwrap_or(u32::MAX),
            })?;
        let end = HEADER_BYTES + u64::from(sections) * ENTRY_BYTES;
        Ok(Self { storage, entries: Vec::with_capacity(blocks + others), blocks: blocks as u32, noise, end, job })
    }

    fn add_manifest(&mut self, manifest: &Manifest) -> Result<(), PackError<W::Error>> {
        let bytes = postcard::to_allocvec(manifest).map_err(|_| PackError::Malformed { section: 0 })?;
        self.append(0, &bytes, core::iter::empty())
    }

    /// Reads index entries as long as they describe complete, consecutive sections.
    fn find_entries(&mut self, length: u64, positions: &[usize]) -> Result<(), PackError<W::Error>> {
        for position in [0].iter().chain(positions) {
            let at = HEADER_BYTES + self.entries.len() as u64 * ENTRY_BYTES;
            let mut bytes = [0; ENTRY_BYTES as usize];
            if at + ENTRY_BYTES > length {
                break;
            }
            self.storage.read_at(at, &mut bytes).map_err(PackError::Storage)?;
            let entry = Entry::from_bytes(&bytes);
            let end = entry.end().filter(|&end| entry.offset == self.end && end <= length);
            // An entry may have been cut short, too.
            let cut = entry.metadata_length == 0 || entry.position as usize != *position;
            let Some(end) = end.filter(|_| !cut && entry.metadata_length <= MAX_METADATA_BYTES) else { break };
            if !entry.is_intact(&mut self.storage).map_err(PackError::Storage)? {
                break;
            }
            self.entries.push(entry);
            self.end = end;
        }
        Ok(())
    }

    /// Number of blocks in the pack so far.
    pub fn blocks(&self) -> usize {
        self.entries.len() - 1
    }

    /// Reads block `index` again.
    ///
    /// # Errors
    /// As [`Pack::block`](crate::Pack::block).
    pub fn block(&mut self, index: usize) -> Result<Block, PackError<W::Error>> {
        read_block(&mut self.storage, &self.entries[index + 1], index as u32 + 1)
    }

    /// Returns once the blocks so far would survive a power cut, for [`resume`](Self::resume) to find them.
    ///
    /// # Errors
    /// [`PackError`] of the storage.
    pub fn checkpoint(&mut self) -> Result<(), PackError<W::Error>> {
        // Section and entry may reach the storage in any order: the entry holds the section's digests.
        let last = self.entries.len() - 1;
        let at = HEADER_BYTES + last as u64 * ENTRY_BYTES;
        self.storage.write_at(at, &self.entries[last].to_bytes()).map_err(PackError::Storage)?;
        self.storage.sync().map_err(PackError::Storage)
    }

    fn write_header(&mut self, magic: [u8; 4], index: Digest, length: u64) -> Result<(), PackError<W::Error>> {
        let (noise, sections, job) = (self.noise, self.sections(), self.job);
        let header = Header { version: VERSION, noise, sections, job, length, index, signature: None };
        self.storage.write_at(0, &header.to_bytes(magic)).map_err(PackError::Storage)
    }

    /// Appends a block at `position` in its network. Weights too large for half precision are stored in single.
    ///
    /// # Errors
    /// [`PackError`] if the storage fails, or if there are too many blocks.
    pub fn add(&mut self, position: usize, block: &Block, encoding: Encoding) -> Result<(), PackError<W::Error>> {
        let section = self.entries.len() as u32;
        let count = || PackError::SectionCount { expected: self.blocks, found: section };
        if section > self.blocks {
            return Err(count());
        }
        let position = u32::try_from(position).map_err(|_| count())?;
        let ways: Vec<Stored> = block.weights().iter().map(|weight| Stored::smallest(encoding, &weight.data)).collect();
        let metadata = Metadata {
            name: block.name().into(),
            role: block.role(),
            input: block.input(),
            nodes: block.nodes().iter().cloned().collect(),
            parts: block.parts().iter().copied().collect(),
            weights: block
                .weights()
                .iter()
                .zip(&ways)
                .map(|(w, &storage)| WeightEntry { name: w.name.clone(), dims: w.dims.clone(), storage })
                .collect(),
        };
        let bytes = postcard::to_allocvec(&metadata).map_err(|_| PackError::Malformed { section })?;
        let weights = block.weights().iter().zip(ways);
        self.append(position, &bytes, weights.flat_map(|(weight, way)| way.encoded(&weight.data)))
    }

    /// Appends noise images after the last block.
    ///
    /// # Errors
    /// [`PackError`] if the storage fails, or if no space was reserved for images.
    pub fn add_noise(
        &mut self,
        calibration: Calibration,
        images: &NoiseImages,
        mismatch: f32,
    ) -> Result<(), PackError<W::Error>> {
        let section = self.entries.len() as u32;
        if !self.noise || section != self.blocks + 1 {
            return Err(PackError::SectionCount { expected: self.blocks, found: section });
        }
        let count = u32::try_from(images.len()).map_err(|_| PackError::Malformed { section })?;
        let calibrated = Calibrated { calibration, images: count, shape: images.shape(), mismatch };
        let bytes = postcard::to_allocvec(&calibrated).map_err(|_| PackError::Malformed { section })?;
        self.append(0, &bytes, images.pixels().iter().copied())
    }

    fn sections(&self) -> u32 {
        1 + self.blocks + u32::from(self.noise)
    }

    /// Syncs the sections, then writes and syncs index and header, which makes the pack valid.
    ///
    /// # Errors
    /// [`PackError`] if the storage fails, or if blocks are missing.
    pub fn finish(mut self) -> Result<W, PackError<W::Error>> {
        let added = self.entries.len() as u32;
        if added != self.sections() {
            return Err(PackError::SectionCount { expected: self.sections() - 1, found: added - 1 });
        }
        let found = self.storage.length().map_err(PackError::Storage)?;
        if found > self.end {
            return Err(PackError::Length { expected: self.end, found });
        }
        self.storage.sync().map_err(PackError::Storage)?;
        let mut index = Vec::with_capacity(self.entries.len() * ENTRY_BYTES as usize);
        index.extend(self.entries.iter().flat_map(|entry| entry.to_bytes()));
        self.storage.write_at(HEADER_BYTES, &index).map_err(PackError::Storage)?;
        self.write_header(MAGIC, Sha256::digest(&index).into(), self.end)?;
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
        let mut hasher = Sha256::new();
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
            position,
            metadata: Sha256::digest(metadata).into(),
            weights: hasher.finalize().into(),
        });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), PackError<W::Error>> {
        self.storage.write_at(self.end, bytes).map_err(PackError::Storage)?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}
