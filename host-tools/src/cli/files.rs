//! The networks' files that commands read and write.

use std::path::{Path, PathBuf};

use anyhow::Result;
use distill_device::check_writable;
use distill_host::{
    export,
    import::{ImportOptions, import},
    network::{Network, ending},
};

/// Checks before any work that a network can be written to `output` without replacing what it is made from.
pub fn check_output<'a>(output: &Path, inputs: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
    export::check_ending(output)?;
    check_writable(output, inputs.map(PathBuf::as_path))
}

/// Reads a network that needs no options: a pack, or what `import` reads.
pub fn read_network(path: &Path) -> Result<Network> {
    match ending(path) {
        "ndp" => Network::read_pack(path),
        _ => import(path, &ImportOptions::default()),
    }
}
