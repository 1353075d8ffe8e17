//! Packs in files of the host that emulates or debugs the board.

use core::{error::Error, ffi::CStr, fmt};

use distill_core::{ReadAt, WriteAt};
use semihosting::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
};

/// A file on the host.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    path: &'static CStr,
}

/// An error of the host.
#[derive(Debug)]
pub struct HostError(io::Error);

impl HostFile {
    /// Opens an existing file to read.
    pub fn open(path: &'static CStr) -> Result<Self, HostError> {
        Ok(Self { file: File::open(path).map_err(HostError)?, path })
    }

    /// Opens a file to write and read; if `keep`, existing content is kept.
    pub fn writable(path: &'static CStr, keep: bool) -> Result<Self, HostError> {
        let kept = keep.then(|| OpenOptions::new().read(true).write(true).open(path));
        let file = kept.and_then(Result::ok).map_or_else(|| empty(path), Ok)?;
        Ok(Self { file, path })
    }
}

fn empty(path: &CStr) -> Result<File, HostError> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).map_err(HostError)
}

impl ReadAt for HostFile {
    type Error = HostError;

    fn length(&mut self) -> Result<u64, HostError> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(HostError)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), HostError> {
        self.file.seek(SeekFrom::Start(offset)).map_err(HostError)?;
        self.file.read_exact(buffer).map_err(HostError)
    }
}

impl WriteAt for HostFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), HostError> {
        self.file.seek(SeekFrom::Start(offset)).map_err(HostError)?;
        self.file.write_all(bytes).map_err(HostError)
    }

    fn clear(&mut self) -> Result<(), HostError> {
        self.file = empty(self.path)?;
        Ok(())
    }

    /// Semihosting has no sync: what is written is as durable as the host makes it.
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
