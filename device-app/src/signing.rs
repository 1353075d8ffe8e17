//! Keys in files: the signature on a pack that goes out, and whose signature one that comes in must have.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, value_parser};
use distill_core::{Pack, ReadAt, Signature, SigningKey, VerifyingKey, WriteAt, sign};

use crate::{
    advice::Advised,
    file::{open_pack, write_file},
};

/// Bytes of a file with a key or a counter that are read.
const LONGEST_LINE: u64 = 256;
/// What stands before the 64 hexadecimal digits of a secret key's file.
pub const SECRET: &str = "distill secret key ";
/// What stands before those of a public key's file.
pub const PUBLIC: &str = "distill public key ";

/// Options of a command that writes a pack.
#[derive(Args, Clone, Debug)]
pub struct SignOptions {
    /// Sign the pack with this secret key, which `distill key` makes
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
    /// Number of the signed release: a device that keeps the last one takes none below it
    #[arg(long, value_name = "N", requires = "sign", default_value_t = 1,
        value_parser = value_parser!(u64).range(1..))]
    counter: u64,
}

/// Options of a command that reads packs.
#[derive(Args, Clone, Debug)]
pub struct TrustOptions {
    /// Take only packs that are signed with this key: the .pub file of `distill key`
    #[arg(long, value_name = "PUB")]
    require_signed_by: Option<PathBuf>,
}

/// A key to sign with, and the number of the release.
#[derive(Debug)]
pub struct Signer {
    key: SigningKey,
    counter: u64,
}

/// Whose packs are taken, and how old they may be.
#[derive(Debug)]
pub struct Trust {
    key: VerifyingKey,
    /// The file that keeps the counter of the last accepted pack.
    accepted: Option<PathBuf>,
}

impl SignOptions {
    /// Reads the key that `output` is to be signed with, before there is work to lose.
    ///
    /// # Errors
    /// The key's file, or an output that is no pack.
    pub fn signer(&self, output: &Path) -> Result<Option<Signer>> {
        let Some(path) = &self.sign else { return Ok(None) };
        let is_pack = output.extension().is_some_and(|ending| ending == "ndp");
        ensure!(is_pack, "cannot sign {}: only packs (.ndp) carry a signature", output.display());
        let key = SigningKey::from_bytes(&read_key(path, SECRET)?);
        Ok(Some(Signer { key, counter: self.counter }))
    }
}

impl Signer {
    /// Signs the finished pack in `storage`.
    ///
    /// # Errors
    /// The storage's own.
    pub fn sign<S: WriteAt<Error = io::Error>>(&self, storage: &mut S) -> Result<()> {
        sign(storage, &self.key, self.counter).context("cannot sign the pack")
    }

    /// Replaces the pack at `path` by the same, signed.
    ///
    /// # Errors
    /// As [`write_file`]; the pack is then there, unsigned.
    pub fn sign_file(&self, path: &Path) -> Result<()> {
        let context = || format!("cannot sign {}", path.display());
        if let Some(Signature { counter, signer, .. }) = open_pack(path).with_context(context)?.signature() {
            let (ours, shown) = (self.key.verifying_key(), path.display());
            if *signer != ours.to_bytes() {
                log::warn!("{shown} was signed with another key, {}: that signature is replaced", hex(signer));
            } else if *counter > self.counter {
                log::warn!(
                    "{shown} was release {counter}, and is {} now: devices that took it refuse this one",
                    self.counter
                );
            }
        }
        let mut bytes = fs::read(path).with_context(context)?;
        sign(&mut bytes, &self.key, self.counter).map_err(Advised::advised).with_context(context)?;
        write_file(path, &bytes)
    }
}

impl TrustOptions {
    /// Reads the key. `accepted` is the file that keeps the counter of the last accepted pack.
    ///
    /// # Errors
    /// The key's file.
    pub fn trust(&self, accepted: Option<&Path>) -> Result<Option<Trust>> {
        let Some(path) = &self.require_signed_by else { return Ok(None) };
        let key = VerifyingKey::from_bytes(&read_key(path, PUBLIC)?);
        let key = key.with_context(|| format!("{} holds no public key", path.display()))?;
        Ok(Some(Trust { key, accepted: accepted.map(Path::to_owned) }))
    }

    /// Checks every pack that a command is about to read.
    ///
    /// # Errors
    /// The key's file, or a pack that is not to be trusted.
    pub fn check<'a>(&self, mut packs: impl Iterator<Item = &'a Path>) -> Result<()> {
        let Some(trust) = self.trust(None)? else { return Ok(()) };
        packs.try_for_each(|path| trust.accept(path, &mut open_pack(path)?))
    }
}

impl Trust {
    /// Checks the signature on every byte of an open pack, and keeps its counter.
    ///
    /// # Errors
    /// Another signature or none, an older pack than the last accepted one, or the file with its counter.
    pub fn accept<R: ReadAt<Error = io::Error>>(&self, path: &Path, pack: &mut Pack<R>) -> Result<()> {
        let last = self.accepted.as_deref().map(read_counter).transpose()?.unwrap_or(0);
        let counter = pack.verify(&self.key, last).map_err(Advised::advised);
        let counter = counter.with_context(|| format!("{} is not trusted", path.display()))?;
        match &self.accepted {
            Some(file) if counter > last => write_file(file, format!("{counter}\n").as_bytes()),
            _ => Ok(()),
        }
    }
}

/// The only line of a small file.
fn read_line(path: &Path) -> Result<String> {
    // Opening a pipe waits for whoever writes to it.
    ensure!(path.metadata()?.is_file(), "it is not a regular file");
    let mut text = String::new();
    File::open(path)?.take(LONGEST_LINE).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// The counter in a file, 0 if there is none yet.
fn read_counter(path: &Path) -> Result<u64> {
    let context = || format!("cannot read the counter in {}", path.display());
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(0);
    }
    read_line(path).with_context(context)?.parse().with_context(context)
}

/// The key in a file of `distill key`.
fn read_key(path: &Path, kind: &str) -> Result<[u8; 32]> {
    let text = read_line(path).with_context(|| format!("cannot read the key in {}", path.display()))?;
    let wrong = || format!("{} is not a {}file of `distill key`", path.display(), kind.trim_start_matches("distill "));
    let is_hex = |digits: &&str| digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let digits = text.strip_prefix(kind).filter(is_hex);
    let digits = digits.with_context(wrong)?;
    let mut key = [0; 32];
    for (byte, at) in key.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).with_context(wrong)?;
    }
    Ok(key)
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
