//! Signatures: who signed a pack is checked on every byte of it, and an outdated pack is told.

use std::{fs, process::Command};

use distill_core::{Encoding, Pack, PackError, PackWriter, SigningKey, VerifyingKey, sign};
use distill_tests::{manifest, pack, seal::sealed, teacher};

use crate::{
    desk::Desk,
    packs::{OLDER, example_pack, noisy_pack},
};

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn signed(mut pack: Vec<u8>, counter: u64) -> Vec<u8> {
    sign(&mut pack, &key(), counter).unwrap();
    pack
}

/// The counter of a pack that the holder of the key signed, with none accepted above `accepted`.
fn verified(pack: &[u8], key: &VerifyingKey, accepted: u64) -> Result<u64, String> {
    let opened = Pack::open(pack).and_then(|mut pack| pack.verify(key, accepted));
    opened.map_err(|error| error.to_string())
}

#[test]
fn a_signature_leaves_the_blocks_as_they_are() {
    let pack = noisy_pack();
    let signed = signed(pack.clone(), 3);
    assert_eq!(signed.len(), pack.len());
    assert_eq!(crate::packs::read(&signed).unwrap(), crate::packs::read(&pack).unwrap());
    let [plain, signed] = [&pack, &signed].map(|pack| Pack::open(pack.as_slice()).unwrap());
    assert_eq!((plain.signature(), plain.fingerprint()), (None, signed.fingerprint()));
    let signature = signed.signature().unwrap();
    assert_eq!((signature.counter, signature.signer), (3, key().verifying_key().to_bytes()));
}

#[test]
fn only_what_the_key_signed_is_accepted() {
    let (ours, theirs) = (key().verifying_key(), SigningKey::from_bytes(&[8; 32]).verifying_key());
    let pack = signed(example_pack(), 5);
    assert_eq!(verified(&pack, &ours, 0), Ok(5));
    assert_eq!(verified(&pack, &ours, 5), Ok(5));
    assert!(verified(&pack, &ours, 6).unwrap_err().contains("outdated"));
    assert!(verified(&pack, &theirs, 0).unwrap_err().contains("another key: ea4a6c63"));
    assert_eq!(verified(&example_pack(), &ours, 0), Err("the pack is not signed".to_owned()));
    assert_eq!(verified(OLDER[0].teacher, &ours, 0), Err("the pack is not signed".to_owned()));
    // Signed again, it is another release.
    assert_eq!(verified(&signed(pack, 6), &ours, 6), Ok(6));
}

/// An attacker has no key, but everything else: digests and checksums can be made right.
#[test]
fn every_flipped_bit_of_a_signed_pack_is_refused() {
    let ours = key().verifying_key();
    for pack in [signed(example_pack(), 5), signed(noisy_pack(), 5)] {
        for at in 0..pack.len() {
            for bit in 0..8 {
                let mut changed = pack.clone();
                changed[at] ^= 1 << bit;
                assert!(verified(&changed, &ours, 0).is_err(), "bit {bit} of byte {at} was not noticed");
                // What the seal rights again is no change.
                let again = sealed(changed);
                assert!(again == pack || verified(&again, &ours, 0).is_err(), "bit {bit} of byte {at}, resealed");
            }
        }
    }
}

#[test]
fn a_signature_fits_no_other_pack() {
    let (donor, mut pack) = (signed(example_pack(), 5), noisy_pack());
    pack[56..160].copy_from_slice(&donor[56..160]);
    let refused = verified(&sealed(pack), &key().verifying_key(), 0).unwrap_err();
    assert!(refused.contains("it was changed after it was signed"), "{refused}");
}

#[test]
fn only_a_complete_pack_is_signed() {
    let mut unfinished = Vec::new();
    PackWriter::resume(&mut unfinished, &manifest(), &[1], 0).unwrap();
    let before = unfinished.clone();
    assert!(matches!(sign(&mut unfinished, &key(), 1), Err(PackError::Unfinished)));
    assert_eq!(unfinished, before);
}

#[test]
fn packs_of_older_versions_are_not_signed_and_stay_whole() {
    // Version 6 has signatures.
    let (signable, unsignable): (Vec<_>, Vec<_>) = OLDER.into_iter().partition(|older| older.version == 6);
    for older in signable {
        let mut pack = older.teacher.to_vec();
        sign(&mut pack, &key(), 3).unwrap();
        assert_eq!(pack[4..6], older.version.to_le_bytes());
        assert_eq!(Pack::open(pack.as_slice()).unwrap().verify(&key().verifying_key(), 3).unwrap(), 3);
    }
    for older in unsignable {
        let mut pack = older.teacher.to_vec();
        let refused = sign(&mut pack, &key(), 1);
        assert!(matches!(refused, Err(PackError::Unsignable(version)) if version == older.version), "{refused:?}");
        assert!(pack == older.teacher, "version {}", older.version);
    }
}

#[test]
fn sections_have_no_gaps() {
    let mut longer = pack(&teacher(), Encoding::F32);
    longer.push(0);
    let last = teacher().len() as u32;
    let opened = Pack::open(sealed(longer).as_slice()).map(|_| ());
    assert!(matches!(opened, Err(PackError::Malformed { section }) if section == last), "{opened:?}");
}

#[test]
fn the_commands_sign_and_check() {
    let desk = Desk::new();
    desk.json("distill key -o ours.key");
    desk.json("distill key -o theirs.key");
    let error = desk.failure("distill key -o ours.key", 1);
    assert!(error.contains("a key is never replaced"), "{error}");
    let run = "distill-device run teacher.ndp -o blocks.ndp --blocks 0 --images 16 --noise standard";
    let trusting = format!("{run} --require-signed-by ours.key.pub --counter-file counter");
    let refused = |line: &str, why: &str| {
        let error = desk.failure(line, 1);
        assert!(error.contains(why), "{line}: {error}");
    };
    refused(&trusting, "teacher.ndp is not trusted: the pack is not signed");
    let sign =
        |key: &str, counter: u64| desk.json(&format!("distill key --sign {key} --counter {counter} teacher.ndp"));
    desk.json("distill calibrate teacher.ndp -o teacher.ndp --images 72 --batch 8 --steps 1 --sign theirs.key");
    refused(&trusting, "signed with another key");
    sign("ours.key", 4);
    desk.json(&format!("{trusting} --sign ours.key --counter 2"));
    assert_eq!(fs::read_to_string(desk.path("counter")).unwrap(), "4\n");
    let inspection = desk.json("distill inspect blocks.ndp");
    assert_eq!(inspection["signature"]["counter"], 2);
    sign("ours.key", 3);
    refused(&trusting, "the pack's counter is 3, but one with 4 was accepted before");
    // The noise is read from the same pack.
    desk.json("distill-device run teacher.ndp -o blocks.ndp --blocks 0 --images 64 --require-signed-by ours.key.pub");
    // The host's commands check all packs that they read, and take the key of one kind only.
    let recompose = "distill recompose teacher.ndp blocks.ndp -o student.ndp --require-signed-by ours.key.pub";
    refused(recompose, "blocks.ndp is not trusted: the pack is not signed");
    desk.json(&format!("{run} --sign ours.key"));
    desk.json(&format!("{recompose} --sign ours.key"));
    desk.json("distill evaluate student.ndp --data builtin --limit 10 --require-signed-by ours.key.pub");
    refused(
        "distill evaluate student.ndp --data builtin --require-signed-by theirs.key.pub",
        "signed with another key",
    );
    refused(
        "distill evaluate student.ndp --data builtin --require-signed-by ours.key",
        "ours.key is not a public key file",
    );
    refused(&format!("{run} --sign ours.key.pub"), "ours.key.pub is not a secret key file");
    refused(
        "distill recompose teacher.ndp blocks.ndp -o student.onnx --sign ours.key",
        "only packs (.ndp) carry a signature",
    );
    // A pipe in the place of a file would wait for ever.
    assert!(Command::new("mkfifo").arg(desk.path("pipe")).status().unwrap().success());
    for option in ["--sign pipe", "--require-signed-by pipe", "--require-signed-by ours.key.pub --counter-file pipe"] {
        refused(&format!("{run} {option}"), "not a regular file");
    }
    refused(&format!("{run} --require-signed-by ours.key.pub --counter-file blocks.ndp"), "it would replace");
    let mut forged = fs::read(desk.path("student.ndp")).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    fs::write(desk.path("student.ndp"), sealed(forged)).unwrap();
    let line = "distill evaluate student.ndp --data builtin --require-signed-by ours.key.pub";
    refused(line, "student.ndp is not trusted: the signature is not of this pack");
}

#[cfg(unix)]
#[test]
fn a_secret_key_is_its_owners() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    desk.json("distill key -o ours.key");
    assert_eq!(fs::metadata(desk.path("ours.key")).unwrap().permissions().mode() & 0o077, 0);
}
