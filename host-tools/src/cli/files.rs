//! The networks' files that commands read and write.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use distill_core::Manifest;
use distill_device::check_writable;
use distill_host::{
    export,
    import::{ImportOptions, Normalisation, import},
    network::{Network, ending},
};

use super::networks::ReadOptions;

/// Checks before any work that a network can be written to `output` without replacing what it is made from.
pub fn check_output<'a>(output: &Path, inputs: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
    export::check_ending(output)?;
    check_writable(output, inputs.map(PathBuf::as_path))
}

/// Reads a network: a pack, or what `import` reads. A pack's normalisation can be replaced, everything else in it is known.
pub fn read_network(path: &Path, options: &ReadOptions) -> Result<Network> {
    let mut options = options.options()?;
    if ending(path) != "ndp" {
        return import(path, &options);
    }
    let network = Network::read_pack(path)?;
    let normalisation = options.normalisation.take();
    let is_rest_usual = options == ImportOptions::default();
    ensure!(is_rest_usual, "{} is a pack, which is imported already: only --normalise applies", path.display());
    match normalisation {
        Some(Normalisation { mean, std }) => Network::new(Manifest { mean, std, ..network.manifest }, network.blocks),
        None => Ok(network),
    }
}
