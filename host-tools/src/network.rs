//! A whole network in memory: its blocks in order, and what a forward pass needs to know of its inputs.

use std::{fs::File, io::Read, path::Path};

use anyhow::{Context, Result, ensure};
use distill_core::{
    Block, BlockError, Contents, DeviceBlock, Encoding, MAGIC, Manifest, PackError, PackWriter, Recipe, Role, Settings,
    Shape, fold_batch_norms,
};
use distill_device::{NewFile, check_memory, open_pack};
use sha2::{Digest, Sha256};

/// A network whose blocks fit one after another.
#[derive(Clone, Debug)]
pub struct Network {
    /// Preprocessing, classes and origin.
    pub manifest: Manifest,
    /// Stem, neighbourhoods and head.
    pub blocks: Vec<Block>,
}

impl Network {
    /// A network of these blocks.
    ///
    /// # Errors
    /// No blocks, a block that does not take what the one before it gives, values that this machine has no memory for, or a
    /// normalisation that does not fit.
    pub fn new(mut manifest: Manifest, blocks: Vec<Block>) -> Result<Self> {
        // No pack holds names that would steer a terminal.
        let Manifest { architecture, source, classes, .. } = &mut manifest;
        [architecture, source]
            .into_iter()
            .chain(classes)
            .for_each(|name| *name = name.replace(char::is_control, "\u{fffd}"));
        ensure!(!blocks.is_empty(), "a network needs at least one block");
        for pair in blocks.windows(2) {
            let (given, taken) = (pair[0].output(), pair[1].input());
            ensure!(
                given == taken,
                "block {} gives {given}, but block {} takes {taken}",
                pair[0].name(),
                pair[1].name()
            );
        }
        let largest = blocks.iter().map(DeviceBlock::pass_bytes).max().unwrap_or(0);
        check_memory("a forward pass of this network", largest)?;
        let channels = blocks[0].input().channels;
        ensure!(
            manifest.mean.len() == channels && manifest.std.len() == channels,
            "the network has {channels} input channels, but a mean for {} and a deviation for {}",
            manifest.mean.len(),
            manifest.std.len()
        );
        ensure!(manifest.normalises(channels), "a mean is not finite, or a standard deviation is not positive");
        Ok(Self { manifest, blocks })
    }

    /// Reads a pack that holds a whole network.
    ///
    /// # Errors
    /// The file, or a pack of students.
    pub fn read_pack(path: &Path) -> Result<Self> {
        let context = || format!("cannot read {}", path.display());
        let (manifest, blocks) = read_blocks(path)?;
        Self::whole(manifest, blocks).with_context(context)
    }

    /// A network of a pack's blocks.
    ///
    /// # Errors
    /// As [`new`](Self::new); or the blocks are students.
    pub fn whole(manifest: Manifest, blocks: Vec<Block>) -> Result<Self> {
        if manifest.contents != Contents::Network {
            return Err(PackError::<std::io::Error>::WrongContents.into());
        }
        Self::new(manifest, blocks)
    }

    /// Writes the network as a pack. If that fails, an existing file is unchanged.
    pub fn write_pack(&self, path: &Path, encoding: Encoding) -> Result<()> {
        let mut file = NewFile::create(path)?;
        let write = |file: &mut NewFile| -> Result<(), PackError<std::io::Error>> {
            let mut writer = PackWriter::new(file, &self.manifest, self.blocks.len())?;
            for (position, block) in self.blocks.iter().enumerate() {
                writer.add(position, block, encoding)?;
            }
            writer.finish().map(|_| ())
        };
        write(&mut file).with_context(|| format!("cannot write {}", path.display()))?;
        file.commit()
    }

    /// Shape of one input image.
    pub fn input(&self) -> Shape {
        self.blocks[0].input()
    }

    /// Shape of the output for one image.
    pub fn output(&self) -> Shape {
        self.blocks[self.blocks.len() - 1].output()
    }

    /// Number of values that the network gives for one image: a logit for each class.
    pub fn logits(&self) -> usize {
        self.output().elements()
    }

    /// Whether the output is one number for each class.
    pub fn classifies(&self) -> bool {
        self.output().elements() == self.output().channels
    }

    /// Checks that the network [classifies](Self::classifies), so that whole students can be trained on its classes.
    pub fn check_classifies(&self) -> Result<()> {
        ensure!(
            self.classifies(),
            "the network gives {} for an image, not one number for each class that a whole student could be trained on: \
             train its blocks instead (`distill-device run --steps 600`)",
            self.output()
        );
        Ok(())
    }

    /// Trained scalars of all blocks.
    pub fn parameters(&self) -> usize {
        self.blocks.iter().map(Block::parameters).sum()
    }

    /// Multiply-accumulates for one image.
    pub fn macs(&self) -> u64 {
        self.blocks.iter().map(Block::macs).sum()
    }

    /// The neighbourhoods, each with its position among the blocks.
    pub fn neighbourhoods(&self) -> impl Iterator<Item = (usize, &Block)> {
        self.blocks.iter().enumerate().filter(|(_, block)| block.role() == Role::Neighbourhood)
    }

    /// The student that a run with these settings makes, before it learns anything: for its shapes and sizes.
    ///
    /// # Errors
    /// As the transformations of a block.
    pub fn student(&self, settings: &Settings) -> Result<Self> {
        let mut student = self.clone();
        let neighbourhoods = student.blocks.iter_mut().filter(|block| block.role() == Role::Neighbourhood);
        for (number, block) in neighbourhoods.enumerate() {
            if settings.blocks.is_empty() || settings.blocks.contains(&number) {
                *block = untrained(&fold_batch_norms(block)?, &settings.recipe_of(block.name()))?;
            }
        }
        Ok(student)
    }

    /// SHA-256 of its manifest, operators and weights.
    ///
    /// # Errors
    /// None for a network that exists.
    pub fn digest(&self) -> Result<[u8; 32]> {
        let mut sha = Sha256::new();
        sha.update(serde_json::to_vec(&self.manifest)?);
        for block in &self.blocks {
            sha.update(serde_json::to_vec(&(block.name(), block.role(), block.nodes(), block.parts()))?);
            for weight in block.weights() {
                sha.update(&weight.name);
                weight.data.iter().for_each(|value| sha.update(value.to_le_bytes()));
            }
        }
        Ok(sha.finalize().into())
    }

    /// The same function with every batch norm folded into the convolution before it.
    pub fn folded(&self) -> Result<Self> {
        let blocks: Result<Vec<Block>, _> = self.blocks.iter().map(fold_batch_norms).collect();
        Ok(Self { manifest: self.manifest.clone(), blocks: blocks? })
    }
}

/// The untrained student of a folded block, or of each neighbourhood inside it.
fn untrained(folded: &Block, recipe: &Recipe) -> Result<Block, BlockError> {
    if folded.parts().is_empty() {
        return recipe.student(folded);
    }
    let mut student = folded.clone();
    for (number, &part) in folded.parts().iter().enumerate() {
        student = student.with_part(student.parts()[number], &recipe.student(&folded.part(part)?)?)?;
    }
    Ok(student)
}

/// Reads a pack of a network or of students.
pub fn read_blocks(path: &Path) -> Result<(Manifest, Vec<Block>)> {
    let mut pack = open_pack(path)?;
    let blocks: Result<Vec<Block>, _> = (0..pack.blocks()).map(|index| pack.block(index)).collect();
    Ok((pack.manifest().clone(), blocks.with_context(|| format!("cannot read {}", path.display()))?))
}

/// Whether a path is that of a pack, by its ending or its content.
pub fn is_pack(path: &Path) -> bool {
    let mut start = [0; MAGIC.len() - 1];
    let begins = |mut file: File| file.read_exact(&mut start).is_ok() && start == MAGIC[..start.len()];
    // Opening a pipe waits for whoever writes to it.
    ending(path) == "ndp" || path.is_file() && File::open(path).is_ok_and(begins)
}

/// A path's ending, without its dot.
pub fn ending(path: &Path) -> &str {
    path.extension().and_then(|ending| ending.to_str()).unwrap_or_default()
}

/// A path's last part, as packs name the file that a network came from.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
