//! Where packs lie: bytes at offsets. Implemented here for memory, in `distill-device` for files.

use alloc::vec::Vec;
use core::{convert::Infallible, error::Error};

/// Bytes to read by offset.
pub trait ReadAt {
    /// Why a read failed.
    type Error: Error + Send + Sync + 'static;

    /// Bytes there are.
    ///
    /// # Errors
    /// The storage's own.
    fn length(&mut self) -> Result<u64, Self::Error>;

    /// Fills `buffer` from `offset`. The caller stays inside [`length`](Self::length).
    ///
    /// # Errors
    /// The storage's own.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Self::Error>;
}

/// Bytes to write by offset; writing past the end extends it.
pub trait WriteAt {
    /// Why a write failed.
    type Error: Error + Send + Sync + 'static;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The storage's own, a full disk among them.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Returns once everything written would survive a power cut.
    ///
    /// # Errors
    /// The storage's own.
    fn sync(&mut self) -> Result<(), Self::Error>;
}

impl ReadAt for &[u8] {
    type Error = Infallible;

    fn length(&mut self) -> Result<u64, Infallible> {
        Ok(self.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Infallible> {
        let start = offset as usize;
        buffer.copy_from_slice(&self[start..start + buffer.len()]);
        Ok(())
    }
}

impl WriteAt for &mut Vec<u8> {
    type Error = Infallible;

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Infallible> {
        let end = offset as usize + bytes.len();
        if self.len() < end {
            self.resize(end, 0);
        }
        self[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
