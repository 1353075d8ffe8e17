//! Rights every checksum and digest of a pack, as docs/pack-format.md says, so that only what they cover is wrong.

use sha2::{Digest, Sha256};

/// Bytes of a pack's header and of an index entry. Versions before 6 have CRCs there.
pub fn layout(pack: &[u8]) -> (usize, usize) {
    if pack.get(4).is_some_and(|&version| version < 6) { (32, 32) } else { (164, 88) }
}

/// The pack with the right length, digests and checksums; what is no pack stays as it is.
pub fn sealed(mut pack: Vec<u8>) -> Vec<u8> {
    let (header, entry) = layout(&pack);
    if pack.len() < header || !pack.starts_with(b"NDP") {
        return pack;
    }
    let old = header == 32;
    let number = |pack: &[u8], at: usize| {
        pack.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()) as usize)
    };
    let length = (pack.len() as u64).to_le_bytes();
    pack[16..24].copy_from_slice(&length);
    let index = header..header + number(&pack, 8).min((pack.len() - header) / entry) * entry;
    for at in index.clone().step_by(entry) {
        let (offset, weights, metadata) = (number(&pack, at), number(&pack, at + 8), number(&pack, at + 16));
        let part = |start: usize, length: usize| {
            start.checked_add(length).and_then(|end| pack.get(start..end)).unwrap_or_default()
        };
        let parts = [part(offset, metadata), part(offset.saturating_add(metadata), weights)];
        let (crcs, digests) = (parts.map(crc32fast::hash), parts.map(Sha256::digest));
        match old {
            true => (0..2).for_each(|i| pack[at + 20 + 4 * i..][..4].copy_from_slice(&crcs[i].to_le_bytes())),
            false => (0..2).for_each(|i| pack[at + 24 + 32 * i..][..32].copy_from_slice(&digests[i])),
        }
    }
    match old {
        true => {
            let crc = crc32fast::hash(&pack[index]);
            pack[12..16].copy_from_slice(&crc.to_le_bytes());
        }
        false => {
            let digest = Sha256::digest(&pack[index]);
            pack[24..56].copy_from_slice(&digest);
        }
    }
    let crc = crc32fast::hash(&pack[..header - 4]);
    pack[header - 4..header].copy_from_slice(&crc.to_le_bytes());
    pack
}
