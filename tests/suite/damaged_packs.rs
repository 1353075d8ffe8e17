//! Bytes that are no pack: every way to be malformed is an error that names it, and none panics.

use std::{convert::Infallible, ops::Range};

use distill_core::{BlockError, PackError, VERSION};
use distill_tests::seal::{layout, sealed};

use crate::packs::{VERSION_3_STUDENTS, example_pack, noisy_pack, read};

/// From docs/pack-format.md: a header of 164 bytes, then index entries of 88 bytes.
const HEADER: usize = 164;
const ENTRY: usize = 88;

/// Asserts that reading `bytes` (the pack and all of its blocks) gives this error.
fn check(bytes: &[u8], expected: impl Fn(&PackError<Infallible>) -> bool) {
    match read(bytes) {
        Ok(_) => panic!("the pack was accepted"),
        Err(error) => assert!(expected(&error), "unexpected error: {error:?}"),
    }
}

fn damaged(section: Option<u32>) -> impl Fn(&PackError<Infallible>) -> bool {
    move |error| matches!(error, PackError::Checksum { section: found } if *found == section)
}

fn malformed(section: u32) -> impl Fn(&PackError<Infallible>) -> bool {
    move |error| matches!(error, PackError::Malformed { section: found } if *found == section)
}

/// The example with bytes replaced at an offset.
fn edited(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut pack = example_pack();
    pack[at..at + bytes.len()].copy_from_slice(bytes);
    pack
}

/// Where the metadata of a section lies.
fn metadata_range(pack: &[u8], section: usize) -> Range<usize> {
    let (header, entry) = layout(pack);
    let entry = header + section * entry;
    let at = |at: usize| u32::from_le_bytes(pack[at..at + 4].try_into().unwrap()) as usize;
    at(entry)..at(entry) + at(entry + 16)
}

#[test]
fn the_seal_of_these_tests_is_the_writers() {
    assert_eq!(sealed(example_pack()), example_pack());
}

#[test]
fn empty_file_is_no_pack() {
    check(&[], |e| matches!(e, PackError::NotAPack));
}

#[test]
fn foreign_magic_is_no_pack() {
    check(&sealed(edited(0, b"PK\x03\x04")), |e| matches!(e, PackError::NotAPack));
    check(b"NDP", |e| matches!(e, PackError::NotAPack));
}

#[test]
fn truncation_at_every_offset_is_told() {
    let pack = example_pack();
    for length in 4..pack.len() {
        check(&pack[..length], |e| matches!(e, PackError::Length { found, .. } if *found == length as u64));
    }
}

#[test]
fn appended_byte_is_told() {
    let mut pack = example_pack();
    pack.push(0);
    check(&pack, |e| matches!(e, PackError::Length { expected, found } if expected + 1 == *found));
}

#[test]
fn future_version_is_told_before_anything_else_is_believed() {
    for other in [2, VERSION + 1] {
        check(&edited(4, &other.to_le_bytes()), |e| matches!(e, PackError::OtherVersion(v) if *v == other));
    }
    let future = (VERSION + 1).to_le_bytes();
    check(&sealed(edited(4, &future)), |e| matches!(e, PackError::OtherVersion(_)));
}

#[test]
fn flipped_bit_in_header_is_told() {
    check(&edited(8, &[3]), damaged(None));
    check(&edited(24, &[1]), damaged(None));
    check(&edited(56, &[1]), damaged(None));
}

#[test]
fn flipped_bit_in_index_is_told() {
    check(&edited(HEADER + ENTRY + 28, &[1]), damaged(None));
}

#[test]
fn flipped_bit_in_manifest_metadata_or_weights_names_the_section() {
    let pack = example_pack();
    check(&edited(metadata_range(&pack, 0).start + 2, b"E"), damaged(Some(0)));
    check(&edited(metadata_range(&pack, 1).start + 1, b"H"), damaged(Some(1)));
    check(&edited(pack.len() - 1, &[0xBF]), damaged(Some(1)));
}

#[test]
fn index_pointing_outside_is_told() {
    let entry = HEADER + ENTRY;
    for offset in [u64::MAX, u64::MAX - 40, 1 << 20, example_pack().len() as u64 - 3] {
        check(&sealed(edited(entry, &offset.to_le_bytes())), malformed(1));
    }
    check(&sealed(edited(entry + 8, &u64::MAX.to_le_bytes())), malformed(1));
    check(&sealed(edited(entry + 16, &u32::MAX.to_le_bytes())), malformed(1));
}

#[test]
fn absurd_section_count_is_told() {
    for sections in [0u32, 4, 4097, u32::MAX] {
        check(&sealed(edited(8, &sections.to_le_bytes())), damaged(None));
    }
}

#[test]
fn noise_images_that_are_more_than_their_section_are_told() {
    let pack = noisy_pack();
    let metadata = metadata_range(&pack, 2);
    // How many, and their shape: two of 1×1×1.
    let images = [2, 1, 1, 1];
    let at = pack[metadata.clone()].windows(4).rposition(|window| window == images).unwrap() + metadata.start;
    for claim in [[3, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 2], [2, 0, 1, 1]] {
        let mut changed = pack.clone();
        changed[at..at + 4].copy_from_slice(&claim);
        check(&sealed(changed), malformed(2));
    }
}

/// The example whose weight claims other extents (each below 128, so one byte of the metadata).
fn with_dims(dims: [u8; 4]) -> Vec<u8> {
    let mut pack = example_pack();
    let metadata = metadata_range(&pack, 1);
    let entry = [1, b'w', 4, 1, 1, 1, 1, 0]; // name, extents, encoding
    let at = pack[metadata.clone()].windows(8).position(|window| window == entry).unwrap() + metadata.start;
    pack[at + 3..at + 7].copy_from_slice(&dims);
    sealed(pack)
}

#[test]
fn weight_that_claims_more_than_its_section_is_told_before_memory_is_taken() {
    // 127^4 values are 1 GiB, below the format's own limit, so only the section's length can refuse them.
    check(&with_dims([127; 4]), malformed(1));
    check(&with_dims([2, 1, 1, 1]), malformed(1));
    check(&with_dims([0, 1, 1, 1]), malformed(1));
}

#[test]
fn weight_that_does_not_fit_its_operator_is_told() {
    let mut pack = example_pack();
    let metadata = metadata_range(&pack, 1);
    let input = [1, 1, 2, 2]; // role neighbourhood, then 1×2×2
    let at = pack[metadata.clone()].windows(4).position(|window| window == input).unwrap() + metadata.start;
    pack[at + 1] = 3;
    check(&sealed(pack), |e| matches!(e, PackError::Block(BlockError::WeightShape { weight, .. }) if weight == "w"));
}

#[test]
fn every_changed_byte_is_told() {
    for pack in [example_pack(), noisy_pack(), VERSION_3_STUDENTS.to_vec()] {
        for at in 0..pack.len() {
            for mask in [0x01, 0x80, 0xFF] {
                let mut changed = pack.clone();
                changed[at] ^= mask;
                assert!(read(&changed).is_err(), "byte {at} with {mask:#x} was not noticed");
            }
        }
    }
}

#[test]
fn no_header_index_or_metadata_with_right_checksums_panics() {
    for (pack, sections) in [(example_pack(), 2), (noisy_pack(), 3), (VERSION_3_STUDENTS.to_vec(), 2)] {
        let metadata = (0..sections).flat_map(|section| metadata_range(&pack, section));
        let (header, entry) = layout(&pack);
        for at in (0..header + sections * entry).chain(metadata) {
            for value in 0..=255 {
                let mut changed = pack.clone();
                changed[at] = value;
                let _ = read(&sealed(changed));
            }
        }
    }
}
