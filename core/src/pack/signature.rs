//! Who vouches for a pack: an Ed25519 signature (RFC 8032) over its header, which holds the digest of the index, which holds the
//! digests of every section.

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

use crate::{
    pack::{
        DENSE, MAGIC, Pack, PackError, VERSION,
        index::{SIGNED_BYTES, read_version},
    },
    storage::{ReadAt, WriteAt},
};

/// What a signed pack says of its signer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// A number that grows from one release to the next, so that an old one cannot pass for the new one.
    pub counter: u64,
    /// The signer's public key.
    pub signer: [u8; 32],
    /// The signature.
    pub(super) signature: [u8; 64],
}

/// Signs the finished pack in `storage`.
///
/// # Errors
/// [`PackError`] if the storage fails, or does not hold a complete pack, or one of an older version.
pub fn sign<S: WriteAt>(storage: &mut S, key: &SigningKey, counter: u64) -> Result<(), PackError<S::Error>> {
    let signer = key.verifying_key().to_bytes();
    let mut pack = Pack::open(&mut *storage)?;
    pack.check_sections()?;
    let mut header = pack.header;
    match read_version(storage)? {
        DENSE..=VERSION => {}
        // Another header would be written over its index.
        older => return Err(PackError::Unsignable(older)),
    }
    header.signature = Some(Signature { counter, signer, signature: [0; 64] });
    let signature = key.sign(&header.to_bytes(MAGIC)[..SIGNED_BYTES]).to_bytes();
    header.signature = Some(Signature { counter, signer, signature });
    storage.write_at(0, &header.to_bytes(MAGIC)).map_err(PackError::Storage)?;
    storage.sync().map_err(PackError::Storage)
}

impl<R: ReadAt> Pack<R> {
    /// Who says to have signed the pack; [`verify`](Self::verify) checks it.
    pub fn signature(&self) -> Option<&Signature> {
        self.header.signature.as_ref()
    }

    /// Checks that the holder of `key` signed every byte of the pack, with a counter that is not below `accepted`, the last one
    /// that was accepted. Returns the pack's own. What is read from this `Pack` later is held against the same digests.
    ///
    /// # Errors
    /// [`PackError::Unsigned`], [`OtherSigner`](PackError::OtherSigner), [`Forged`](PackError::Forged),
    /// [`Outdated`](PackError::Outdated), a damaged section, or the storage's own.
    pub fn verify(&mut self, key: &VerifyingKey, accepted: u64) -> Result<u64, PackError<R::Error>> {
        let Signature { counter, signer, signature } = self.header.signature.ok_or(PackError::Unsigned)?;
        if signer != key.to_bytes() {
            return Err(PackError::OtherSigner(signer));
        }
        let signature = ed25519_dalek::Signature::from_bytes(&signature);
        let signed = &self.header.to_bytes(MAGIC)[..SIGNED_BYTES];
        key.verify_strict(signed, &signature).map_err(|_| PackError::Forged)?;
        if counter < accepted {
            return Err(PackError::Outdated { counter, accepted });
        }
        self.check_sections()?;
        Ok(counter)
    }

    /// Holds every section against its digests.
    fn check_sections(&mut self) -> Result<(), PackError<R::Error>> {
        for (section, entry) in self.entries.iter().chain(self.noise.iter().map(|(_, entry)| entry)).enumerate() {
            if !entry.is_intact(&mut self.storage).map_err(PackError::Storage)? {
                return Err(PackError::Checksum { section: Some(section as u32) });
            }
        }
        Ok(())
    }
}
