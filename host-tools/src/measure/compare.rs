//! How closely a student follows its teacher, measured without labels.
//!
//! Both networks see the same input values. Where the student has its teacher's blocks, each is measured twice: with the
//! teacher's activations as its inputs (the interface error), and with what the student's own blocks before it give.

use std::ops::Range;

use anyhow::{Result, ensure};
use distill_core::{
    Batch, Block, Chain, Device, DeviceBlock, Difference, MEASURED_INPUTS, NoiseImages, Purpose, Role, Statistics,
    Stream,
};
use serde::Serialize;

use super::{batch, evaluate::largest};
use crate::{
    images::{Images, normalised},
    network::Network,
};

/// Images of noise on which a whole comparison is made: the held-out ones, and variants of them.
const COMPARED: usize = 512;
/// Below this share of what lies between chance and perfect agreement, a student is no better than chance.
const LEAST_KAPPA: f64 = 0.1;
/// Above this chance agreement, the teacher sees one class in most images.
const ONE_CLASS: f64 = 60.0;

const CALIBRATED: &str = "calibrated noise";
const PICTURES: &str = "pictures";

/// The images on which two networks are compared.
#[derive(Clone, Copy)]
pub enum Sample<'a> {
    /// Calibrated noise that nothing learns from, and variants of it.
    Calibrated(&'a NoiseImages),
    /// The same without variants: few images, at once.
    HeldOut(&'a NoiseImages),
    /// Noise with a 1/f spectrum, for a teacher without calibrated noise: it shows little but failures.
    Octaves,
    /// Pictures, whose labels nothing reads.
    Pictures(&'a dyn Images, usize),
}

impl Sample<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Calibrated(_) => COMPARED,
            Self::HeldOut(noise) => noise.len().min(MEASURED_INPUTS),
            Self::Octaves => MEASURED_INPUTS,
            Self::Pictures(images, limit) => images.len().min(*limit),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Calibrated(_) | Self::HeldOut(_) => CALIBRATED,
            Self::Octaves => "1/f noise",
            Self::Pictures(..) => PICTURES,
        }
    }

    /// Images `range` as inputs of `network`.
    fn batch(&self, network: &Network, range: Range<usize>) -> Result<Batch> {
        Ok(match self {
            Self::Calibrated(noise) | Self::HeldOut(noise) => {
                ensure!(noise.shape() == network.input(), "the noise images are of {}", noise.shape());
                noise.held_out(range, &network.manifest.pixels())
            }
            Self::Octaves => {
                let values = Stream::new(0, Purpose::Measure, range.start).octaves(range.len(), network.input());
                Batch::from_values(&values, network.input())
            }
            Self::Pictures(images, _) => normalised(network, *images, range)?,
        })
    }
}

/// The object `compare --json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Number of images.
    pub images: usize,
    /// What they are: `calibrated noise`, `1/f noise` or `pictures`.
    pub of: &'static str,
    /// Percent of the images to which both networks give the same class; `None` if the output is not one number for each
    /// of several classes.
    pub agreement: Option<f64>,
    /// Percent expected of two networks that give each class as often as these do, independently of the image.
    pub chance: Option<f64>,
    /// `‖S(x) − T(x)‖ / ‖T(x)‖` of the networks' outputs, which are logits if they classify.
    pub output_error: f64,
    /// The neighbourhoods; empty if the student has other blocks than its teacher.
    pub blocks: Vec<BlockComparison>,
}

/// How closely a block of the student follows the teacher's.
#[derive(Clone, Debug, Serialize)]
pub struct BlockComparison {
    /// The teacher's name for it.
    pub name: String,
    /// `‖S_i(a) − T_i(a)‖ / ‖T_i(a)‖`, where `a` are the teacher's activations.
    pub block_error: f64,
    /// The same distance, where the student's block reads what the student's blocks before it give.
    pub running_error: f64,
}

/// Compares a student with its teacher.
///
/// # Errors
/// Networks of other input or output shapes, images that do not fit or cannot be read, outputs that are not finite.
pub fn compare(teacher: &Network, student: &Network, sample: Sample<'_>) -> Result<Comparison> {
    ensure!(
        student.input() == teacher.input() && student.output() == teacher.output(),
        "the student maps {} to {}, the teacher {} to {}",
        student.input(),
        student.output(),
        teacher.input(),
        teacher.output()
    );
    let normalises = |network: &Network| (network.manifest.mean.clone(), network.manifest.std.clone());
    if normalises(student) != normalises(teacher) {
        log::warn!("student and teacher normalise pixels differently; both are given the teacher's values");
    }
    let total = sample.len();
    ensure!(total > 0, "there are no images to compare on");
    let (mut blocks, mut chains) = (Blocks::new(teacher, student)?, None);
    let (mut classes, mut output) = (Classes::new(teacher.output().elements()), Difference::default());
    let at_once = batch(teacher.input(), rayon::current_num_threads());
    for start in (0..total).step_by(at_once) {
        let input = sample.batch(teacher, start..total.min(start + at_once))?;
        let [theirs, ours] = match &mut blocks {
            Some(blocks) => blocks.forward(input),
            None => {
                let [teacher, student] = chains
                    .get_or_insert_with(|| [teacher, student].map(|network| Chain::new(&network.blocks, &Device::Cpu)));
                let [mut theirs, mut ours] = [(); 2].map(|()| Batch::new(&Device::Cpu));
                teacher.forward(&input, &mut theirs);
                student.forward(&input, &mut ours);
                [theirs, ours]
            }
        };
        ours.add_difference(&theirs, &mut output);
        classes.add(&theirs.to_values(), &ours.to_values());
    }
    ensure!(output.error.is_finite() && output.energy.is_finite(), "a network gives outputs that are not finite");
    let classifies = teacher.classifies() && classes.count > 1;
    Ok(Comparison {
        images: total,
        of: sample.name(),
        agreement: classifies.then(|| classes.agreement()),
        chance: classifies.then(|| classes.chance()),
        output_error: output.relative_error(),
        blocks: blocks.map_or_else(Vec::new, Blocks::finish),
    })
}

/// Teacher and student block by block, where both have the same boundaries.
struct Blocks {
    pairs: Vec<Pair>,
}

struct Pair {
    name: String,
    role: Role,
    teacher: DeviceBlock,
    student: DeviceBlock,
    alone: Difference,
    running: Difference,
}

impl Blocks {
    fn new(teacher: &Network, student: &Network) -> Result<Option<Self>> {
        let boundaries =
            |network: &Network| network.blocks.iter().map(|block| (block.input(), block.output())).collect::<Vec<_>>();
        if boundaries(teacher) != boundaries(student) {
            return Ok(None);
        }
        let (teacher, student) = (teacher.folded()?, student.folded()?);
        let pair = |(teacher, student): (&Block, &Block)| Pair {
            name: teacher.name().to_owned(),
            role: teacher.role(),
            teacher: DeviceBlock::new(teacher, &Device::Cpu),
            student: DeviceBlock::new(student, &Device::Cpu),
            alone: Difference::default(),
            running: Difference::default(),
        };
        Ok(Some(Self { pairs: teacher.blocks.iter().zip(&student.blocks).map(pair).collect() }))
    }

    /// The outputs of the teacher and of the student.
    fn forward(&mut self, input: Batch) -> [Batch; 2] {
        // Until a block differs, the student's values are the teacher's.
        let (mut theirs, mut ours) = (input, None);
        for pair in &mut self.pairs {
            let target = pair.teacher.forward(&theirs, Statistics::Running);
            let alone = pair.student.forward(&theirs, Statistics::Running);
            alone.add_difference(&target, &mut pair.alone);
            let output = match &ours {
                Some(ours) => pair.student.forward(ours, Statistics::Running),
                None => alone,
            };
            output.add_difference(&target, &mut pair.running);
            ours = (pair.running.error > 0.0 || ours.is_some()).then_some(output);
            theirs = target;
        }
        let ours = ours.unwrap_or_else(|| theirs.to_device(&Device::Cpu));
        [theirs, ours]
    }

    fn finish(self) -> Vec<BlockComparison> {
        let neighbourhoods = self.pairs.into_iter().filter(|pair| pair.role == Role::Neighbourhood);
        let line = |pair: Pair| BlockComparison {
            name: pair.name,
            block_error: pair.alone.relative_error(),
            running_error: pair.running.relative_error(),
        };
        neighbourhoods.map(line).collect()
    }
}

/// How often each network gave each class, and how often both gave the same.
struct Classes {
    count: usize,
    theirs: Vec<u32>,
    ours: Vec<u32>,
    same: u32,
    images: u32,
}

impl Classes {
    fn new(count: usize) -> Self {
        Self { count, theirs: vec![0; count], ours: vec![0; count], same: 0, images: 0 }
    }

    fn add(&mut self, theirs: &[f32], ours: &[f32]) {
        for (theirs, ours) in theirs.chunks_exact(self.count).zip(ours.chunks_exact(self.count)) {
            let [theirs, ours] = [theirs, ours].map(largest);
            self.theirs[theirs] += 1;
            self.ours[ours] += 1;
            self.same += u32::from(theirs == ours);
            self.images += 1;
        }
    }

    fn agreement(&self) -> f64 {
        100.0 * f64::from(self.same) / f64::from(self.images)
    }

    fn chance(&self) -> f64 {
        let pairs = self.theirs.iter().zip(&self.ours).map(|(&a, &b)| f64::from(a) * f64::from(b));
        100.0 * pairs.sum::<f64>() / f64::from(self.images).powi(2)
    }
}

impl Comparison {
    /// Mean of the blocks' errors on the teacher's activations; 0 without blocks.
    pub fn interface_error(&self) -> f64 {
        self.blocks.iter().map(|block| block.block_error).sum::<f64>() / self.blocks.len().max(1) as f64
    }

    /// Agreement above chance, as a share of what is possible (Cohen's kappa): a student that gives most images one class agrees
    /// with its teacher more often, and knows less.
    fn kappa(&self) -> Option<f64> {
        let (agreement, chance) = (self.agreement?, self.chance?);
        (chance < 100.0).then(|| (agreement - chance) / (100.0 - chance))
    }

    /// Whether this student follows the teacher more closely than another on the same images: in its class more often, chance
    /// aside, or, if as often, with less error.
    pub fn follows(&self, other: &Self) -> bool {
        match (self.kappa(), other.kappa()) {
            (Some(ours), Some(theirs)) if ours != theirs => ours > theirs,
            _ => self.output_error < other.output_error,
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let Self { images, of, agreement, chance, output_error, .. } = self;
        let error = format!("error of the output {output_error:.3}");
        match (agreement, chance) {
            (Some(agreement), Some(chance)) => {
                format!(
                    "same class as the teacher in {agreement:.1} % of {images} images of {of} (by chance {chance:.1} %), {error}"
                )
            }
            _ => format!("{error} on {images} images of {of}"),
        }
    }

    /// What is wrong with the student, or with the comparison; `None` if nothing is.
    pub fn warning(&self) -> Option<String> {
        if self.output_error >= 1.0 && ![PICTURES, CALIBRATED].contains(&self.of) {
            return Some(
                "on 1/f noise, which says little of images, the student's output is no closer to its teacher's than zero would be: \
                 compare on pictures (`distill compare --images FOLDER`), or calibrate the teacher before (`distill calibrate`)"
                    .to_owned(),
            );
        }
        if self.output_error >= 1.0 {
            return Some(
                "the student's output is no closer to its teacher's than zero would be: keep more channels (--width), or distil \
                 it from calibrated noise"
                    .to_owned(),
            );
        }
        let (agreement, chance) = (self.agreement?, self.chance?);
        if self.output_error > 0.0 && chance > ONE_CLASS {
            let mend = match self.of {
                PICTURES => "take more varied ones",
                CALIBRATED => "compare on pictures (`distill compare --images FOLDER`)",
                _ => {
                    "compare on pictures (`distill compare --images FOLDER`), or make better noise (`distill calibrate`)"
                }
            };
            return Some(format!("the teacher gives most of these images one class, so agreement says little: {mend}"));
        }
        (chance <= ONE_CLASS && agreement - chance < LEAST_KAPPA * (100.0 - chance)).then(|| {
            "the student agrees with its teacher hardly more often than by chance, so it is probably useless: keep more channels \
             (--width), distil it from calibrated noise, or fine-tune it"
                .to_owned()
        })
    }
}
