//! Storage for packs and caches: bytes at offsets, in memory here, in files in `distill-device` and the firmware.

use alloc::{boxed::Box, vec::Vec};
use core::{convert::Infallible, error::Error, fmt};

/// Storage that is read by offset.
pub trait ReadAt {
    /// Why an operation failed.
    type Error: Error + Send + Sync + 'static;

    /// Length in bytes.
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

/// Storage that is written and read by offset; writing past the end extends it.
pub trait WriteAt: ReadAt {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The storage's own, such as a full disk.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Checks that there is room for so many bytes, where that can be told.
    ///
    /// # Errors
    /// There is not, in the storage's own words.
    fn check_room(&mut self, bytes: u64) -> Result<(), Self::Error> {
        let _ = bytes;
        Ok(())
    }

    /// Removes all content.
    ///
    /// # Errors
    /// The storage's own.
    fn clear(&mut self) -> Result<(), Self::Error>;

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

impl ReadAt for Vec<u8> {
    type Error = Infallible;

    fn length(&mut self) -> Result<u64, Infallible> {
        Ok(self.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Infallible> {
        self.as_slice().read_at(offset, buffer)
    }
}

impl WriteAt for Vec<u8> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Infallible> {
        let end = offset as usize + bytes.len();
        if self.len() < end {
            self.resize(end, 0);
        }
        self[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn clear(&mut self) -> Result<(), Infallible> {
        Vec::clear(self);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl<S: ReadAt> ReadAt for &mut S {
    type Error = S::Error;

    fn length(&mut self) -> Result<u64, S::Error> {
        (**self).length()
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), S::Error> {
        (**self).read_at(offset, buffer)
    }
}

impl<S: WriteAt> WriteAt for &mut S {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), S::Error> {
        (**self).write_at(offset, bytes)
    }

    fn check_room(&mut self, bytes: u64) -> Result<(), S::Error> {
        (**self).check_room(bytes)
    }

    fn clear(&mut self) -> Result<(), S::Error> {
        (**self).clear()
    }

    fn sync(&mut self) -> Result<(), S::Error> {
        (**self).sync()
    }
}

/// The error of a scratch storage.
pub type ScratchError = Box<dyn Error + Send + Sync>;

/// Storage for data that a run can recompute: the boundary cache, when it does not fit in memory.
pub trait Scratch: fmt::Debug + Send {
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// The storage's own.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), ScratchError>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The storage's own.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ScratchError>;

    /// As [`WriteAt::check_room`].
    ///
    /// # Errors
    /// There is too little.
    fn room(&mut self, bytes: u64) -> Result<(), ScratchError>;
}

impl<S: WriteAt + fmt::Debug + Send> Scratch for S {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), ScratchError> {
        self.read_at(offset, buffer).map_err(Into::into)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ScratchError> {
        self.write_at(offset, bytes).map_err(Into::into)
    }

    fn room(&mut self, bytes: u64) -> Result<(), ScratchError> {
        self.check_room(bytes).map_err(Into::into)
    }
}
