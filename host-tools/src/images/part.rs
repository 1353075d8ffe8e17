//! A part of some images: those to learn from, or those held out, which decide what is chosen.

use std::{borrow::Cow, fmt, ops::Range, rc::Rc};

use anyhow::{Result, ensure};
use distill_core::{Purpose, Shape, Stream, shuffle};

use super::{Images, LabelledImages};

/// Share of a data set that is learned from, unless told otherwise: 45,000 of CIFAR-10's 50,000 training images.
pub const TRAIN_SPLIT: f32 = 0.9;

/// Images by their indices in a larger set, and their classes where these may be known.
#[derive(Clone)]
pub struct Part {
    all: Rc<dyn Images>,
    members: Vec<usize>,
    labels: Vec<u16>,
}

/// The two parts of a data set. Which image is in which depends on their number and the share alone, so that every command
/// holds out the same.
#[derive(Clone, Debug)]
pub struct Split {
    /// The images to learn from.
    pub learned: Part,
    /// The others; empty if all are learned from.
    pub held_out: Part,
}

impl Split {
    /// Splits images, with the class of each or without any classes; `share` of them are to learn from.
    ///
    /// # Errors
    /// A share that is not above 0 and at most 1, or that leaves nothing to learn from.
    pub fn new(all: Rc<dyn Images>, labels: &[u16], share: f32) -> Result<Self> {
        ensure!(share > 0.0 && share <= 1.0, "the share of images to learn from must be above 0 and at most 1");
        let learned = (f64::from(share) * all.len() as f64).round() as usize;
        ensure!(learned > 0, "no image is left to learn from: {} images, and a share of {share}", all.len());
        let mut order = Vec::new();
        shuffle(&mut Stream::new(0, Purpose::Validate, usize::MAX), &mut order, all.len());
        let held_out = order.split_off(learned);
        let part = |mut members: Vec<usize>| {
            members.sort_unstable();
            let labels = members.iter().filter_map(|&member| labels.get(member)).copied().collect();
            Part { all: all.clone(), members, labels }
        };
        Ok(Self { learned: part(order), held_out: part(held_out) })
    }
}

impl Images for Part {
    fn shape(&self) -> Shape {
        self.all.shape()
    }

    fn len(&self) -> usize {
        self.members.len()
    }

    /// Of all images, in both parts.
    fn check(&self) -> Result<()> {
        self.all.check()
    }

    /// That of all images, with which of them these are.
    fn checksum(&self) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.all.checksum()?.to_le_bytes());
        self.members.iter().for_each(|&member| hasher.update(&(member as u64).to_le_bytes()));
        Ok(hasher.finalize())
    }

    fn pixels(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let mut pixels = Vec::with_capacity(range.len() * self.shape().elements());
        for &member in &self.members[range] {
            pixels.extend_from_slice(&self.all.pixels(member..member + 1)?);
        }
        Ok(Cow::Owned(pixels))
    }
}

impl LabelledImages for Part {
    fn labels(&self) -> &[u16] {
        &self.labels
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} images", self.members.len(), self.all.len())
    }
}
