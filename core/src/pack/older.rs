//! Packs of versions 3 to 5, whose header and index hold CRCs. They are read once when they are opened, and then as any other.

use alloc::vec::Vec;

use crc32fast::Hasher;
use sha2::{Digest as _, Sha256};

use crate::{
    pack::{
        MAX_METADATA_BYTES, PackError, VERSION, WITHOUT_DIGESTS,
        index::{Entry, Header, each_piece, read_entries},
        u32_at, u64_at,
    },
    storage::ReadAt,
};

const HEADER_BYTES: u64 = 32;
const ENTRY_BYTES: u64 = 32;

/// Reads and checks header, index and every section.
pub fn read_index<R: ReadAt>(storage: &mut R) -> Result<(Header, Vec<Entry>), PackError<R::Error>> {
    let damaged = |section| PackError::Checksum { section };
    let found = storage.length().map_err(PackError::Storage)?;
    if found < HEADER_BYTES {
        return Err(PackError::Length { expected: HEADER_BYTES, found });
    }
    let mut bytes = [0; HEADER_BYTES as usize];
    storage.read_at(0, &mut bytes).map_err(PackError::Storage)?;
    if crc32fast::hash(&bytes[..28]) != u32_at(&bytes, 28) || bytes[6] > 1 || bytes[7] > 0 {
        return Err(damaged(None));
    }
    let (sections, length, noise) = (u32_at(&bytes, 8), u64_at(&bytes, 16), bytes[6] == 1);
    let index = read_entries(storage, sections, length, [HEADER_BYTES, ENTRY_BYTES])?;
    if crc32fast::hash(&index) != u32_at(&bytes, 12) {
        return Err(damaged(None));
    }
    let header =
        Header { version: VERSION, noise, sections, job: u32_at(&bytes, 24), length, index: [0; 32], signature: None };
    let mut entries: Vec<Entry> = Vec::with_capacity(sections as usize);
    for (section, bytes) in index.chunks_exact(ENTRY_BYTES as usize).enumerate() {
        let section = section as u32;
        let mut entry = Entry {
            offset: u64_at(bytes, 0),
            weights_length: u64_at(bytes, 8),
            metadata_length: u32_at(bytes, 16),
            position: u32_at(bytes, 28),
            ..Entry::default()
        };
        let inside = |end: u64| entry.metadata_length <= MAX_METADATA_BYTES && end <= found;
        let end = entry.end().filter(|&end| inside(end)).ok_or(PackError::Malformed { section })?;
        // What is read must not exceed the file.
        let shares = |other: &Entry| other.offset < end && other.end().is_none_or(|end| entry.offset < end);
        if entry.offset < HEADER_BYTES + index.len() as u64 || entries.iter().any(shares) {
            return Err(PackError::Malformed { section });
        }
        let crcs = [u32_at(bytes, 20), u32_at(bytes, 24)];
        let parts = [(entry.offset, u64::from(entry.metadata_length)), (entry.weights_offset(), entry.weights_length)];
        let mut digests = [[0; 32]; 2];
        for (((offset, length), crc), digest) in parts.into_iter().zip(crcs).zip(&mut digests) {
            let (mut checksum, mut hasher) = (Hasher::new(), Sha256::new());
            let both = |piece: &[u8]| {
                checksum.update(piece);
                hasher.update(piece);
            };
            each_piece(storage, offset, length, both).map_err(PackError::Storage)?;
            if checksum.finalize() != crc {
                return Err(damaged(Some(section)));
            }
            *digest = hasher.finalize().into();
        }
        [entry.metadata, entry.weights] = digests;
        entries.push(entry);
    }
    Ok((header, entries))
}

/// The fingerprint by which students of those versions name their teacher: the CRC of (CRC of the metadata, CRC of the weights,
/// position) of manifest and blocks.
pub fn fingerprint<R: ReadAt>(storage: &mut R, manifest_crc: u32, entries: &[Entry]) -> Result<u32, R::Error> {
    let mut fingerprint = Hasher::new();
    for (section, entry) in entries.iter().enumerate() {
        let mut crc = |offset, length| {
            let mut hasher = Hasher::new();
            each_piece(storage, offset, length, |piece| hasher.update(piece)).map(|()| hasher.finalize())
        };
        let metadata = if section == 0 { manifest_crc } else { crc(entry.offset, entry.metadata_length.into())? };
        let weights = crc(entry.weights_offset(), entry.weights_length)?;
        [metadata, weights, entry.position].iter().for_each(|part| fingerprint.update(&part.to_le_bytes()));
    }
    Ok(fingerprint.finalize())
}

/// A manifest's bytes as this version writes them.
pub fn upgrade_manifest(mut bytes: Vec<u8>, version: u16) -> Vec<u8> {
    // Versions 4 and 5 each added an `Option`; zero is the encoding of `None`.
    bytes.extend([3, 4].iter().filter(|&&last| version <= last).map(|_| 0));
    // Students name their teacher by a CRC, now one variant of two.
    if version <= WITHOUT_DIGESTS && bytes.first() == Some(&1) {
        bytes.insert(1, 0);
    }
    bytes
}
