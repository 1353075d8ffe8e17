//! The work folder: a file for each stage, named by what determines it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use distill_device::{VERSION, hex, open_pack};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::network::read_blocks;

/// Characters of a name that tell its stage's settings apart.
const KEY: usize = 16;

/// A folder of stages' files.
pub struct Work(PathBuf);

impl Work {
    /// Makes the folder, if it is not there.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Self(folder.to_owned()))
    }

    /// The file of a stage that `settings` determine, in this version of the program.
    pub fn file(&self, stage: &str, settings: &impl Serialize) -> Result<PathBuf> {
        let settings = serde_json::to_vec(&(VERSION, settings))?;
        Ok(self.0.join(format!("{stage}-{}.ndp", &hex(&Sha256::digest(settings))[..KEY])))
    }

    /// Whether a stage's file is there. A damaged one is removed, to be made again.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn holds(&self, path: &Path) -> Result<bool> {
        if !path.exists() {
            return Ok(false);
        }
        let whole = read_blocks(path).and_then(|_| open_pack(path)?.noise_images().map_err(Into::into));
        let Err(error) = whole else { return Ok(true) };
        log::warn!("{error:#}: making it again");
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        Ok(false)
    }
}
