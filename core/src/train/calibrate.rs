//! Calibrated noise: gradient descent on pixels until each batch's statistics at every batch norm match the teacher's
//! running ones (Haroush et al. 2019, ZeroQ 2020, DeepInversion 2020).
//!
//! The loss of a batch is, over the batch norms `l` with `C` channels,
//! `Σ_l mean_c[(μ − μ̂)² + (σ − σ̂)²] / mean_c[σ̂²]`, where `μ, σ` are the batch's and `μ̂, σ̂` the running statistics,
//! plus small terms for smoothness and classes. Where exporters have folded the batch norms away, the classes and
//! smoothness are all there is (class impressions, Nayak et al. 2019).

use alloc::{vec, vec::Vec};

use crate::{
    block::{
        Block,
        op::{BatchNorm, Op},
    },
    engine::{
        Batch, Classes, Goals, Optimizer, Workspace,
        cpu::{Feed, Groups, Norms, Passes, Stop},
    },
    inputs::{NoiseImages, Pixels},
    kernels::{norm::Moments, plane::LANES},
    recipe::{Aim, Calibration, Pull, Schedule, Start, Update},
    stream::{Purpose, Stream},
    tensor::Shape,
};

/// Optimises images to match a teacher's batch-norm statistics, or its classes.
#[derive(Debug)]
pub struct Calibrator<'a> {
    blocks: &'a [Block],
    shape: Shape,
    passes: Passes,
    /// The images' gradient, and the arenas of the passes.
    slopes: Groups,
    workspace: Workspace,
}

impl<'a> Calibrator<'a> {
    /// Prepares the teacher's blocks, with batch norms unfolded where there are any. To pull towards classes, the last must
    /// have output shape `[classes, 1, 1]`.
    pub fn new(blocks: &'a [Block]) -> Self {
        let shape = blocks.first().map_or(Shape::new(1, 1, 1), Block::input);
        let passes = Passes::new(blocks, 0, Norms::Observed);
        Self { blocks, shape, passes, slopes: Groups::zeros(shape, 0), workspace: Workspace::default() }
    }

    /// Default images per batch: 128, or the whole groups that fit in `bytes`, at least one group.
    pub fn default_batch(&self, bytes: usize) -> usize {
        let fitting = bytes / (self.passes.arena() * size_of::<f32>()).max(1) / LANES * LANES;
        Calibration::BATCH.min(fitting).max(LANES)
    }

    /// Heap bytes for the passes over a batch of so many images.
    pub fn batch_bytes(&self, images: usize) -> u64 {
        Workspace::bytes(usize::MAX, images, self.passes.arena())
    }

    /// What images for this teacher can match: the usual objective, for this number of steps.
    pub fn usual_pull(&self, steps: usize) -> Pull {
        let classifies = self.blocks.last().is_some_and(|block| block.output().elements() == block.output().channels);
        match (self.blocks.iter().any(Block::has_statistics), classifies) {
            (true, true) => Pull::calibration(steps),
            (true, false) => Pull { classes: 0.0, ..Pull::calibration(steps) },
            (false, true) => Pull::towards_classes(steps),
            (false, false) => Pull::none(steps),
        }
    }

    /// Number of classes.
    fn classes(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.output().elements())
    }

    /// Makes batch `index` of noise images; `progress` receives what is left of the aim before each step and at the end.
    pub fn batch(
        &mut self,
        index: usize,
        calibration: &Calibration,
        pixels: &Pixels,
        progress: impl FnMut(f32),
    ) -> NoiseImages {
        let Calibration { batch, start, seed, pull } = calibration;
        let mut stream = Stream::new(*seed, Purpose::Calibrate, index);
        let images = match start {
            Start::White => stream.images(*batch, self.shape),
            Start::Octaves => stream.octaves(*batch, self.shape),
            Start::Natural => stream.natural(*batch, self.shape),
        };
        let mut labels = Vec::new();
        if pull.classes > 0.0 {
            labels.resize(batch * self.classes(), 0.0);
            labels.chunks_exact_mut(self.classes()).for_each(|image| image[stream.below(image.len())] = 1.0);
        }
        self.pull(images, &labels, pull, pixels, progress)
    }

    /// Makes batch `index` of class impressions (Zero-Shot KD; Nayak et al. 2019): noise optimised until the teacher's
    /// class probabilities match a Dirichlet sample, whose concentrations are `concentration` times the similarity of
    /// the classes' weights in the last layer. Returns `None` if no layer of the last block is linear.
    pub fn impressions(
        &mut self,
        index: usize,
        calibration: &Calibration,
        concentration: f32,
        pixels: &Pixels,
        progress: impl FnMut(f32),
    ) -> Option<NoiseImages> {
        let Calibration { batch, seed, pull, .. } = calibration;
        let similarity = class_similarity(self.blocks.last()?)?;
        let mut stream = Stream::new(*seed, Purpose::Calibrate, index);
        let images = stream.images(*batch, self.shape);
        let mut probabilities = Vec::with_capacity(batch * similarity.len());
        for _ in 0..*batch {
            let class = &similarity[stream.below(similarity.len())];
            let drawn: Vec<f32> = class.iter().map(|&s| stream.gamma((concentration * s).max(LEAST_SHAPE))).collect();
            let total: f32 = drawn.iter().sum::<f32>().max(f32::MIN_POSITIVE);
            probabilities.extend(drawn.iter().map(|share| share / total));
        }
        Some(self.pull(images, &probabilities, pull, pixels, progress))
    }

    /// Optimises `images`, `[N, C, H, W]`, within the pixel range; the classes' targets are `[N, classes]`. Their values are
    /// normalised as natural images would be, so that start, rate and smoothness mean the same for every network, also
    /// for one that takes pixels from 0 to 255.
    fn pull(
        &mut self,
        mut images: Vec<f32>,
        probabilities: &[f32],
        pull: &Pull,
        pixels: &Pixels,
        mut progress: impl FnMut(f32),
    ) -> NoiseImages {
        let (shape, plane) = (self.shape, self.shape.height * self.shape.width);
        let natural = Pixels::natural(shape.channels);
        let [mut values, mut gradient] = [(); 2].map(|()| vec![0.0; images.len()]);
        let mut optimizer = Optimizer::new(Update::Adam, 0.0, [images.len()].into_iter());
        for step in 0..=pull.steps {
            let planes = images.chunks_exact(plane).zip(values.chunks_exact_mut(plane));
            for (index, (image, values)) in planes.enumerate() {
                let [factor, offset] = pixels.rescaling(&natural, index % shape.channels);
                image.iter().zip(values).for_each(|(image, value)| *value = factor * image + offset);
            }
            progress(self.gradient(&Batch::from_values(&values, shape), probabilities, pull, &mut gradient));
            if step == pull.steps {
                break;
            }
            for (index, gradient) in gradient.chunks_exact_mut(plane).enumerate() {
                let [factor, _] = pixels.rescaling(&natural, index % shape.channels);
                gradient.iter_mut().for_each(|slope| *slope *= factor);
            }
            add_roughness(&images, &mut gradient, shape, pull.smoothness);
            let rate = Schedule::Cosine.rate(pull.rate, step, pull.steps);
            optimizer.step([(&mut images, &gradient)].into_iter(), rate);
            for (index, plane) in images.chunks_exact_mut(plane).enumerate() {
                let [low, high] = [0, 255].map(|pixel| natural.value(index % shape.channels, pixel));
                plane.iter_mut().for_each(|value| *value = value.clamp(low, high));
            }
        }
        NoiseImages::new(&images, shape, &natural)
    }

    /// Computes the images' gradient of the statistics' mismatch and the cross-entropy; returns the one that is the aim.
    fn gradient(&mut self, images: &Batch, probabilities: &[f32], pull: &Pull, gradient: &mut [f32]) -> f32 {
        let &Pull { statistics, classes: weight, temperature, .. } = pull;
        let aim = pull.aim();
        if aim == Aim::Nothing {
            gradient.fill(0.0);
            return 0.0;
        }
        let Self { blocks, shape, passes, slopes, workspace } = self;
        let mut mismatch = 0.0;
        let observe = &mut |Stop { block, stage, node, moments }: Stop<'_>| {
            let (here, pulls) = pulls(block, node, moments, statistics);
            mismatch += here;
            stage.backward.pull(&stage.program, node, pulls.into_iter());
        };
        let classes = (weight > 0.0).then_some(Classes { probabilities, temperature, weight });
        let goals = Goals { outputs: &[], classes: classes.as_slice() };
        slopes.reset(*shape, images.len());
        let images = &images.on_cpu();
        passes.begin(images.len(), 0);
        passes.add(blocks, Feed { images, goals, waits: true, slopes: Some(slopes), observe }, workspace, &mut []);
        let elements = shape.elements();
        slopes.read(|image, offset, chunk| {
            gradient[image * elements + offset..][..chunk.len()].copy_from_slice(chunk);
        });
        if aim == Aim::Statistics { mismatch as f32 } else { passes.cross_entropy() / weight }
    }
}

/// Smallest gamma shape parameter that is used.
const LEAST_SHAPE: f32 = 1e-3;

/// For each class, the cosine similarity of its weights in the last linear layer to those of every class, scaled so
/// that the least similar is 0 and the class itself 1.
fn class_similarity(head: &Block) -> Option<Vec<Vec<f32>>> {
    let last = head.nodes().iter().rposition(|node| matches!(node.op, Op::Linear))?;
    let weight = head.weight(last, 0)?;
    let rows: Vec<&[f32]> = weight.data.chunks_exact(*weight.dims.get(1)? as usize).collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let cosine = |a: &[f32], b: &[f32]| dot(a, b) / libm::sqrtf((dot(a, a) * dot(b, b)).max(f32::MIN_POSITIVE));
    let of_class = |row: &&[f32]| {
        let cosines: Vec<f32> = rows.iter().map(|other| cosine(row, other)).collect();
        let least = cosines.iter().copied().fold(1.0, f32::min);
        cosines.iter().map(|cosine| (cosine - least) / (1.0 - least).max(f32::MIN_POSITIVE)).collect()
    };
    Some(rows.iter().map(of_class).collect())
}

/// The mismatch of one batch norm, and its gradient with respect to each input value: `slope · x + offset` per channel.
fn pulls(block: &Block, node: usize, moments: &[Moments], weight: f32) -> (f64, Vec<[f32; 2]>) {
    let Op::BatchNorm(BatchNorm { epsilon }) = block.nodes()[node].op else { return (0.0, Vec::new()) };
    let running = |slot: usize| block.weight(node, slot).map_or(&[][..], |weight| &weight.data);
    let (means, variances) = (running(2), running(3));
    let channels = moments.len() as f64;
    // ε keeps the scale above 0 if all variances are 0.
    let scale = variances.iter().map(|&v| f64::from(v)).sum::<f64>() / channels + f64::from(epsilon);
    let mut mismatch = 0.0;
    let pulls = moments.iter().zip(means.iter().zip(variances)).map(|(found, (&mean, &variance))| {
        let deviation = libm::sqrt(found.variance());
        let off = [found.mean - f64::from(mean), deviation - libm::sqrt(variance.into())];
        mismatch += (off[0] * off[0] + off[1] * off[1]) / (channels * scale);
        let share = 2.0 * f64::from(weight) / (channels * scale * found.count.max(1.0));
        let slope = share * off[1] / deviation.max(1e-6);
        [slope as f32, (share * off[0] - slope * found.mean) as f32]
    });
    let pulls = pulls.collect();
    (mismatch, pulls)
}

/// Adds the gradient of the mean squared difference of vertical and horizontal neighbours.
fn add_roughness(images: &[f32], gradient: &mut [f32], shape: Shape, weight: f32) {
    let Shape { height, width, .. } = shape;
    let planes = images.len() / (height * width).max(1);
    let scale = |pairs: usize| 2.0 * weight / (planes * pairs).max(1) as f32;
    let (down, across) = (scale((height - 1) * width), scale(height * (width - 1)));
    let both = images.chunks_exact(height * width).zip(gradient.chunks_exact_mut(height * width));
    for (image, gradient) in both {
        for at in 0..height * width {
            if at + width < height * width {
                let pull = down * (image[at + width] - image[at]);
                gradient[at + width] += pull;
                gradient[at] -= pull;
            }
            if (at + 1) % width > 0 {
                let pull = across * (image[at + 1] - image[at]);
                gradient[at + 1] += pull;
                gradient[at] -= pull;
            }
        }
    }
}
