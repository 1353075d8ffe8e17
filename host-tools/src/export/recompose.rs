//! A teacher with students in the place of its blocks.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use distill_core::{Contents, Settings, Width, fold_batch_norms};
use distill_device::{UnchangedBlocks, open_pack};

use crate::network::Network;

/// The teacher with each block replaced by its student, if there is one; a later pack takes precedence over an earlier one.
///
/// # Errors
/// A pack without students of this teacher, or a student that does not fit its place.
pub fn recompose(teacher: &Path, students: &[PathBuf]) -> Result<Network> {
    let mut network = Network::read_pack(teacher)?;
    let mut of = open_pack(teacher)?;
    let mut unchanged = UnchangedBlocks::default();
    // A student at this width tells what no width can change.
    let narrowest = Settings::new(Width::new(f32::MIN_POSITIVE)?, 0).recipe;
    // Packs of version 3 do not say what they were made from.
    let mut known = true;
    for path in students {
        let shown = path.display();
        let cannot = || format!("cannot recompose {shown}");
        let mut pack = open_pack(path)?;
        match pack.manifest().contents {
            Contents::Neighbourhoods { teacher } if of.is(&teacher)? => {}
            Contents::Neighbourhoods { .. } => bail!("{}: it was distilled from another teacher pack", cannot()),
            Contents::Network => bail!("{}: it holds a whole network, not students", cannot()),
        }
        known &= pack.manifest().made_from.is_some();
        network.manifest.made_from = network.manifest.made_from.max(pack.manifest().made_from);
        for index in 0..pack.blocks() {
            let position = pack.position(index);
            let block = pack.block(index).with_context(cannot)?;
            let Some(place) = network.blocks.get_mut(position) else {
                bail!("{shown}: the teacher has no block at position {position}");
            };
            let fits = block.input() == place.input() && block.output() == place.output();
            ensure!(fits, "{shown}: block {} does not fit its place", block.name());
            let folded = fold_batch_norms(place)?;
            if block == folded {
                narrowest.unchanged(&folded)?.iter().for_each(|&reason| unchanged.add(reason, block.name()));
            }
            *place = block;
        }
    }
    unchanged.lines().for_each(|line| log::warn!("{line}"));
    // That data took part is known, whatever else is not.
    network.manifest.made_from = network.manifest.made_from.filter(|source| known || !source.is_without_data());
    Ok(network)
}
