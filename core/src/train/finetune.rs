//! Training of a whole network: knowledge distillation of a student (the paper's G-ND+FT and ND+FT, its baselines KD,
//! GN-KD and ZSKD), or learning from labels alone (CE, and teachers).
//!
//! The loss is `CE(softmax(z_T / τ), softmax(z_S / τ)) + λ · CE(y, softmax(z_S))` (eq. 3), plus `w · ‖S_i − T_i‖² / ‖T_i‖²`
//! over a batch of outputs of each block but the last. Without a teacher, the term of the labels is left; without
//! labels, as on noise, the others.

use alloc::vec::Vec;

use serde::Serialize;

use crate::{
    block::{Block, Statistics},
    engine::{
        Batch, Classes, DeviceBlock, DistillError, Disturbance, Engine, Goal, Goals, Learners, Trainer, TrainerState,
        Workspace, one_hot,
    },
    recipe::Training,
    stream::{Purpose, Stream},
    student::fold_batch_norms,
    tensor::Shape,
    train::lessons::{Drawn, Lessons},
};

/// How a student is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tuning {
    /// Steps, images per step, update rule, learning rate.
    pub training: Training,
    /// τ, the divisor of the logits in both softmaxes.
    pub temperature: f32,
    /// λ, the weight of the cross-entropy with the labels, where there are any.
    pub labels: f32,
    /// w, the weight of the distance of each block's output.
    pub features: f32,
    /// σ of the noise on every neighbourhood's output, see [`Disturbance`].
    pub disturbance: f32,
    /// Seed of all random numbers.
    pub seed: u64,
}

impl Tuning {
    /// Default number of steps.
    pub const STEPS: usize = 3000;
    /// The same with data.
    pub const STEPS_WITH_DATA: usize = 8000;

    /// `steps` steps of Adam (batch 128, cosine schedule from 1e-3), temperature 2.5 (the paper's), λ 1, feature weight 100.
    pub fn new(steps: usize) -> Self {
        let training = Training::adam(steps, 128);
        Self { training, temperature: 2.5, labels: 1.0, features: 100.0, disturbance: 0.0, seed: 0 }
    }

    /// The same for images and labels: batch 64, and feature weight 10, which a held-out part of CIFAR-10's training images
    /// prefers to 1 and to 100.
    pub fn with_data(steps: usize) -> Self {
        Self { training: Training::adam(steps, 64), features: 10.0, ..Self::new(steps) }
    }
}

/// How a network is trained: by which teacher, on which images, and on which device.
#[derive(Clone, Copy, Debug)]
pub struct Course<'a> {
    /// The teacher's blocks; its output has shape `[classes, 1, 1]`, as the student's. Without blocks, labels teach.
    pub teacher: &'a [Block],
    /// The images.
    pub lessons: &'a dyn Lessons,
    /// Steps, loss and seed.
    pub tuning: &'a Tuning,
    /// The compute engine.
    pub engine: &'a Engine,
}

/// A training between two steps. With the same course and student, it continues from there to the same bytes.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "std", derive(Serialize, serde::Deserialize))]
pub struct Snapshot {
    trainer: TrainerState,
    stream: Stream,
    /// The rest of an epoch's order.
    order: Vec<u32>,
}

impl Snapshot {
    /// Steps taken before it.
    pub fn steps(&self) -> usize {
        self.trainer.step as usize
    }
}

/// A step that was taken.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Its number, from 1.
    pub number: usize,
    /// Its learning rate.
    pub rate: f32,
    /// Mean cross-entropy before it; with labels, that with the teacher and λ times that with the labels.
    pub loss: f32,
    trainer: &'a Trainer,
    lessons: &'a Drawn<'a>,
    blocks: usize,
}

impl Step<'_> {
    /// The network after this step.
    ///
    /// # Errors
    /// [`DistillError::Diverged`].
    pub fn network(&self) -> Result<Vec<Block>, DistillError> {
        (0..self.blocks).map(|index| self.trainer.block(index)).collect()
    }

    /// The training after this step; `None` on Burn's devices.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let Drawn { stream, order, .. } = self.lessons;
        let order = order.iter().map(|&image| image as u32).collect();
        Some(Snapshot { trainer: self.trainer.state()?, stream: stream.clone(), order })
    }
}

/// Trains `student`, with batch norms folded where possible, from the start or from a snapshot. `progress` receives every step.
/// A student equal to its teacher is not trained.
///
/// # Errors
/// [`DistillError`] if a block cannot be folded, or if training diverged.
pub fn finetune(
    course: Course<'_>,
    student: &[Block],
    from: Option<Snapshot>,
    progress: impl FnMut(Step<'_>),
) -> Result<Vec<Block>, DistillError> {
    let folded = |blocks: &[Block]| blocks.iter().map(fold_batch_norms).collect::<Result<Vec<_>, _>>();
    let student = folded(student)?;
    if student == folded(course.teacher)? {
        log::info!("the student equals the teacher: nothing to train");
        return Ok(student);
    }
    learn(course, student, from, progress)
}

/// Trains `student` without folding its batch norms; they use the statistics of each batch.
///
/// # Errors
/// As [`finetune`].
///
/// # Panics
/// If a label is not below the number of classes.
pub fn learn(
    course: Course<'_>,
    student: Vec<Block>,
    from: Option<Snapshot>,
    mut progress: impl FnMut(Step<'_>),
) -> Result<Vec<Block>, DistillError> {
    let Course { teacher, lessons, tuning, engine } = course;
    let on_device = |block: &Block| Ok(DeviceBlock::new(&fold_batch_norms(block)?, &engine.device));
    let teacher: Vec<DeviceBlock> = teacher.iter().map(on_device).collect::<Result<_, DistillError>>()?;
    let stream = || Stream::new(tuning.seed, Purpose::Train, usize::MAX);
    let labels = lessons.labels();
    let mut drawn = Drawn::new(lessons, stream());
    let shape = student.first().map_or(Shape::new(1, 1, 1), Block::input);
    let (blocks, logits) = (student.len(), student.last().map_or(0, |head| head.output().elements()));
    let learners = Learners { count: blocks, statistics: Statistics::Current };
    let mut trainer = Trainer::new(student, learners, &tuning.training, engine);
    trainer.disturb(Disturbance { deviation: tuning.disturbance, seed: tuning.seed });
    let mut done = 0;
    if let Some(Snapshot { trainer: state, stream: rest, order }) = from {
        let steps = state.step as usize;
        if drawn.restore(rest, order) && trainer.restore(state) {
            done = steps;
        } else {
            log::warn!("what an earlier training left is not of this one: starting over");
            drawn = Drawn::new(lessons, stream());
        }
    }
    let [mut images] = engine.batches();
    let mut goals: Vec<Goal> = teacher.iter().map(|_| Goal::new(&engine.device)).collect();
    for number in done + 1..=tuning.training.steps {
        drawn.next(tuning.training.batch)?;
        let elements = shape.elements();
        images.fill(shape, tuning.training.batch, |image, offset, chunk| {
            chunk.copy_from_slice(&drawn.values[image * elements + offset..][..chunk.len()])
        });
        follow(&teacher, &images, tuning.features, &mut goals, &mut trainer.workspace);
        let (last, features) = goals.split_last().map_or((None, &[][..]), |(last, features)| (Some(last), features));
        let taught = last.map(|last| softmax(&last.output, tuning.temperature));
        let known: Vec<u16> = drawn.images.iter().filter_map(|&image| labels.get(image)).copied().collect();
        let known = (tuning.labels > 0.0 && !known.is_empty()).then(|| one_hot(&known, logits));
        let term = |temperature, weight| move |probabilities| Classes { probabilities, temperature, weight };
        let terms =
            [taught.as_deref().map(term(tuning.temperature, 1.0)), known.as_deref().map(term(1.0, tuning.labels))];
        let classes: Vec<Classes<'_>> = terms.into_iter().flatten().collect();
        let outputs = if tuning.features > 0.0 { features } else { &[] };
        trainer.step(&images, Goals { outputs, classes: &classes });
        let (rate, loss) = (tuning.training.rate_of(number - 1), trainer.cross_entropy());
        progress(Step { number, rate, loss, trainer: &trainer, lessons: &drawn, blocks });
        if !loss.is_finite() {
            // The weights are not finite either.
            break;
        }
    }
    trainer.finish()
}

/// Takes images through the teacher. What each block gives is a goal, weighted so that its relative error counts.
fn follow(teacher: &[DeviceBlock], images: &Batch, features: f32, goals: &mut [Goal], workspace: &mut Workspace) {
    for (index, block) in teacher.iter().enumerate() {
        let (done, rest) = goals.split_at_mut(index);
        let Goal { output, weight } = &mut rest[0];
        block.forward_into(done.last().map_or(images, |goal| &goal.output), output, workspace);
        let energy = output.energy();
        *weight = if energy > 0.0 { (f64::from(features) / energy) as f32 } else { 0.0 };
    }
}

/// Class probabilities of each image, `[N, classes]`.
fn softmax(logits: &Batch, temperature: f32) -> Vec<f32> {
    let mut values = logits.to_values();
    for image in values.chunks_exact_mut(logits.shape().elements()) {
        let largest = image.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        image.iter_mut().for_each(|logit| *logit = libm::expf((*logit - largest) / temperature));
        let total: f32 = image.iter().sum();
        image.iter_mut().for_each(|share| *share /= total);
    }
    values
}
