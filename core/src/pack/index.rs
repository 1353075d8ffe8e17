//! The fixed fields at the start of a pack, and the entries of its index.

use alloc::{vec, vec::Vec};

use sha2::{Digest as _, Sha256};

use crate::{
    pack::{CHUNK_BYTES, MAGIC, MAX_METADATA_BYTES, MAX_SECTIONS, PackError, Signature, UNFINISHED, u32_at, u64_at},
    storage::ReadAt,
};

/// A SHA-256.
pub type Digest = [u8; 32];

pub const HEADER_BYTES: u64 = 164;
pub const ENTRY_BYTES: u64 = 88;
/// Bytes of the header that a signature covers.
pub const SIGNED_BYTES: usize = 96;

/// The fields before the index.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub version: u16,
    /// Whether the last section holds noise images.
    pub noise: bool,
    pub sections: u32,
    /// Checksum of everything that determines the blocks; 0 if unused.
    pub job: u32,
    /// Bytes of the whole file, 0 until it is finished.
    pub length: u64,
    /// Digest of the index.
    pub index: Digest,
    pub signature: Option<Signature>,
}

impl Header {
    pub fn to_bytes(self, magic: [u8; 4]) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..4].copy_from_slice(&magic);
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[6] = self.noise.into();
        bytes[8..12].copy_from_slice(&self.sections.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.job.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.index);
        if let Some(Signature { counter, signer, signature }) = self.signature {
            bytes[56..64].copy_from_slice(&counter.to_le_bytes());
            bytes[64..96].copy_from_slice(&signer);
            bytes[96..160].copy_from_slice(&signature);
        }
        let crc = crc32fast::hash(&bytes[..160]);
        bytes[160..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header of this version in these bytes, if they are undamaged.
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES as usize]) -> Option<Self> {
        let [signer, index] = [64, 24].map(|at| core::array::from_fn(|byte| bytes[at + byte]));
        let signature =
            Signature { counter: u64_at(bytes, 56), signer, signature: core::array::from_fn(|byte| bytes[96 + byte]) };
        let is_signed = bytes[56..160].iter().any(|&byte| byte != 0);
        let header = Self {
            version: u16::from_le_bytes([bytes[4], bytes[5]]),
            noise: bytes[6] == 1,
            sections: u32_at(bytes, 8),
            job: u32_at(bytes, 12),
            length: u64_at(bytes, 16),
            index,
            signature: is_signed.then_some(signature),
        };
        let intact = crc32fast::hash(&bytes[..160]) == u32_at(bytes, 160) && bytes[6] <= 1 && bytes[7] == 0;
        intact.then_some(header)
    }
}

/// Where a section lies, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Entry {
    pub offset: u64,
    pub weights_length: u64,
    pub metadata_length: u32,
    pub position: u32,
    pub metadata: Digest,
    pub weights: Digest,
}

impl Entry {
    pub fn to_bytes(self) -> [u8; ENTRY_BYTES as usize] {
        let mut bytes = [0; ENTRY_BYTES as usize];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.weights_length.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.metadata_length.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.position.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.metadata);
        bytes[56..].copy_from_slice(&self.weights);
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Self {
        let [metadata, weights] = [24, 56].map(|at| core::array::from_fn(|byte| bytes[at + byte]));
        Self {
            offset: u64_at(bytes, 0),
            weights_length: u64_at(bytes, 8),
            metadata_length: u32_at(bytes, 16),
            position: u32_at(bytes, 20),
            metadata,
            weights,
        }
    }

    /// Offset of the weights in the file.
    pub fn weights_offset(&self) -> u64 {
        self.offset + u64::from(self.metadata_length)
    }

    /// Offset past the last byte of the section; `None` where no file could be so long.
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(u64::from(self.metadata_length))?.checked_add(self.weights_length)
    }

    /// Whether the section's bytes are those that were written. The section must lie in the file.
    pub fn is_intact<R: ReadAt>(&self, storage: &mut R) -> Result<bool, R::Error> {
        Ok(digest(storage, self.offset, u64::from(self.metadata_length))? == self.metadata
            && digest(storage, self.weights_offset(), self.weights_length)? == self.weights)
    }
}

/// Shows `length` bytes from `offset` on, piece by piece.
pub fn each_piece<R: ReadAt>(
    storage: &mut R,
    mut offset: u64,
    length: u64,
    mut show: impl FnMut(&[u8]),
) -> Result<(), R::Error> {
    let (end, mut chunk) = (offset + length, [0; CHUNK_BYTES]);
    while offset < end {
        let chunk = &mut chunk[..(end - offset).min(CHUNK_BYTES as u64) as usize];
        storage.read_at(offset, chunk)?;
        show(chunk);
        offset += chunk.len() as u64;
    }
    Ok(())
}

fn digest<R: ReadAt>(storage: &mut R, offset: u64, length: u64) -> Result<Digest, R::Error> {
    let mut hasher = Sha256::new();
    each_piece(storage, offset, length, |piece| hasher.update(piece))?;
    Ok(hasher.finalize().into())
}

/// Reads the start of a pack: its version.
pub fn read_version<R: ReadAt>(storage: &mut R) -> Result<u16, PackError<R::Error>> {
    let found = storage.length().map_err(PackError::Storage)?;
    let mut start = [0; 6];
    let known = &mut start[..found.min(6) as usize];
    storage.read_at(0, known).map_err(PackError::Storage)?;
    match [start[0], start[1], start[2], start[3]] {
        MAGIC if found < 6 => Err(PackError::Length { expected: HEADER_BYTES, found }),
        MAGIC => Ok(u16::from_le_bytes([start[4], start[5]])),
        UNFINISHED => Err(PackError::Unfinished),
        _ => Err(PackError::NotAPack),
    }
}

/// Reads and checks header and index of a pack of this version. Its sections follow the index and each other, up to the file's end.
pub fn read_index<R: ReadAt>(storage: &mut R) -> Result<(Header, Vec<Entry>), PackError<R::Error>> {
    let found = storage.length().map_err(PackError::Storage)?;
    if found < HEADER_BYTES {
        return Err(PackError::Length { expected: HEADER_BYTES, found });
    }
    let mut header = [0; HEADER_BYTES as usize];
    storage.read_at(0, &mut header).map_err(PackError::Storage)?;
    let header = Header::from_bytes(&header).ok_or(PackError::Checksum { section: None })?;
    let index = read_entries(storage, header.sections, header.length, [HEADER_BYTES, ENTRY_BYTES])?;
    if Digest::from(Sha256::digest(&index)) != header.index {
        return Err(PackError::Checksum { section: None });
    }
    let entries: Vec<Entry> = index.chunks_exact(ENTRY_BYTES as usize).map(Entry::from_bytes).collect();
    let mut end = HEADER_BYTES + index.len() as u64;
    for (section, entry) in entries.iter().enumerate() {
        let follows = entry.offset == end && entry.metadata_length <= MAX_METADATA_BYTES;
        let ends = entry.end().filter(|&end| follows && end <= found);
        end = ends.ok_or(PackError::Malformed { section: section as u32 })?;
    }
    match end == found {
        true => Ok((header, entries)),
        false => Err(PackError::Malformed { section: header.sections - 1 }),
    }
}

/// Reads the bytes of an index, once the file has the length that the header says, and room for that many sections. The sizes are
/// those of a header and an entry.
pub fn read_entries<R: ReadAt>(
    storage: &mut R,
    sections: u32,
    length: u64,
    [header, entry]: [u64; 2],
) -> Result<Vec<u8>, PackError<R::Error>> {
    let found = storage.length().map_err(PackError::Storage)?;
    if length != found {
        return Err(PackError::Length { expected: length, found });
    }
    let bytes = u64::from(sections) * entry;
    if sections == 0 || sections > MAX_SECTIONS || header + bytes > found {
        return Err(PackError::Checksum { section: None });
    }
    let mut index = vec![0; bytes as usize];
    storage.read_at(header, &mut index).map_err(PackError::Storage)?;
    Ok(index)
}
