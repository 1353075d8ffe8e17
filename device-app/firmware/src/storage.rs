//! Packs in files of the machine that emulates the board, or debugs it.

use core::{error::Error, ffi::CStr, fmt};

use distill_core::{ReadAt, WriteAt};
use semihosting::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
};

/// A file at the other end of the debugger.
#[derive(Debug)]
pub struct HostFile(File);

/// Why the other end refused.
#[derive(Debug)]
pub struct HostError(io::Error);

impl HostFile {
    /// An existing file, to read.
    pub fn open(path: &CStr) -> Result<Self, HostError> {
        File::open(path).map(Self).map_err(HostError)
    }

    /// A file to write and to read again: what it holds is kept if it is there and `keep` says so.
    pub fn writable(path: &CStr, keep: bool) -> Result<Self, HostError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if keep && let Ok(file) = options.open(path) {
            return Ok(Self(file));
        }
        options.create(true).truncate(true).open(path).map(Self).map_err(HostError)
    }
}

impl ReadAt for HostFile {
    type Error = HostError;

    fn length(&mut self) -> Result<u64, HostError> {
        self.0.metadata().map(|metadata| metadata.len()).map_err(HostError)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), HostError> {
        self.0.seek(SeekFrom::Start(offset)).map_err(HostError)?;
        self.0.read_exact(buffer).map_err(HostError)
    }
}

impl WriteAt for HostFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), HostError> {
        self.0.seek(SeekFrom::Start(offset)).map_err(HostError)?;
        self.0.write_all(bytes).map_err(HostError)
    }

    /// Semihosting has no such call: what is written is as durable as the other end makes it.
    fn sync(&mut self) -> Result<(), HostError> {
        Ok(())
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the host's file: {}", self.0)
    }
}

impl Error for HostError {}
