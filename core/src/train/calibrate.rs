//! Noise images that look like data to the teacher: each batch's statistics at every batch norm are moved to the running ones
//! by gradient on the pixels ("calibrated noise"; Haroush et al. 2019, ZeroQ 2020, DeepInversion 2020).
//!
//! The loss of a batch is, over the batch norms `l` with `C` channels,
//! `Σ_l mean_c[(μ − μ̂)² + (σ − σ̂)²] / mean_c[σ̂²]`, where `μ, σ` are the batch's and `μ̂, σ̂` the running ones, and small terms
//! for smoothness and for classes.

use alloc::{vec, vec::Vec};

use crate::{
    block::{
        Block,
        op::{BatchNorm, Op},
    },
    engine::{
        Batch, Classes, Goals, Optimizer, Workspace,
        cpu::{Groups, Norms, Pass, Passes, Stop},
    },
    kernels::{norm::Moments, plane::LANES},
    noise::{NoiseImages, Pixels, Purpose, Stream},
    recipe::{Calibration, Pull, Schedule, Start, Update},
    tensor::Shape,
};

/// A teacher that tells how images should change.
#[derive(Debug)]
pub struct Calibrator<'a> {
    blocks: &'a [Block],
    shape: Shape,
    passes: Passes,
    /// The images' gradient, and what the passes work in.
    slopes: Groups,
    workspace: Workspace,
}

impl<'a> Calibrator<'a> {
    /// For the teacher's blocks, whose batch norms are not folded; the last gives `[classes, 1, 1]`.
    pub fn new(blocks: &'a [Block]) -> Self {
        let shape = blocks.first().map_or(Shape::new(1, 1, 1), Block::input);
        let passes = Passes::new(blocks, 0, Norms::Observed);
        Self { blocks, shape, passes, slopes: Groups::zeros(shape, 0), workspace: Workspace::default() }
    }

    /// Images a batch where no number is asked for: 128, or whole groups of them in as many bytes, at least one.
    pub fn default_batch(&self, bytes: usize) -> usize {
        let fitting = bytes / (self.passes.arena() * size_of::<f32>()).max(1) / LANES * LANES;
        Calibration::BATCH.min(fitting).max(LANES)
    }

    /// Classes that the teacher tells apart.
    fn classes(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.output().elements())
    }

    /// Batch `index` of noise images, matched to the teacher's statistics; `progress` is told the mismatch before each step and in the end.
    pub fn batch(
        &mut self,
        index: usize,
        calibration: &Calibration,
        pixels: &Pixels,
        progress: impl FnMut(f32),
    ) -> NoiseImages {
        let Calibration { batch, start, seed, pull } = calibration;
        let mut stream = Stream::new(*seed, Purpose::Calibrate, index);
        let mut images = match start {
            Start::White => stream.images(*batch, self.shape),
            Start::Octaves => stream.octaves(*batch, self.shape),
        };
        let mut labels = vec![0.0; batch * self.classes()];
        labels.chunks_exact_mut(self.classes()).for_each(|image| image[stream.below(image.len())] = 1.0);
        self.pull(&mut images, &labels, pull, pixels, progress);
        NoiseImages::new(&images, self.shape, pixels)
    }

    /// Batch `index` of class impressions (Zero-Shot KD; Nayak et al. 2019): noise moved until the teacher says of it what a
    /// Dirichlet distribution drew, whose concentrations are `concentration` times the similarity of the last layer's weights of the classes.
    /// None if the last layer is not linear.
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
        let mut images = stream.images(*batch, self.shape);
        let mut probabilities = Vec::with_capacity(batch * similarity.len());
        for _ in 0..*batch {
            let class = &similarity[stream.below(similarity.len())];
            let drawn: Vec<f32> = class.iter().map(|&s| stream.gamma((concentration * s).max(LEAST_SHAPE))).collect();
            let total: f32 = drawn.iter().sum::<f32>().max(f32::MIN_POSITIVE);
            probabilities.extend(drawn.iter().map(|share| share / total));
        }
        self.pull(&mut images, &probabilities, pull, pixels, progress);
        Some(NoiseImages::new(&images, self.shape, pixels))
    }

    /// Moves `images`, `[N, C, H, W]`, inside the range of pixels; `probabilities`, `[N, classes]`, are what the teacher should
    /// say of them.
    fn pull(
        &mut self,
        images: &mut Vec<f32>,
        probabilities: &[f32],
        pull: &Pull,
        pixels: &Pixels,
        mut progress: impl FnMut(f32),
    ) {
        let (shape, plane) = (self.shape, self.shape.height * self.shape.width);
        let mut gradient = vec![0.0; images.len()];
        let mut optimizer = Optimizer::new(Update::Adam, 0.0, [images.len()].into_iter());
        for step in 0..=pull.steps {
            progress(self.gradient(&Batch::from_values(images, shape), probabilities, pull, &mut gradient));
            if step == pull.steps {
                break;
            }
            add_roughness(images, &mut gradient, shape, pull.smoothness);
            let rate = Schedule::Cosine.rate(pull.rate, step, pull.steps);
            optimizer.step([(&mut *images, &gradient)].into_iter(), rate);
            for (index, plane) in images.chunks_exact_mut(plane).enumerate() {
                let [low, high] = [0, 255].map(|pixel| pixels.value(index % shape.channels, pixel));
                plane.iter_mut().for_each(|value| *value = value.clamp(low, high));
            }
        }
    }

    /// The gradient by the images of the statistics' mismatch and of the cross-entropy; returns the mismatch.
    fn gradient(&mut self, images: &Batch, probabilities: &[f32], pull: &Pull, gradient: &mut [f32]) -> f32 {
        let &Pull { statistics, classes: weight, temperature, .. } = pull;
        let Self { blocks, shape, passes, slopes, workspace } = self;
        let mut mismatch = 0.0;
        let observe = &mut |Stop { block, stage, node, moments }: Stop<'_>| {
            let (here, pulls) = pulls(block, node, moments, statistics);
            mismatch += here;
            stage.backward.pull(&stage.program, node, pulls.into_iter());
        };
        let goals = Goals { outputs: &[], classes: Some(Classes { probabilities, temperature, weight }) };
        slopes.reset(*shape, images.len());
        let images = &images.on_cpu();
        passes.begin(images.len());
        passes.add(blocks, Pass { images, goals, waits: true, slopes: Some(slopes), observe }, workspace, &mut []);
        let elements = shape.elements();
        slopes.read(|image, offset, chunk| {
            gradient[image * elements + offset..][..chunk.len()].copy_from_slice(chunk);
        });
        mismatch as f32
    }
}

/// Smallest shape of a gamma distribution that is drawn from.
const LEAST_SHAPE: f32 = 1e-3;

/// For each class how similar the others' weights are to its own in the last linear layer: their cosine, scaled so that the least
/// of a class is 0 and its own is 1.
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

/// Mismatch of one batch norm, and its gradient by each value it reads: `slope · x + offset` of each channel.
fn pulls(block: &Block, node: usize, moments: &[Moments], weight: f32) -> (f64, Vec<[f32; 2]>) {
    let Op::BatchNorm(BatchNorm { epsilon }) = block.nodes()[node].op else { return (0.0, Vec::new()) };
    let running = |slot: usize| block.weight(node, slot).map_or(&[][..], |weight| &weight.data);
    let (means, variances) = (running(2), running(3));
    let channels = moments.len() as f64;
    // A statistic that is zero everywhere has no scale of its own.
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

/// Adds the gradient of the mean squared difference of neighbouring pixels, down and across.
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
