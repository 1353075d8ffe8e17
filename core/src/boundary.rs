//! The activations at one boundary of the teacher: the inputs of the next neighbourhood.
//!
//! Propagated noise is pushed forward one block at a time, batch by batch and in place, so the
//! cache is the only thing whose size grows with the number of images. It is held in half
//! precision: activations are needed to three digits, and the cache is most of a run's memory.

use alloc::{vec, vec::Vec};

use half::{f16, slice::HalfFloatSliceExt};

use crate::{
    block::Shape,
    cpu::{self, Program, Workspace},
    device::Statistics,
    forward::DeviceBlock,
    images::{Images, gather, scatter},
    kernels::{parallel::each, plane::LANES},
    noise::Stream,
};

/// Cached activations `[images, C, H, W]` at one boundary, in batches that went through the
/// teacher together (a batch shares its current statistics).
#[derive(Debug)]
pub struct Boundary {
    shape: Shape,
    batch: usize,
    batches: Vec<Vec<f16>>,
}

impl Boundary {
    /// White noise at the network's input, `count` images in batches of `batch`.
    pub fn noise(stream: &mut Stream, shape: Shape, count: usize, batch: usize) -> Self {
        let batches = (0..count).step_by(batch).map(|start| {
            let values = stream.images(batch.min(count - start), shape);
            let mut halves = vec![f16::ZERO; values.len()];
            to_f16(&values, &mut halves);
            halves
        });
        Self { shape, batch, batches: batches.collect() }
    }

    /// Shape of one image.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Cached images.
    pub fn len(&self) -> usize {
        self.batches.iter().map(Vec::len).sum::<usize>() / self.shape.elements()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Pushes every image through the teacher's block with current batch statistics.
    pub fn advance(&mut self, block: &DeviceBlock<'_>) {
        match block.program() {
            Some(program) => self.advance_on_cpu(&mut program.clone(), block.block().output()),
            None => {
                for batch in &mut self.batches {
                    let output =
                        block.forward(&Images::from_values(&batch.to_f32_vec(), self.shape), Statistics::Current);
                    *batch = vec![f16::ZERO; output.len() * output.shape().elements()];
                    to_f16(&output.to_values(), batch);
                }
            }
        }
        self.shape = block.block().output();
    }

    /// Straight from half precision into the arenas and back: no copy of a batch in between.
    fn advance_on_cpu(&mut self, program: &mut Program, output: Shape) {
        let (taken, given) = (self.shape.elements(), output.elements());
        let mut workspace = Workspace::default();
        for batch in &mut self.batches {
            let count = batch.len() / taken;
            let arenas = workspace.arenas(count.div_ceil(LANES), program.arena());
            each(arenas.iter_mut().zip(batch.chunks(LANES * taken)), |(arena, images)| {
                let (values, plane) = program.input(arena);
                scatter(values, plane, images.len() / taken, |lane, offset, chunk| {
                    images[lane * taken + offset..][..chunk.len()].convert_to_f32_slice(chunk);
                });
            });
            cpu::forward_with_current_statistics(program, arenas, count);
            if given != taken {
                *batch = vec![f16::ZERO; count * given];
            }
            each(arenas.iter().zip(batch.chunks_mut(LANES * given)), |(arena, images)| {
                let (values, plane) = program.output(arena);
                gather(values, plane, images.len() / given, |lane, offset, chunk| {
                    to_f16(chunk, &mut images[lane * given + offset..][..chunk.len()]);
                });
            });
        }
    }

    /// The images at `indices`, in that order.
    pub fn gather(&self, indices: &[usize], images: &mut Images) {
        let elements = self.shape.elements();
        images.reset(self.shape, indices.len());
        images.fill(|image, offset, chunk| {
            let index = indices[image];
            let start = index % self.batch * elements + offset;
            self.batches[index / self.batch][start..start + chunk.len()].convert_to_f32_slice(chunk);
        });
    }
}

/// The largest finite value of half precision.
const LARGEST: f32 = 65504.0;

/// Half precision, saturating at its largest finite value.
fn to_f16(values: &[f32], halves: &mut [f16]) {
    let mut buffer = [0.0; 64];
    for (values, halves) in values.chunks(buffer.len()).zip(halves.chunks_mut(64)) {
        let buffer = &mut buffer[..values.len()];
        let limited = values.iter().map(|v| v.clamp(-LARGEST, LARGEST));
        buffer.iter_mut().zip(limited).for_each(|(kept, value)| *kept = value);
        halves.convert_from_f32_slice(buffer);
    }
}
