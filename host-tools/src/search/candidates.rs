//! Candidates for each block: students of several widths, made independently, so that any combination of them is a student.
//!
//! A folder holds a pack for each block and width, and `candidates.json`, which says what made them. Files that are there are not
//! made again, so that several runs can fill a folder one after another.

use std::{
    cell::{Cell, RefCell},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use distill_core::{
    Block, CalibratedNoise, Contents, Encoding, Manifest, PackError, PackWriter, Settings, Source, SourceKind, Width,
};
use distill_device::{NewFile, Progress, open_pack, write_file};
use serde::{Deserialize, Serialize};

use super::{
    output_errors::OutputErrors,
    students::{independent_students, noise_of},
};
use crate::network::Network;

/// A student of one block.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Share of the inner channels that it keeps.
    pub width: f32,
    /// The student.
    pub block: Block,
    /// Squared relative error of the teacher's output with it in its place, on noise that it did not learn from.
    pub error: f64,
}

/// All that may stand in the place of a block.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its position in the network.
    pub position: usize,
    /// The teacher's block, then what is in the folder.
    pub candidates: Vec<Candidate>,
}

/// A folder of candidates.
pub struct Candidates<'a> {
    folder: &'a Path,
    teacher: &'a Path,
    network: Network,
}

/// What made the candidates of a folder.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct MadeBy {
    /// Fingerprint of the teacher's pack.
    teacher: String,
    /// Checksum of its noise images.
    noise: u32,
    /// The settings at width 1.
    settings: serde_json::Value,
}

/// The object `candidates --json` prints.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Filled {
    /// Candidates that were made.
    pub made: usize,
    /// Candidates that were there.
    pub found: usize,
    /// Wall time.
    pub seconds: f64,
}

const MADE_BY: &str = "candidates.json";

impl<'a> Candidates<'a> {
    /// Opens the candidates of a teacher in a folder.
    ///
    /// # Errors
    /// The teacher cannot be read.
    pub fn open(folder: &'a Path, teacher: &'a Path) -> Result<Self> {
        Ok(Self { folder, teacher, network: Network::read_pack(teacher)? })
    }

    /// Makes the candidates of these widths that are missing.
    ///
    /// # Errors
    /// A folder whose candidates were made otherwise, a teacher without calibrated noise, a file, or those of a run.
    pub fn fill(&self, widths: &[f32], settings: &Settings) -> Result<Filled> {
        let start = Instant::now();
        for &width in widths {
            ensure!(
                Width::new(width)?.k() < 1.0,
                "a width of 1 is the teacher's block, which every search has: leave it out"
            );
        }
        noise_of(self.teacher)?;
        self.claim(settings)?;
        let (mut made, mut found) = (0, 0);
        let blocks: Vec<usize> = self.network.neighbourhoods().map(|(position, _)| position).collect();
        ensure!(!blocks.is_empty(), "the network has no block to distil");
        let total = (widths.len() * blocks.len()) as u64;
        let progress = RefCell::new(Progress::new("distilling", Some(total), "{pos}/{len} candidates (ETA {eta})")?);
        for &width in widths {
            let missing: Vec<usize> =
                (0..blocks.len()).filter(|&number| self.holds(blocks[number], width).is_none()).collect();
            found += blocks.len() - missing.len();
            progress.borrow_mut().set((made + found) as u64);
            if missing.is_empty() {
                continue;
            }
            let before = made + found;
            let finished = Cell::new(0);
            let mut settings = Settings { blocks: missing, ..settings.clone() };
            settings.recipe.width = Width::new(width)?;
            let students = independent_students(self.teacher, &settings, || {
                finished.set(finished.get() + 1);
                progress.borrow_mut().set((before + finished.get()) as u64);
            })?;
            for (position, block) in &students {
                self.write(*position, width, block)?;
            }
            made += students.len();
        }
        Ok(Filled { made, found, seconds: start.elapsed().as_secs_f64() })
    }

    /// Checks that the folder is for candidates that are made like this, and says so in it.
    fn claim(&self, settings: &Settings) -> Result<()> {
        fs::create_dir_all(self.folder).with_context(|| format!("cannot make the folder {}", self.folder.display()))?;
        let ours = MadeBy {
            teacher: open_pack(self.teacher)?.fingerprint().to_string(),
            noise: CalibratedNoise(open_pack(self.teacher)?).checksum(),
            settings: serde_json::to_value(Settings { blocks: Vec::new(), ..settings.clone() })?,
        };
        let path = self.folder.join(MADE_BY);
        match fs::read(&path) {
            Ok(bytes) => {
                let theirs: MadeBy = serde_json::from_slice(&bytes)
                    .with_context(|| format!("{} is not that of a folder of candidates", path.display()))?;
                ensure!(
                    theirs == ours,
                    "{} holds candidates of another teacher, other noise or other settings: name another folder",
                    self.folder.display()
                );
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => write_file(&path, &serde_json::to_vec_pretty(&ours)?),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn path(&self, position: usize, width: f32) -> PathBuf {
        self.folder.join(format!("{position:03}-{width}.ndp"))
    }

    /// A candidate that is there and sound. That another one is not is said.
    fn holds(&self, position: usize, width: f32) -> Option<Block> {
        let path = self.path(position, width);
        let sound = self.read(&path, position);
        if sound.is_none() && path.exists() {
            log::warn!("{} is damaged or of another teacher: `distill candidates` makes it again", path.display());
        }
        sound
    }

    fn read(&self, path: &Path, position: usize) -> Option<Block> {
        let mut pack = open_pack(path).ok()?;
        let ours = open_pack(self.teacher).ok()?.fingerprint();
        let is_ours = pack.manifest().contents == Contents::Neighbourhoods { teacher: ours };
        let is_here = is_ours && pack.blocks() == 1 && pack.position(0) == position;
        is_here.then(|| pack.block(0).ok()).flatten()
    }

    fn write(&self, position: usize, width: f32, block: &Block) -> Result<()> {
        let path = self.path(position, width);
        let contents = Contents::Neighbourhoods { teacher: open_pack(self.teacher)?.fingerprint() };
        let made_from = self.network.manifest.made_from.max(Some(SourceKind::Calibrated));
        let manifest = Manifest { contents, made_from, ..self.network.manifest.clone() };
        let mut file = NewFile::create(&path)?;
        let write = |file: &mut NewFile| -> Result<(), PackError<std::io::Error>> {
            let mut writer = PackWriter::new(file, &manifest, 1)?;
            writer.add(position, block, Encoding::F32)?;
            writer.finish().map(drop)
        };
        write(&mut file).with_context(|| format!("cannot write {}", path.display()))?;
        file.commit()
    }

    /// The network, and the candidates for each of its neighbourhoods.
    ///
    /// # Errors
    /// A folder of another teacher or without candidates, or as [`fill`](Self::fill).
    pub fn measured(self) -> Result<(Network, Vec<Place>)> {
        let path = self.folder.join(MADE_BY);
        let (folder, teacher) = (self.folder.display(), self.teacher.display());
        let no_folder =
            || format!("{folder} holds no candidates: `distill candidates {teacher} -o {folder}` makes them");
        let made_by: MadeBy =
            serde_json::from_slice(&fs::read(&path).with_context(no_folder)?).with_context(no_folder)?;
        ensure!(
            made_by.teacher == open_pack(self.teacher)?.fingerprint().to_string(),
            "{} holds candidates of another teacher",
            self.folder.display()
        );
        let widths = self.widths()?;
        let (folded, noise) = (self.network.folded()?, noise_of(self.teacher)?);
        let errors = OutputErrors::new(&self.network, &noise)?;
        let mut progress = Progress::new("measuring", Some(widths.len() as u64), "{pos}/{len} widths (ETA {eta})")?;
        let mut places: Vec<Place> = folded
            .neighbourhoods()
            .map(|(position, block)| {
                let candidates = vec![Candidate { width: 1.0, block: block.clone(), error: 0.0 }];
                Place { position, candidates }
            })
            .collect();
        for (done, &width) in widths.iter().enumerate() {
            let there: Vec<(usize, Block)> = places
                .iter()
                .filter_map(|place| Some((place.position, self.holds(place.position, width)?)))
                .filter(|(position, block)| *block != folded.blocks[*position])
                .collect();
            for ((position, block), error) in there.iter().zip(errors.of(there.iter())?) {
                let place = places.iter_mut().find(|place| place.position == *position);
                place.into_iter().for_each(|place| {
                    place.candidates.push(Candidate { width, block: block.clone(), error });
                });
            }
            progress.set(done as u64 + 1);
        }
        ensure!(places.iter().any(|place| place.candidates.len() > 1), no_folder());
        Ok((self.network, places))
    }

    /// The widths of the files in the folder.
    fn widths(&self) -> Result<Vec<f32>> {
        let files = fs::read_dir(self.folder).with_context(|| format!("cannot read {}", self.folder.display()))?;
        let mut widths = Vec::new();
        for file in files {
            let name = file?.file_name();
            let width =
                name.to_str().and_then(|name| name.strip_suffix(".ndp")?.split_once('-')?.1.parse::<f32>().ok());
            widths.extend(width);
        }
        widths.sort_by(f32::total_cmp);
        widths.dedup();
        Ok(widths)
    }
}
