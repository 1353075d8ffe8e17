//! Students put back together: `S = S_n ∘ … ∘ S_1`, teacher blocks where there is no student.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use distill_core::Contents;
use distill_device::open_pack;

use crate::network::Network;

/// The teacher with each neighbourhood replaced by its student; a later pack wins over an earlier one.
///
/// # Errors
/// A pack that is no student of this teacher, or a block that does not fit its place.
pub fn recompose(teacher: &Path, students: &[PathBuf]) -> Result<Network> {
    let mut network = Network::read_pack(teacher)?;
    let fingerprint = open_pack(teacher)?.fingerprint();
    for path in students {
        let context = || format!("cannot recompose {}", path.display());
        let mut pack = open_pack(path)?;
        match pack.manifest().contents {
            Contents::Neighbourhoods { teacher } if teacher == fingerprint => {}
            Contents::Neighbourhoods { .. } => {
                return Err(anyhow::anyhow!("it was distilled from another teacher pack")).with_context(context);
            }
            Contents::Network => {
                return Err(anyhow::anyhow!("it holds a whole network, not students")).with_context(context);
            }
        }
        for index in 0..pack.blocks() {
            let position = pack.position(index);
            let block = pack.block(index).with_context(context)?;
            let Some(place) = network.blocks.get_mut(position) else {
                bail!("{}: there is no block at position {position}", path.display());
            };
            ensure!(
                block.input() == place.input() && block.output() == place.output(),
                "{}: block {} does not fit its place",
                path.display(),
                block.name()
            );
            *place = block;
        }
    }
    Ok(network)
}
