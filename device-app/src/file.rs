//! Packs in files: reading by offset, and replacing a file only by a complete one.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use distill_core::{Pack, ReadAt, WriteAt};
use tempfile::NamedTempFile;

/// A pack file that is read by offset, never whole.
#[derive(Debug)]
pub struct PackFile(File);

/// Opens a pack.
///
/// # Errors
/// The file cannot be opened, or is not a whole pack of a version this program reads.
pub fn open_pack(path: &Path) -> Result<Pack<PackFile>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Pack::open(PackFile(file)).with_context(|| format!("cannot read {}", path.display()))
}

impl ReadAt for PackFile {
    type Error = io::Error;

    fn length(&mut self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(offset))?;
        self.0.read_exact(buffer)
    }
}

/// A file being written beside its final place. Dropped without [`commit`](Self::commit), it vanishes.
#[derive(Debug)]
pub struct NewFile {
    temporary: NamedTempFile,
    target: PathBuf,
}

impl NewFile {
    /// Starts a temporary file in the folder of `target`.
    ///
    /// # Errors
    /// The folder is not there or not writable, or `target` is something else than a file.
    pub fn create(target: &Path) -> Result<Self> {
        let name = target.file_name().filter(|_| target.is_file() || !target.exists());
        let name =
            name.with_context(|| format!("cannot write {}: it is not a file", target.display()))?.to_string_lossy();
        let temporary = temporary_in(folder_of(target), &format!(".{name}."))
            .with_context(|| format!("cannot write {}: no new file can be made in its folder", target.display()))?;
        Ok(Self { temporary, target: target.to_owned() })
    }

    /// Makes the file durable under its final name: sync, rename, sync the folder.
    ///
    /// # Errors
    /// The storage's own. The target is then what it was before, or whole.
    pub fn commit(self) -> Result<()> {
        let Self { temporary, target } = self;
        let place = || -> io::Result<()> {
            temporary.as_file().sync_all()?;
            temporary.persist(&target)?;
            sync_folder(folder_of(&target))
        };
        place().with_context(|| format!("cannot write {}", target.display()))
    }
}

/// A temporary file with the permissions of an ordinary one (tempfile's own are for its user alone).
#[cfg(unix)]
fn temporary_in(folder: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(0o666);
    tempfile::Builder::new().prefix(prefix).permissions(permissions).tempfile_in(folder)
}

#[cfg(not(unix))]
fn temporary_in(folder: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(prefix).tempfile_in(folder)
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Elsewhere a folder cannot be opened; the rename is as durable as the system makes it.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Refuses to replace a file by what is made from it: with a student in its place, the teacher would be lost.
///
/// # Errors
/// `output` is the same file as one of `inputs`.
pub fn check_distinct<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let Ok(existing) = output.canonicalize() else { return Ok(()) };
    let same = inputs.into_iter().any(|input| input.canonicalize().is_ok_and(|input| input == existing));
    ensure!(!same, "cannot write {}: it would replace the file it is made from", output.display());
    Ok(())
}

/// Writes `bytes` to `path` all or not at all.
///
/// # Errors
/// As [`NewFile`].
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = NewFile::create(path)?;
    file.temporary.write_all(bytes).with_context(|| format!("cannot write {}", path.display()))?;
    file.commit()
}

impl WriteAt for &mut NewFile {
    type Error = io::Error;

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.temporary.seek(SeekFrom::Start(offset))?;
        self.temporary.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.temporary.as_file().sync_all()
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
