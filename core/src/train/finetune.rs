//! Knowledge distillation of a whole student on noise images (the paper's G-ND+FT and its baselines GN-KD and ZSKD).
//!
//! The loss is `CE(softmax(z_T / τ), softmax(z_S / τ))` (eq. 3 with λ = 0, as noise has no labels), plus `w · ‖S_i −
//! T_i‖² / ‖T_i‖²` over a batch of outputs of each block but the last.

use alloc::{vec, vec::Vec};

use serde::Serialize;

use crate::{
    block::{Block, Statistics},
    engine::{Batch, Classes, DeviceBlock, DistillError, Engine, Goal, Goals, Learners, Trainer},
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

/// Trains `student`, with batch norms folded where possible; both networks have output shape `[classes, 1, 1]`.
/// `progress` receives the mean cross-entropy before each step. A student equal to its teacher is not trained.
///
/// # Errors
/// [`DistillError`] if a block cannot be folded, or if training diverged.
pub fn finetune(
    teacher: &[Block],
    student: &[Block],
    lessons: Lessons<'_>,
    tuning: &Tuning,
    progress: impl FnMut(f32),
) -> Result<Vec<Block>, DistillError> {
    let folded = |blocks: &[Block]| blocks.iter().map(fold_batch_norms).collect::<Result<Vec<_>, _>>();
    let student = folded(student)?;
    if student == folded(teacher)? {
        log::info!("the student equals the teacher: nothing to train");
        return Ok(student);
    }
    learn(teacher, student, lessons, tuning, &Engine::default(), progress)
}

/// Trains `student` on an engine, without folding its batch norms; they use the statistics of each batch.
///
/// # Errors
/// As [`finetune`].
pub fn learn(
    teacher: &[Block],
    student: Vec<Block>,
    lessons: Lessons<'_>,
    tuning: &Tuning,
    engine: &Engine,
    mut progress: impl FnMut(f32),
) -> Result<Vec<Block>, DistillError> {
    let on_device = |block: &Block| Ok(DeviceBlock::new(&fold_batch_norms(block)?, &engine.device));
    let teacher: Vec<DeviceBlock> = teacher.iter().map(on_device).collect::<Result<_, DistillError>>()?;
    let mut lessons = Drawn::new(lessons, tuning.seed, student.first().map_or(Shape::new(1, 1, 1), Block::input));
    let learners = Learners { count: student.len(), statistics: Statistics::Current };
    let mut trainer = Trainer::new(student, learners, &tuning.training, engine);
    let [mut images] = engine.batches();
    let mut goals: Vec<Goal> = teacher.iter().map(|_| Goal::new(&engine.device)).collect();
    for _ in 0..tuning.training.steps {
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
        progress(loss);
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
