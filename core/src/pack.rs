//! The pack file: a network or some of its neighbourhoods, read one block at a time.
//!
//! `docs/pack-format.md` specifies the bytes. A writer reserves space for header and index, appends the sections, and
//! writes index and header last: a truncated pack has no valid header.

mod calibrated;
mod error;
mod index;
mod older;
mod reader;
mod signature;
mod stored;
mod writer;

use alloc::{string::String, vec::Vec};
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    block::{Nodes, Parts, Role},
    inputs::Pixels,
    recipe::{Calibration, SourceKind},
    tensor::{Dims, Shape},
};

use self::stored::Stored;
pub use self::{
    calibrated::CalibratedNoise,
    error::PackError,
    index::Digest,
    reader::{Outline, Pack},
    signature::{Signature, sign},
    writer::PackWriter,
};

/// First four bytes of every pack.
pub const MAGIC: [u8; 4] = *b"NDP\x1A";
/// First four bytes of an unfinished pack, from which a run can be resumed.
pub const UNFINISHED: [u8; 4] = *b"NDP\x1B";
/// The version that is written, and the newest that is read.
pub const VERSION: u16 = 7;
/// The version before sparse weights; otherwise the same.
const DENSE: u16 = 6;
/// The last version before digests and signatures.
const WITHOUT_DIGESTS: u16 = 5;
/// The oldest version that is read.
const OLDEST: u16 = 3;

/// Maximum sections of a pack; ResNet-1001 has about 500 neighbourhoods.
const MAX_SECTIONS: u32 = 4096;
/// Maximum bytes of one section's metadata.
const MAX_METADATA_BYTES: u32 = 1 << 20;
/// Size of the buffer in which weights are converted.
const CHUNK_BYTES: usize = 4096;

/// Data that a forward pass needs beyond the blocks, and the network's origin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// A whole network, or student neighbourhoods.
    pub contents: Contents,
    /// The importer's name for the network (`resnet20-cifar`).
    pub architecture: String,
    /// Per-channel mean subtracted from pixels in 0..1.
    pub mean: Vec<f32>,
    /// Per-channel standard deviation by which they are then divided.
    pub std: Vec<f32>,
    /// Class names, in the order of the logits; may be empty.
    pub classes: Vec<String>,
    /// The file from which the network was imported.
    pub source: String,
    /// SHA-256 of that file.
    pub source_sha256: [u8; 32],
    /// The source of the students' inputs, if several the closest to data; `None` without students or before version 4.
    pub made_from: Option<SourceKind>,
    /// Input and output of the imported file; `None` if it has none (weights alone), or before version 5.
    pub interface: Option<Interface>,
}

/// How the imported file calls and shapes the network's input and output. An exported student has the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name of the images.
    pub input: String,
    /// Name of the output.
    pub output: String,
    /// Number of the output's dimensions: 2 is `[N, C]`, 3 is `[N, C, H · W]`, 4 is `[N, C, H, W]`.
    pub rank: u8,
    /// What the file computes from the logits at its end.
    pub probabilities: Option<Probabilities>,
}

/// The last operator of a file, over the channels. Everything else works on the logits before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probabilities {
    /// `exp(x) / Σ exp(x)`.
    Softmax,
    /// Its logarithm.
    LogSoftmax,
}

impl Manifest {
    /// Whether there are a finite mean and a positive deviation for each of `channels` channels.
    pub fn normalises(&self, channels: usize) -> bool {
        [&self.mean, &self.std].iter().all(|values| values.len() == channels)
            && self.mean.iter().all(|mean| mean.is_finite())
            && self.std.iter().all(|std| std.is_finite() && *std > 0.0)
    }

    /// Every name, which may come from a file.
    fn names(&self) -> impl Iterator<Item = &str> {
        let ends = self.interface.iter().flat_map(|ends| [&ends.input, &ends.output]);
        [&self.architecture, &self.source].into_iter().chain(&self.classes).chain(ends).map(String::as_str)
    }

    /// The normalisation of pixels for the network.
    pub fn pixels(&self) -> Pixels {
        Pixels::new(self.mean.clone(), self.std.clone())
    }
}

/// The contents of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contents {
    /// Every block of a network, in order: a teacher, or a recomposed student.
    Network,
    /// Student neighbourhoods of a network.
    Neighbourhoods {
        /// The network's fingerprint.
        teacher: Fingerprint,
    },
}

/// What identifies a network: its manifest and blocks, whatever the noise images beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fingerprint {
    /// As versions 3 to 5 named it, which [`Pack::is`] still knows.
    Crc(u32),
    /// SHA-256 over manifest and blocks, see `docs/pack-format.md`.
    Sha256(Digest),
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crc(crc) => write!(f, "{crc:08x}"),
            Self::Sha256(digest) => digest.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// Metadata of the calibrated noise images in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibrated {
    /// How they were made.
    pub calibration: Calibration,
    /// Number of images.
    pub images: u32,
    /// Shape of one image.
    pub shape: Shape,
    /// What is left of the aim, averaged over the batches: the mismatch of the statistics, or the cross-entropy with the
    /// classes, as [`Pull::aim`](crate::Pull::aim) says.
    pub mismatch: f32,
}

/// How the weights of a block are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// Little-endian binary32.
    F32,
    /// Little-endian binary16.
    F16,
}

/// Metadata of a block's section.
#[derive(Serialize, Deserialize)]
struct Metadata {
    name: String,
    role: Role,
    input: Shape,
    nodes: Nodes,
    parts: Parts,
    weights: Vec<WeightEntry>,
}

#[derive(Serialize, Deserialize)]
struct WeightEntry {
    name: String,
    dims: Dims,
    storage: Stored,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
