//! Why a pack cannot be read or written.

use core::fmt;

use crate::{
    block::BlockError,
    pack::{OLDEST, VERSION},
};

/// Why a pack cannot be read or written.
#[derive(Debug)]
#[non_exhaustive]
pub enum PackError<E> {
    /// The storage failed.
    Storage(E),
    /// The magic number is wrong.
    NotAPack,
    /// The run that writes the pack has not ended.
    Unfinished,
    /// The unfinished pack belongs to a run with another teacher, source or other settings.
    OtherJob,
    /// Not enough memory for a weight.
    Memory {
        /// The section.
        section: u32,
    },
    /// The version of a newer or an older program.
    OtherVersion(u16),
    /// The length differs from the header's.
    Length {
        /// Length in the header.
        expected: u64,
        /// Actual length.
        found: u64,
    },
    /// A checksum or digest does not match. Section 0 is the manifest; `None` is the header or index.
    Checksum {
        /// The damaged section.
        section: Option<u32>,
    },
    /// A pack of this older version cannot carry a signature.
    Unsignable(u16),
    /// The pack must be signed, and is not.
    Unsigned,
    /// It is signed by the holder of another key, this one.
    OtherSigner([u8; 32]),
    /// The signature is not that of the key over this pack.
    Forged,
    /// The pack is older than one that was accepted before.
    Outdated {
        /// The pack's counter.
        counter: u64,
        /// That of the last accepted one.
        accepted: u64,
    },
    /// A section with a matching digest cannot be decoded, or lies where none may.
    Malformed {
        /// The section.
        section: u32,
    },
    /// A block's graph and weights do not fit.
    Block(BlockError),
    /// The pack has the wrong kind of contents.
    WrongContents,
    /// The number of blocks differs from the one the writer was created for.
    SectionCount {
        /// Expected number of blocks.
        expected: u32,
        /// Number of blocks added.
        found: u32,
    },
}

impl<E: fmt::Display> fmt::Display for PackError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage(error) => write!(f, "{error}"),
            Self::NotAPack => write!(f, "not a distill pack (the first bytes are not \"NDP\\x1A\")"),
            Self::Unfinished => write!(f, "the run that writes this pack has not ended: resume it"),
            Self::OtherJob => {
                write!(
                    f,
                    "the unfinished pack is from a run with another teacher, source, settings or version of the program"
                )
            }
            Self::Memory { section } => write!(f, "not enough memory for section {section} of the pack"),
            Self::OtherVersion(version) => {
                let way = if *version > VERSION { "update distill" } else { "import the network again" };
                write!(f, "pack version {version}, but this program reads versions {OLDEST} to {VERSION}: {way}")
            }
            Self::Length { expected, found } => {
                write!(f, "the pack should have {expected} bytes, but has {found}: it was truncated or appended to")
            }
            Self::Checksum { section: None } => write!(f, "the pack's header or index is damaged"),
            Self::Checksum { section: Some(section) } => write!(f, "section {section} of the pack is damaged"),
            Self::Unsignable(version) => {
                write!(f, "packs of version {version} carry no signature: it must be written again first")
            }
            Self::Unsigned => write!(f, "the pack is not signed"),
            Self::OtherSigner(signer) => {
                write!(f, "the pack is signed with another key: ")?;
                signer.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Forged => write!(f, "the signature is not of this pack: it was changed after it was signed"),
            Self::Outdated { counter, accepted } => {
                write!(
                    f,
                    "the pack's counter is {counter}, but one with {accepted} was accepted before: it is outdated"
                )
            }
            Self::Malformed { section } => write!(f, "section {section} of the pack cannot be decoded"),
            Self::Block(error) => write!(f, "{error}"),
            Self::WrongContents => {
                write!(
                    f,
                    "the pack holds student blocks, not a whole network: take the teacher's pack, or recompose them with it"
                )
            }
            Self::SectionCount { expected, found } => {
                write!(f, "the pack was made for {expected} blocks, but {found} were added")
            }
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for PackError<E> {}
