//! A whole student learns from its teacher on noise images: knowledge distillation without data (of the paper G-ND+FT, and the
//! baselines GN-KD and ZSKD).
//!
//! The loss is `CE(softmax(z_T / τ), softmax(z_S / τ))` (eq. 3 with λ = 0, as noise has no labels), and for each block but the
//! last `w · ‖S_i − T_i‖² / ‖T_i‖²` of its output over the batch.

use alloc::{vec, vec::Vec};

use serde::Serialize;

use crate::{
    block::{Block, Statistics},
    engine::{Batch, Classes, DeviceBlock, DistillError, Engine, Goal, Goals, Learners, Trainer},
    noise::{NoiseImages, Pixels, Purpose, Stream, Variant, shuffle},
    recipe::Training,
    student::fold_batch_norms,
    tensor::Shape,
};

/// How a student learns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tuning {
    /// Steps, images a step, update rule, rates.
    pub training: Training,
    /// τ: both softmaxes are of logits divided by it.
    pub temperature: f32,
    /// w: weight of the distance of each block's output.
    pub features: f32,
    /// Every random number follows from it.
    pub seed: u64,
}

impl Tuning {
    /// Steps where no number is asked for.
    pub const STEPS: usize = 3000;

    /// `steps` steps of Adam (batch 128, a cosine down from 1e-3), temperature 2.5 (the paper's), a hundred times the weight on
    /// features that the logits have.
    pub fn new(steps: usize) -> Self {
        let training = Training::adam(steps, 128);
        Self { training, temperature: 2.5, features: 100.0, seed: 0 }
    }
}

/// The images that a student learns from. There is no way to hand it others.
#[derive(Clone, Copy, Debug)]
pub enum Lessons<'a> {
    /// `N(0, 1)` in every pixel, drawn anew for every step.
    White,
    /// Variants of noise images.
    Images {
        /// These.
        images: &'a NoiseImages,
        /// What their pixels are to the teacher.
        pixels: &'a Pixels,
        /// Only the first so many, at least one.
        seen: usize,
    },
}

/// The student after `tuning`, without batch norms where they fold away; both networks give `[classes, 1, 1]`. `progress` is told the mean
/// cross-entropy before each step.
/// A student that is its teacher has nothing to learn.
///
/// # Errors
/// [`DistillError`] if a block does not fold, or training diverged.
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
        log::info!("the student is the teacher: there is nothing to learn");
        return Ok(student);
    }
    learn(teacher, student, lessons, tuning, &Engine::default(), progress)
}

/// The student after `tuning` on an engine; batch norms in it learn with the statistics of each batch.
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
            // Nor are the weights after such a step.
            break;
        }
    }
    trainer.finish()
}

/// Probabilities of the classes of each image, `[N, classes]`.
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

/// Batches of lessons.
struct Drawn<'a> {
    lessons: Lessons<'a>,
    stream: Stream,
    shape: Shape,
    /// What is left of an epoch.
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
