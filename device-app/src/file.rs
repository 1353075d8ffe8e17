//! Packs in files: reads them by offset, and replaces a file only by a complete one.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use distill_core::{Pack, ReadAt, WriteAt};
use tempfile::NamedTempFile;

use crate::advice::Advised;

/// A file that is read and written by offset, never loaded whole.
#[derive(Debug)]
pub struct DiskFile(File);

/// Opens a pack.
///
/// # Errors
/// The file cannot be opened, or is not a complete pack of a supported version.
pub fn open_pack(path: &Path) -> Result<Pack<DiskFile>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Pack::open(DiskFile(file)).map_err(Advised::advised).with_context(|| format!("cannot read {}", path.display()))
}

/// Creates an unnamed file in the folder of `path`, which is deleted when it is closed.
///
/// # Errors
/// The folder is not writable.
pub fn scratch_file(path: &Path) -> Result<DiskFile> {
    let file = tempfile::tempfile_in(folder_of(path));
    file.map(DiskFile).with_context(|| format!("cannot make a file for the cache in the folder of {}", path.display()))
}

impl ReadAt for DiskFile {
    type Error = io::Error;

    fn length(&mut self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(offset))?;
        self.0.read_exact(buffer)
    }
}

impl WriteAt for DiskFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(offset))?;
        self.0.write_all(bytes)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.0.set_len(0)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// A pack that a run writes, named `NAME.part` until it is complete. An interrupted run leaves it, to be resumed.
#[derive(Debug)]
pub struct UnfinishedFile {
    file: DiskFile,
    /// Whether to resume an earlier run. If not, its file stays, unread, until this run starts to write.
    resume: bool,
    /// Whether the file holds nothing of an earlier run.
    begun: bool,
    path: PathBuf,
    target: PathBuf,
}

impl UnfinishedFile {
    /// The path at which the pack for `target` is written.
    ///
    /// # Errors
    /// `target` is not a file.
    pub fn path(target: &Path) -> Result<PathBuf> {
        let mut name = file_name(target)?.to_owned();
        name.push(".part");
        Ok(target.with_file_name(name))
    }

    /// Opens the `.part` file beside `target`: that of an earlier run to `resume`, or an empty one.
    ///
    /// # Errors
    /// The folder does not exist or is not writable, `target` is not a file, or another run is writing it.
    pub fn open(target: &Path, resume: bool) -> Result<Self> {
        let path = Self::path(target)?;
        let context = || format!("cannot write {}", path.display());
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.with_context(context)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => bail!("another run is writing {}", path.display()),
                Err(TryLockError::Error(error)) => log::debug!("{}: no lock: {error}", path.display()),
            }
            // Another run may have renamed the file between the two calls: it is then a complete student.
            if is_at(&file, &path).with_context(context)? {
                let begun = file.metadata().with_context(context)?.len() == 0;
                if !resume && !begun {
                    log::warn!(
                        "{} is left from an earlier run and will be replaced; --resume would continue it",
                        path.display()
                    );
                }
                return Ok(Self { file: DiskFile(file), resume, begun, path, target: target.to_owned() });
            }
        }
    }

    /// Removes the file, unless it holds something of an earlier run.
    ///
    /// # Errors
    /// The storage's own.
    pub fn discard(self) -> io::Result<()> {
        if self.begun { std::fs::remove_file(&self.path) } else { Ok(()) }
    }

    /// Makes the file durable under its final name: sync, rename, sync the folder.
    ///
    /// # Errors
    /// The storage's own. The target is then either unchanged or complete.
    pub fn commit(mut self) -> Result<()> {
        let mut place = || -> io::Result<()> {
            self.file.sync()?;
            std::fs::rename(&self.path, &self.target)?;
            sync_folder(folder_of(&self.target))
        };
        place().with_context(|| format!("cannot write {}", self.target.display()))
    }
}

impl ReadAt for UnfinishedFile {
    type Error = io::Error;

    fn length(&mut self) -> io::Result<u64> {
        if self.resume || self.begun { self.file.length() } else { Ok(0) }
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buffer)
    }
}

impl WriteAt for UnfinishedFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.begun = true;
        self.file.clear()
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}

/// Whether `path` names this open file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match std::fs::metadata(path) {
        Ok(there) => Ok(identity(there) == identity(file.metadata()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// On other systems an open file is not renamed.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}

/// A file being written beside its final place. It is deleted if dropped without [`commit`](Self::commit).
#[derive(Debug)]
pub struct NewFile {
    temporary: NamedTempFile,
    target: PathBuf,
}

impl NewFile {
    /// Starts a temporary file in the folder of `target`.
    ///
    /// # Errors
    /// The folder does not exist or is not writable, or `target` is not a file.
    pub fn create(target: &Path) -> Result<Self> {
        let name = file_name(target)?.to_string_lossy();
        let temporary = temporary_in(folder_of(target), &format!(".{name}."))
            .with_context(|| format!("cannot write {}: no new file can be made in its folder", target.display()))?;
        Ok(Self { temporary, target: target.to_owned() })
    }

    /// Makes the file durable under its final name: sync, rename, sync the folder.
    ///
    /// # Errors
    /// The storage's own. The target is then either unchanged or complete.
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

/// Creates a temporary file with ordinary permissions (tempfile's default allows only its owner).
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

/// Other systems cannot open a folder; the rename is as durable as they make it.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Refuses to overwrite an input: with a student in its place, the teacher would be lost.
///
/// # Errors
/// `output` is the same file as one of `inputs`.
pub fn check_distinct<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let Ok(existing) = output.canonicalize() else { return Ok(()) };
    let same = inputs.into_iter().any(|input| input.canonicalize().is_ok_and(|input| input == existing));
    ensure!(!same, "cannot write {}: it would replace the file it is made from", output.display());
    Ok(())
}

/// Checks before any work that `output` can be written without replacing what it is made from.
///
/// # Errors
/// As [`check_distinct`] and [`NewFile::create`].
pub fn check_writable<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    check_distinct(output, inputs)?;
    NewFile::create(output).map(drop)
}

/// Checks that a pack gets no name that says it is a model of another format.
///
/// # Errors
/// The path ends as files of another format do.
pub fn check_pack_name(output: &Path) -> Result<()> {
    let ending = output.extension().unwrap_or_default().to_string_lossy();
    let foreign = ["onnx", "safetensors", "th", "pth", "pt", "ckpt", "bin", "tar"];
    ensure!(
        !foreign.iter().any(|foreign| ending.eq_ignore_ascii_case(foreign)),
        "cannot write {}: this command writes a pack, whose name should end in .ndp (`distill recompose` writes .onnx and \
         .safetensors)",
        output.display()
    );
    Ok(())
}

/// Writes `bytes` to `path`, either completely or not at all.
///
/// # Errors
/// As [`NewFile`].
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = NewFile::create(path)?;
    file.temporary.write_all(bytes).with_context(|| format!("cannot write {}", path.display()))?;
    file.commit()
}

impl ReadAt for NewFile {
    type Error = io::Error;

    fn length(&mut self) -> io::Result<u64> {
        self.temporary.as_file().metadata().map(|metadata| metadata.len())
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.temporary.seek(SeekFrom::Start(offset))?;
        self.temporary.read_exact(buffer)
    }
}

impl WriteAt for NewFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.temporary.seek(SeekFrom::Start(offset))?;
        self.temporary.write_all(bytes)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.temporary.as_file().set_len(0)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.temporary.as_file().sync_all()
    }
}

/// The name of `target`, which must be a file or not exist.
fn file_name(target: &Path) -> Result<&std::ffi::OsStr> {
    let name = target.file_name().filter(|_| target.is_file() || !target.exists());
    name.with_context(|| format!("cannot write {}: it is not a file", target.display()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn file_that_was_renamed_is_not_at_its_path() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (path, target) = (folder.path().join("a.part"), folder.path().join("a"));
        let file = File::create(&path)?;
        assert!(is_at(&file, &path)?);
        std::fs::rename(&path, &target)?;
        assert!(!is_at(&file, &path)?, "nothing is there");
        File::create(&path)?;
        assert!(!is_at(&file, &path)?, "another file is there");
        assert!(is_at(&file, &target)?);
        Ok(())
    }
}
