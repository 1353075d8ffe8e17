//! Which blocks a run would leave as they are, and why: said before any work.

use anyhow::{Result, bail};
use distill_core::{Contents, Pack, ReadAt, Recipe, Role, Settings, Unchanged, fold_batch_norms, prunable};

/// Why a network has no neighbourhoods.
pub const NOTHING_TO_DISTIL: &str = "nothing in it can be distilled: no two layers follow each other between its first \
                                     layer and its last, so no block has channels of its own";

/// Names of blocks, by the reason why their students are the blocks themselves.
#[derive(Clone, Debug, Default)]
pub struct UnchangedBlocks(Vec<(Unchanged, Vec<String>)>);

impl UnchangedBlocks {
    /// Adds a block.
    pub fn add(&mut self, reason: Unchanged, block: &str) {
        match self.0.iter_mut().find(|(other, _)| *other == reason) {
            Some((_, blocks)) => blocks.push(block.to_owned()),
            None => self.0.push((reason, vec![block.to_owned()])),
        }
    }

    /// A line for each reason.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(reason, blocks)| match blocks.as_slice() {
            [block] => format!("block {block} stays the teacher's: {reason}"),
            blocks => format!("{} blocks stay the teacher's ({}): {reason}", blocks.len(), blocks.join(", ")),
        })
    }

    /// What may change the blocks.
    fn advice(&self) -> &'static str {
        match self.0.iter().map(|(reason, _)| reason).max() {
            Some(Unchanged::Rounded) => "take a smaller --width or --round-to",
            Some(Unchanged::Dense) => "take a larger --sparsity, or other layers in --sparsities",
            Some(Unchanged::SingleLayer) => "import the network with a larger --split, such as 3",
            _ => "no --width can make it smaller",
        }
    }
}

/// The blocks of a teacher that these settings would not change.
///
/// # Errors
/// The pack; or there is no block to distil, or none that changes although a width is below 1 or a sparsity above 0.
pub fn check_changes<R: ReadAt<Error: Send + Sync + 'static>>(
    teacher: &mut Pack<R>,
    settings: &Settings,
) -> Result<UnchangedBlocks> {
    if teacher.manifest().contents != Contents::Network {
        return Ok(UnchangedBlocks::default());
    }
    let (mut unchanged, mut number, mut changes, mut narrows) = (UnchangedBlocks::default(), 0, false, false);
    let mut unknown: Vec<&String> = settings.recipe.sparsities.iter().map(|(name, _)| name).collect();
    for position in 0..teacher.blocks() {
        let outline = teacher.outline(position)?;
        if outline.role != Role::Neighbourhood {
            continue;
        }
        let block = teacher.block(position)?;
        let is_kernel = |name: &String| {
            prunable(&block).any(|node| block.weight(node, 0).is_some_and(|kernel| kernel.name == *name))
        };
        unknown.retain(|name| !is_kernel(name));
        if settings.blocks.is_empty() || settings.blocks.contains(&number) {
            let recipe: Recipe = settings.recipe_of(&outline.name);
            let folded = fold_batch_norms(&block)?;
            narrows |= recipe.width.k() < 1.0 || recipe.is_sparse();
            match recipe.unchanged(&folded)? {
                Some(reason) => unchanged.add(reason, &outline.name),
                None => changes = true,
            }
        }
        number += 1;
    }
    if number == 0 {
        bail!("{NOTHING_TO_DISTIL}");
    }
    if !unknown.is_empty() {
        // The plan refuses them by name.
        return Ok(UnchangedBlocks::default());
    }
    if !changes && narrows {
        let lines: Vec<String> = unchanged.lines().collect();
        bail!("no block would change: {}; {}", lines.join("; "), unchanged.advice());
    }
    Ok(unchanged)
}
