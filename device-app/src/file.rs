//! Packs in files: reads them by offset, and replaces a file only by a complete one.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use bytesize::ByteSize;
use distill_core::{MAGIC, Pack, ReadAt, WriteAt};

use crate::advice::Advised;

/// A file that is read and written by offset, never loaded whole.
#[derive(Debug)]
pub struct DiskFile(File);

/// Opens a pack.
///
/// # Errors
/// The file cannot be opened, or is not a complete pack of a supported version.
pub fn open_pack(path: &Path) -> Result<Pack<DiskFile>> {
    let shown = || format!("cannot open {}", path.display());
    // Opening a pipe waits for whoever writes to it.
    let is_file = path.metadata().with_context(shown)?.is_file();
    ensure!(is_file, "cannot open {}: it is not a regular file", path.display());
    let file = File::open(path).with_context(shown)?;
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

/// What this user may still write to the disk of a file, if the system says.
#[cfg(unix)]
fn free_bytes(file: &File) -> Option<u64> {
    let disk = rustix::fs::fstatvfs(file).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_: &File) -> Option<u64> {
    None
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

    fn check_room(&mut self, bytes: u64) -> io::Result<()> {
        let Some(free) = free_bytes(&self.0) else { return Ok(()) };
        let [wanted, free] = [bytes, free].map(ByteSize);
        match wanted <= free {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!(
                    "it takes {wanted}, but only {free} are free on the disk: take fewer --images, a larger --budget, \
                     or another folder for the output"
                ),
            )),
        }
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
    /// Whether to start over. The file of an earlier run then stays, unread, until this one starts to write.
    fresh: bool,
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

    /// Opens the `.part` file beside `target`: that of an earlier run, or an empty one. A `fresh` run will replace it.
    ///
    /// # Errors
    /// The folder does not exist or is not writable, `target` is not a file, or another run is writing it.
    pub fn open(target: &Path, fresh: bool) -> Result<Self> {
        let path = Self::path(target)?;
        let context = || format!("cannot write {}", target.display());
        let file = open_alone(&path).with_context(context)?;
        let length = file.metadata().with_context(context)?.len();
        let mut file = DiskFile(file);
        // Finished and unfinished packs differ in the fourth byte. After a power cut, bytes may be zeros.
        let mut start = [0; MAGIC.len() - 1];
        file.read_at(0, &mut start[..length.min(3) as usize]).with_context(context)?;
        let is_ours = start.iter().zip(MAGIC).all(|(&byte, magic)| byte == magic || byte == 0);
        ensure!(
            fresh || is_ours,
            "cannot write {}: {} is there, which no run has left: remove it, or start over with --fresh",
            target.display(),
            path.display()
        );
        let begun = length == 0;
        Ok(Self { file, fresh, begun, path, target: target.to_owned() })
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
        replace(&mut self.file, &self.path, &self.target)
    }
}

impl ReadAt for UnfinishedFile {
    type Error = io::Error;

    fn length(&mut self) -> io::Result<u64> {
        if self.begun || !self.fresh { self.file.length() } else { Ok(0) }
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

/// Makes a file durable under its final name: sync, rename, sync the folder.
fn replace(file: &mut DiskFile, path: &Path, target: &Path) -> Result<()> {
    if target.is_symlink() {
        log::warn!("{} was a link: it becomes the file itself, and what it led to stays as it was", target.display());
    }
    let mut place = || -> io::Result<()> {
        file.sync()?;
        std::fs::rename(path, target)?;
        sync_folder(folder_of(target))
    };
    place().with_context(|| format!("cannot write {}", target.display()))
}

/// Opens a file that no other run may write meanwhile; makes it, durably, if it is not there.
///
/// # Errors
/// The folder does not exist or is not writable, another run has the file open, or it is a link: what a link leads to is not
/// ours.
fn open_alone(path: &Path) -> Result<File> {
    loop {
        let is_link = path.symlink_metadata().is_ok_and(|there| !there.is_file());
        ensure!(!is_link, "a link or a folder is in the place of {}, which must be removed first", path.display());
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.context("no new file can be made in its folder")?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another run is writing {}", path.display()),
            Err(TryLockError::Error(error)) => log::debug!("{}: no lock: {error}", path.display()),
        }
        // Another run may have renamed the file between the two calls: it is then complete.
        if is_only_at(&file, path).with_context(|| path.display().to_string())? {
            sync_folder(folder_of(path))?;
            return Ok(file);
        }
    }
}

/// Whether `path` names this open file.
///
/// # Errors
/// The file has other names, too.
#[cfg(unix)]
fn is_only_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: &std::fs::Metadata| (metadata.dev(), metadata.ino());
    let opened = file.metadata()?;
    match path.symlink_metadata() {
        Ok(there) if identity(&there) != identity(&opened) => Ok(false),
        Ok(_) if opened.nlink() > 1 => Err(io::Error::other("it is a link to another file")),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// On other systems an open file is not renamed.
#[cfg(not(unix))]
fn is_only_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}

/// A file being written beside its final place, as `.NAME.new`. It is deleted if dropped without [`commit`](Self::commit);
/// what a killed run leaves, the next one for the same place writes over.
#[derive(Debug)]
pub struct NewFile {
    file: DiskFile,
    path: PathBuf,
    target: PathBuf,
}

impl NewFile {
    /// Starts the file, empty.
    ///
    /// # Errors
    /// The folder of `target` does not exist or is not writable, `target` is not a file, or another run is writing it.
    pub fn create(target: &Path) -> Result<Self> {
        let path = new_path(target)?;
        let context = || format!("cannot write {}", target.display());
        let file = open_alone(&path).with_context(context)?;
        let new = Self { file: DiskFile(file), path, target: target.to_owned() };
        new.file.0.set_len(0).with_context(context)?;
        Ok(new)
    }

    /// Makes the file durable under its final name: sync, rename, sync the folder.
    ///
    /// # Errors
    /// The storage's own. The target is then either unchanged or complete.
    pub fn commit(mut self) -> Result<()> {
        replace(&mut self.file, &self.path, &self.target)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After the rename it is another run's, if it is there at all. A disk that fails once is asked again.
        let is_ours = || is_only_at(&self.file.0, &self.path);
        if is_ours().or_else(|_| is_ours()).unwrap_or(false) {
            // Nothing is left to do about a file that cannot be removed.
            let _ = std::fs::remove_file(&self.path);
        }
    }
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

/// Where a command writes on its way to `output`, and `output` itself.
pub fn places(output: &Path) -> Vec<PathBuf> {
    let beside = [UnfinishedFile::path(output), new_path(output)];
    beside.into_iter().flatten().chain([output.to_owned()]).collect()
}

/// Refuses to overwrite an input: with a student in its place, the teacher would be lost.
///
/// # Errors
/// `output` is the same file as one of `inputs`, or a picture or CIFAR-10 file in one that is a folder.
pub fn check_distinct<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let ending = output.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let is_image = ["jpg", "jpeg", "png", "bin"].contains(&&*ending);
    // As written, too: a file may not be there yet, and a folder of images may hold links to folders elsewhere.
    let ways: [fn(&Path) -> io::Result<PathBuf>; 2] = [|path| std::path::absolute(path), Path::canonicalize];
    let meets = |input: &Path| {
        ways.iter().any(|way| {
            let paths = [output, input].map(way);
            matches!(&paths, [Ok(output), Ok(input)] if output == input || is_image && output.starts_with(input))
        })
    };
    let same = inputs.into_iter().any(meets);
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

/// Checks that a pack gets no name that says it is a model of another format, and no place of a file that is none.
///
/// # Errors
/// The path ends as files of another format do, or another file is there, such as the weights beside an `.onnx`.
pub fn check_pack_name(output: &Path) -> Result<()> {
    let ending = output.extension().unwrap_or_default().to_string_lossy();
    let foreign = ["onnx", "safetensors", "th", "pth", "pt", "ckpt", "bin", "tar", "png", "jpg", "jpeg"];
    ensure!(
        !foreign.iter().any(|foreign| ending.eq_ignore_ascii_case(foreign)),
        "cannot write {}: this command writes a pack, whose name should end in .ndp (`distill recompose` writes .onnx and \
         .safetensors)",
        output.display()
    );
    check_replaces_pack(output)
}

/// Checks that a pack does not replace a file that is none.
///
/// # Errors
/// Another file is there. What a link leads to stays.
pub fn check_replaces_pack(output: &Path) -> Result<()> {
    let mut start = [0; MAGIC.len() - 1];
    let is_other = |mut file: File| file.read_exact(&mut start).is_ok() && start != MAGIC[..start.len()];
    let is_file = output.symlink_metadata().is_ok_and(|there| there.is_file());
    ensure!(
        !is_file || !File::open(output).is_ok_and(is_other),
        "cannot write {}: a file that is no pack is there: remove it first, or take another name",
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
    file.write_at(0, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    file.commit()
}

impl ReadAt for NewFile {
    type Error = io::Error;

    fn length(&mut self) -> io::Result<u64> {
        self.file.length()
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buffer)
    }
}

impl WriteAt for NewFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.file.clear()
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}

/// The path at which [`NewFile`] writes what becomes `target`.
fn new_path(target: &Path) -> Result<PathBuf> {
    let mut name = OsString::from(".");
    name.push(file_name(target)?);
    name.push(".new");
    Ok(target.with_file_name(name))
}

/// The name of `target`, which must be a file or not exist.
fn file_name(target: &Path) -> Result<&OsStr> {
    let is_folder = target.as_os_str().as_encoded_bytes().ends_with(b"/");
    let name = target.file_name().filter(|_| !is_folder && (target.is_file() || !target.exists()));
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
        assert!(is_only_at(&file, &path)?);
        std::fs::rename(&path, &target)?;
        assert!(!is_only_at(&file, &path)?, "nothing is there");
        File::create(&path)?;
        assert!(!is_only_at(&file, &path)?, "another file is there");
        assert!(is_only_at(&file, &target)?);
        Ok(())
    }

    #[test]
    fn links_in_the_way_are_not_followed() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (target, victim) = (folder.path().join("a"), folder.path().join("victim"));
        std::fs::write(&victim, "precious")?;
        for name in ["a.part", ".a.new"] {
            let way = folder.path().join(name);
            for link in [std::os::unix::fs::symlink, |from, to| std::fs::hard_link(from, to)] {
                link(&victim, &way)?;
                let refused = if name == "a.part" {
                    UnfinishedFile::open(&target, false).map(drop)
                } else {
                    NewFile::create(&target).map(drop)
                };
                assert!(refused.is_err(), "{name}");
                assert_eq!(std::fs::read_to_string(&victim)?, "precious");
                std::fs::remove_file(&way)?;
            }
        }
        Ok(())
    }

    #[test]
    fn what_a_killed_run_leaves_is_written_over() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let target = folder.path().join("a");
        std::fs::write(folder.path().join(".a.new"), "a longer text from a run that was killed")?;
        write_file(&target, b"new")?;
        let names: Vec<_> =
            std::fs::read_dir(folder.path())?.map(|entry| entry.map(|e| e.file_name())).collect::<Result<_, _>>()?;
        assert_eq!((names, std::fs::read(&target)?), (vec!["a".into()], b"new".to_vec()));
        Ok(())
    }
}
