//! Changes to bytes that find what a decoder takes for granted.

use distill_core::Stream;

/// Most bytes of a mutated file.
const LONGEST: usize = 1 << 16;

/// Numbers at the edges of types, little-endian.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

/// Runs of digits in text.
const NUMBERS: [&str; 6] = ["0", "-1", "65537", "4294967296", "99999999999999999999", "1e309"];

/// One of the seeds, with one to eight changes.
pub fn mutated(stream: &mut Stream, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[stream.below(seeds.len())].clone();
    for _ in 0..=stream.below(8) {
        change(stream, &mut bytes, seeds);
    }
    bytes.truncate(LONGEST.max(seeds.iter().map(Vec::len).max().unwrap_or(0)));
    bytes
}

fn change(stream: &mut Stream, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    if bytes.is_empty() {
        bytes.push(0);
    }
    let at = stream.below(bytes.len());
    // Most changes are near each other, and most that matter near the start.
    let at = if stream.below(2) == 0 { at.min(stream.below(256)) } else { at };
    let most = 2 << stream.below(6);
    let length = 1 + stream.below(most);
    let end = (at + length).min(bytes.len());
    match stream.below(9) {
        0 => bytes[at] ^= 1 << stream.below(8),
        1 => bytes[at] = stream.below(256) as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let copy = bytes[at..end].to_vec();
            let to = stream.below(bytes.len());
            bytes.splice(to..to, copy);
        }
        5 => {
            let edge =
                EDGES[stream.below(EDGES.len())].wrapping_add(stream.below(3) as u64).wrapping_sub(1).to_le_bytes();
            let width = [1, 2, 4, 8][stream.below(4)];
            bytes.iter_mut().skip(at).zip(&edge[..width]).for_each(|(byte, edge)| *byte = *edge);
        }
        6 => {
            let other = &seeds[stream.below(seeds.len())];
            let from = stream.below(other.len().max(1)).min(other.len());
            let until = (from + 16 * length).min(other.len());
            bytes.splice(at..end, other[from..until].iter().copied());
        }
        7 => {
            // A long varint.
            let long = vec![0x80 | stream.below(128) as u8; stream.below(12)];
            bytes.splice(at..end, long);
        }
        _ => {
            let digits = |range: &[u8]| range.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|start| at + start) {
                let end = start + digits(&bytes[start..]);
                bytes.splice(start..end, NUMBERS[stream.below(NUMBERS.len())].bytes());
            }
        }
    }
}
