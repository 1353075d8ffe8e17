//! Knowledge distillation of a whole student on noise images (the paper's G-ND+FT and its baselines GN-KD and ZSKD).
//!
//! The loss is `CE(softmax(z_T / τ), softmax(z_S / τ))` (eq. 3 with λ = 0, as noise has no labels), plus `w · ‖S_i −
//! T_i‖² / ‖T_i‖²` over a batch of outputs of each block but the last.

use alloc::{vec, vec::Vec};

use serde::Serialize;

use crate::{
    block::{Block, Statistics},
    engine::{Batch, Classes, DeviceBlock, DistillError, Engine, Goal, Goals, Learners, Trainer, TrainerState},
    inputs::{NoiseImages, Pixels, Purpose, Stream, Variant, shuffle},
    recipe::Training,
    student::fold_batch_norms,
    tensor::Shape,
};

/// How a student is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tuning {
    /// Steps, images per step, update rule, learning rate.
    pub training: Training,
    /// τ, the divisor of the logits in both softmaxes.
    pub temperature: f32,
    /// w, the weight of the distance of each block's output.
    pub features: f32,
    /// Seed of all random numbers.
    pub seed: u64,
}

impl Tuning {
    /// Default number of steps.
    pub const STEPS: usize = 3000;

    /// `steps` steps of Adam (batch 128, cosine schedule from 1e-3), temperature 2.5 (the paper's), feature weight 100.
    pub fn new(steps: usize) -> Self {
        let training = Training::adam(steps, 128);
        Self { training, temperature: 2.5, features: 100.0, seed: 0 }
    }
}

/// The images on which a student is trained; noise is the only kind.
#[derive(Clone, Copy, Debug)]
pub enum Lessons<'a> {
    /// `N(0, 1)` in every pixel, drawn anew for every step.
    White,
    /// Variants of noise images.
    Images {
        /// The images.
        images: &'a NoiseImages,
        /// The teacher's normalisation of pixels.
        pixels: &'a Pixels,
        /// Number of images to use, from the first; at least 1.
        seen: usize,
    },
}

/// How a student is trained: by which teacher, on which images, and on which device.
#[derive(Clone, Copy, Debug)]
pub struct Course<'a> {
    /// The teacher's blocks; its output has shape `[classes, 1, 1]`, as the student's.
    pub teacher: &'a [Block],
    /// The images.
    pub lessons: Lessons<'a>,
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
    /// Mean cross-entropy before it.
    pub loss: f32,
    trainer: &'a Trainer,
    lessons: &'a Drawn<'a>,
}

impl Step<'_> {
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
pub fn learn(
    course: Course<'_>,
    student: Vec<Block>,
    from: Option<Snapshot>,
    mut progress: impl FnMut(Step<'_>),
) -> Result<Vec<Block>, DistillError> {
    let Course { teacher, lessons, tuning, engine } = course;
    let on_device = |block: &Block| Ok(DeviceBlock::new(&fold_batch_norms(block)?, &engine.device));
    let teacher: Vec<DeviceBlock> = teacher.iter().map(on_device).collect::<Result<_, DistillError>>()?;
    let mut lessons = Drawn::new(lessons, tuning.seed, student.first().map_or(Shape::new(1, 1, 1), Block::input));
    let learners = Learners { count: student.len(), statistics: Statistics::Current };
    let mut trainer = Trainer::new(student, learners, &tuning.training, engine);
    let mut done = 0;
    if let Some(Snapshot { trainer: state, stream, order }) = from {
        let steps = state.step as usize;
        if lessons.restore(stream, order) && trainer.restore(state) {
            done = steps;
        } else {
            log::warn!("what an earlier training left is not of this one: starting over");
            lessons = Drawn::new(lessons.lessons, tuning.seed, lessons.shape);
        }
    }
    let [mut images] = engine.batches();
    let mut goals: Vec<Goal> = teacher.iter().map(|_| Goal::new(&engine.device)).collect();
    for number in done + 1..=tuning.training.steps {
        lessons.next_into(tuning.training.batch, &mut images);
        for (index, block) in teacher.iter().enumerate() {
            let (done, rest) = goals.split_at_mut(index);
            let Goal { output, weight } = &mut rest[0];
            block.forward_into(done.last().map_or(&images, |goal| &goal.output), output, &mut trainer.workspace);
            let energy = output.energy();
            *weight = if energy > 0.0 { (f64::from(tuning.features) / energy) as f32 } else { 0.0 };
        }
        let Some((logits, features)) = goals.split_last() else { break };
        let probabilities = softmax(&logits.output, tuning.temperature);
        let classes = Classes { probabilities: &probabilities, temperature: tuning.temperature, weight: 1.0 };
        let outputs = if tuning.features > 0.0 { features } else { &[] };
        trainer.step(&images, Goals { outputs, classes: Some(classes) });
        let loss = trainer.cross_entropy();
        progress(Step { number, loss, trainer: &trainer, lessons: &lessons });
        if !loss.is_finite() {
            // The weights are not finite either.
            break;
        }
    }
    trainer.finish()
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

/// Draws batches of lessons.
#[derive(Debug)]
struct Drawn<'a> {
    lessons: Lessons<'a>,
    stream: Stream,
    shape: Shape,
    /// The rest of an epoch's order.
    order: Vec<usize>,
    values: Vec<f32>,
}

impl<'a> Drawn<'a> {
    fn new(lessons: Lessons<'a>, seed: u64, shape: Shape) -> Self {
        let stream = Stream::new(seed, Purpose::Train, usize::MAX);
        Self { lessons, stream, shape, order: Vec::new(), values: Vec::new() }
    }

    /// Continues from the rest of an epoch; returns whether it is one of these lessons'.
    fn restore(&mut self, stream: Stream, order: Vec<u32>) -> bool {
        let seen = match self.lessons {
            Lessons::White => 0,
            Lessons::Images { seen, .. } => seen,
        };
        let fits = order.len() <= seen && order.iter().all(|&image| (image as usize) < seen);
        if fits {
            (self.stream, self.order) = (stream, order.into_iter().map(|image| image as usize).collect());
        }
        fits
    }

    fn next_into(&mut self, count: usize, images: &mut Batch) {
        let Self { lessons, stream, shape, order, values } = self;
        let (shape, elements) = (*shape, shape.elements());
        match *lessons {
            Lessons::White => *values = stream.images(count, shape),
            Lessons::Images { images: noise, pixels, seen } => {
                let [mut image, mut other] = [(); 2].map(|()| vec![0.0; elements]);
                let mut varied = Vec::with_capacity(elements);
                values.clear();
                for _ in 0..count {
                    if order.is_empty() {
                        shuffle(stream, order, seen);
                    }
                    let pair = [order.pop().unwrap_or(0), stream.below(seen)];
                    for (index, values) in pair.into_iter().zip([&mut image, &mut other]) {
                        pixels.values(&noise.pixels()[index * elements..][..elements], shape, values);
                    }
                    Variant::draw(stream, shape).of(&image, &other, shape, &mut varied);
                    values.extend_from_slice(&varied);
                }
            }
        }
        images.fill(shape, count, |image, offset, chunk| {
            chunk.copy_from_slice(&values[image * elements + offset..][..chunk.len()])
        });
    }
}
