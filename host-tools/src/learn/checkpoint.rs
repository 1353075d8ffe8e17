//! The state of a long training in `OUTPUT.part`: after a cut, the same command resumes from it, to the same bytes.
//!
//! The file is a magic number, the SHA-256 of what determines the training, the state (postcard), and the SHA-256 of all that.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use distill_core::{Snapshot, Step};
use distill_device::{Resumable, UnfinishedFile, VERSION, check_writable, say, write_file};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// At most so much work is lost.
const EVERY: Duration = Duration::from_secs(10);

const MAGIC: [u8; 4] = *b"NDT\x1A";
const DIGEST: usize = 32;

/// Where a training keeps its state: in `output.part`.
#[derive(Clone, Copy, Debug)]
pub struct Keep<'a> {
    /// The file that the student will be written to.
    pub output: &'a Path,
    /// Whether to start over, whatever an earlier run left.
    pub fresh: bool,
}

impl Keep<'_> {
    /// Removes the state, once the student is written.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn clear(self) -> Result<()> {
        let path = UnfinishedFile::path(self.output)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// The unfinished file of a training.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    /// Of everything that determines the training's bytes.
    key: [u8; DIGEST],
    fresh: bool,
    written: Instant,
    _resumable: Resumable,
}

impl Checkpoint {
    /// For a training that `settings` determine, in this version of the program.
    ///
    /// # Errors
    /// The output is not a file, or the state cannot be written.
    pub fn new(keep: Keep<'_>, settings: &impl Serialize) -> Result<Self> {
        let path = UnfinishedFile::path(keep.output)?;
        // Also removes what a cut left of a state: the rest of a training may be too short to write another over it.
        check_writable(&path, [])?;
        let key = Sha256::digest(serde_json::to_vec(&(VERSION, settings))?).into();
        let line = format!("the training is kept in {}; the same command resumes it", path.display());
        let _resumable = Resumable::new(path.clone(), line);
        Ok(Self { path, key, fresh: keep.fresh, written: Instant::now(), _resumable })
    }

    /// The state that an earlier run of the same left, unless this one is to start over.
    ///
    /// # Errors
    /// The file cannot be read, or is of something else: only a fresh start replaces it.
    pub fn resume(&self) -> Result<Option<Snapshot>> {
        let shown = self.path.display();
        if self.fresh {
            return Ok(None);
        }
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
        };
        let Some((content, digest)) = bytes.split_last_chunk::<DIGEST>() else { bail!(self.foreign()) };
        let body = content.strip_prefix(&MAGIC).and_then(|content| content.strip_prefix(&self.key));
        let Some(body) = body.filter(|_| Sha256::digest(content)[..] == *digest) else { bail!(self.foreign()) };
        let snapshot: Snapshot = postcard::from_bytes(body).with_context(|| format!("cannot read {shown}"))?;
        say(&format!("resuming after {} steps that were done before (--fresh starts over)", snapshot.steps()));
        Ok(Some(snapshot))
    }

    fn foreign(&self) -> String {
        format!(
            "{} was left by another command, version or file: finish that, remove it, or start over with --fresh",
            self.path.display()
        )
    }

    /// Writes the state after a step, if the last time was a while ago. Where that fails, the training goes on.
    pub fn keep(&mut self, step: Step<'_>) {
        if self.written.elapsed() < EVERY || !step.loss.is_finite() {
            return;
        }
        self.written = Instant::now();
        if let Err(error) = step.snapshot().map_or(Ok(()), |snapshot| self.write(&snapshot)) {
            log::warn!("the training is not kept: {error:#}");
        }
    }

    fn write(&self, snapshot: &Snapshot) -> Result<()> {
        let mut bytes = [&MAGIC[..], &self.key].concat();
        bytes.extend(postcard::to_allocvec(snapshot)?);
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        write_file(&self.path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use distill_core::{
        Block, BlockBuilder, Course, Engine, Op, Role, Shape, Training, Tuning, Weight, WhiteLessons, Width, learn,
    };
    use tempfile::tempdir;

    use super::*;
    use crate::learn::untaught;

    /// A mean over the image, and two classes.
    fn teacher() -> Result<Vec<Block>> {
        let mut head = BlockBuilder::new("head", Role::Head, Shape::new(3, 4, 4));
        let pooled = head.push("pool", Op::GlobalAveragePool, &[0], Vec::new())?;
        let weights = [("weight", vec![2, 3]), ("bias", vec![2])];
        let weights = weights.map(|(name, dims)| Weight::new(name, &dims, vec![0.5; dims.iter().product()]));
        head.push("linear", Op::Linear, &[pooled], weights.to_vec())?;
        Ok(vec![head.finish()?])
    }

    #[test]
    fn what_a_cut_left_of_a_state_is_removed() -> Result<()> {
        let folder = tempdir()?;
        fs::write(folder.path().join(".student.ndp.part.new"), "half a state")?;
        Checkpoint::new(Keep { output: &folder.path().join("student.ndp"), fresh: false }, &"this")?;
        assert_eq!(fs::read_dir(folder.path())?.count(), 0);
        Ok(())
    }

    #[test]
    fn only_what_the_same_training_left_is_resumed() -> Result<()> {
        let folder = tempdir()?;
        let output = folder.path().join("student.ndp");
        let keep = Keep { output: &output, fresh: false };
        let teacher = teacher()?;
        let training = Training { batch: 2, ..Tuning::new(1).training };
        let (tuning, engine) = (Tuning { training, ..Tuning::new(1) }, Engine::default());
        let course =
            Course { teacher: &teacher, lessons: &WhiteLessons(Shape::new(3, 4, 4)), tuning: &tuning, engine: &engine };
        let mut left = None;
        learn(course, untaught(&teacher, Width::new(0.25)?, 0)?, None, |step| left = step.snapshot())?;
        let (checkpoint, other) = (Checkpoint::new(keep, &"this")?, Checkpoint::new(keep, &"another")?);
        assert_eq!(checkpoint.resume()?, None);
        checkpoint.write(left.as_ref().context("no step was taken")?)?;
        assert_eq!(checkpoint.resume()?, left);
        assert!(other.resume().is_err_and(|error| error.to_string().contains("start over with --fresh")));
        assert_eq!(Checkpoint::new(Keep { fresh: true, ..keep }, &"another")?.resume()?, None);
        let path = folder.path().join("student.ndp.part");
        let whole = fs::read(&path)?;
        for at in [0, 10, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged)?;
            assert!(checkpoint.resume().is_err(), "byte {at}");
        }
        fs::write(&path, &whole[..whole.len() / 2])?;
        assert!(checkpoint.resume().is_err());
        keep.clear()?;
        assert!(!path.exists());
        keep.clear()
    }
}
