//! The activations at one boundary of the teacher: the inputs of the next neighbourhood.
//!
//! Propagated noise is pushed forward one block at a time, batch by batch and in place, so the
//! cache is the only thing whose size grows with the number of images. It is held in half
//! precision, because activations are needed to three digits, in memory or in a [`Scratch`] storage.

use alloc::{boxed::Box, vec, vec::Vec};
use core::ops::Range;

use bytemuck::cast_slice_mut;
use half::{
    f16,
    slice::{HalfBitsSliceExt, HalfFloatSliceExt},
};

use crate::{
    block::Statistics,
    engine::{
        DeviceBlock, Images,
        batch::{gather, scatter},
        cpu::{BatchPass, Transfer, Workspace},
    },
    kernels::{parallel::each, plane::LANES},
    noise::Stream,
    storage::{Scratch, ScratchError},
    tensor::Shape,
};

/// Cached activations `[images, C, H, W]` at one boundary, in batches that go through the
/// teacher together (a batch shares its current statistics).
#[derive(Debug)]
pub struct Boundary {
    shape: Shape,
    count: usize,
    batch: usize,
    cache: Cache,
    /// Images on their way from or to a storage, as bits of half precision.
    staging: Vec<u16>,
}

/// Where the activations lie.
#[derive(Debug)]
pub enum Cache {
    /// In memory; room reserved for the largest boundary spares a move.
    Memory(Vec<f16>),
    /// In a storage, a slice at a time in memory.
    Storage(Box<dyn Scratch>),
}

impl Cache {
    /// In memory.
    pub const MEMORY: Self = Self::Memory(Vec::new());
}

impl Boundary {
    /// Room for `count` images that go through the teacher in batches of `batch`.
    pub fn new(cache: Cache, shape: Shape, [count, batch]: [usize; 2]) -> Self {
        Self { shape, count, batch, cache, staging: Vec::new() }
    }

    /// Puts white noise into the first `images` places.
    ///
    /// # Errors
    /// The storage's own.
    pub fn put_noise(&mut self, images: usize, stream: &mut Stream) -> Result<(), ScratchError> {
        let mut buffer = vec![0.0; self.shape.elements()];
        (0..images).try_for_each(|image| {
            stream.fill(&mut buffer);
            self.put(image, &buffer)
        })
    }

    /// Puts the first `images` once more behind themselves.
    ///
    /// # Errors
    /// The storage's own.
    pub(crate) fn repeat(&mut self, images: usize) -> Result<(), ScratchError> {
        let mut buffer = vec![0.0; self.shape.elements()];
        (0..images).try_for_each(|image| {
            self.get(image, &mut buffer)?;
            self.put(images + image, &buffer)
        })
    }

    /// Replaces one image, `[C, H, W]`.
    ///
    /// # Errors
    /// The storage's own.
    pub(crate) fn put(&mut self, image: usize, values: &[f32]) -> Result<(), ScratchError> {
        let halves = |halves: &mut [f16]| to_f16(values, halves);
        self.cache.write(image..image + 1, self.shape.elements(), &mut self.staging, halves)
    }

    /// One image, `[C, H, W]`.
    ///
    /// # Errors
    /// The storage's own.
    pub(crate) fn get(&mut self, image: usize, values: &mut [f32]) -> Result<(), ScratchError> {
        let halves = self.cache.read(image..image + 1, self.shape.elements(), &mut self.staging)?;
        halves.convert_to_f32_slice(values);
        Ok(())
    }

    /// Shape of one image.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Cached images.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Pushes the images of each range through its block, in at most `arenas` arenas of a group of images each. The ranges follow
    /// each other and hold every image; the blocks take and give the same shapes.
    ///
    /// # Errors
    /// The storage's own; the activations are lost then.
    pub fn advance(
        &mut self,
        mut passes: Vec<(Range<usize>, DeviceBlock)>,
        statistics: Statistics,
        arenas: usize,
    ) -> Result<(), ScratchError> {
        let Some(output) = passes.first().map(|(_, block)| block.output()) else { return Ok(()) };
        // An image that grows may only lie where nothing is left to read.
        let backwards = output.elements() > self.shape.elements();
        if backwards {
            passes.reverse();
        }
        for (range, block) in passes {
            self.pass(range, block, BatchPass { count: 0, backwards, statistics }, arenas)?;
        }
        // As many images at a time are not wanted again before the next block.
        self.staging = Vec::new();
        self.shape = output;
        Ok(())
    }

    fn pass(
        &mut self,
        range: Range<usize>,
        mut block: DeviceBlock,
        pass: BatchPass,
        arenas: usize,
    ) -> Result<(), ScratchError> {
        let Self { shape, batch, cache, staging, .. } = self;
        let (taken, given) = (shape.elements(), block.output().elements());
        let mut workspace = Workspace::default();
        let batches = range.len().div_ceil(*batch);
        for index in 0..batches {
            let index = if pass.backwards { batches - 1 - index } else { index };
            let first = range.start + index * *batch;
            let here = (range.end - first).min(*batch);
            let images = |groups: &Range<usize>| first + groups.start * LANES..first + here.min(groups.end * LANES);
            let Some(program) = block.program_mut() else {
                let values = cache.read(first..first + here, taken, staging)?.to_f32_vec();
                let output = block.forward(&Images::from_values(&values, *shape), pass.statistics).to_values();
                cache.write(first..first + here, given, staging, |halves| to_f16(&output, halves))?;
                continue;
            };
            let arenas = workspace.arenas(arenas.min(here.div_ceil(LANES)), program.arena());
            let pass = BatchPass { count: here, ..pass };
            pass.run(program, arenas, |program, arenas, transfer| match transfer {
                Transfer::Load(groups) => {
                    let halves = cache.read(images(&groups), taken, staging)?;
                    each(arenas.iter_mut().zip(halves.chunks(LANES * taken)), |(arena, images)| {
                        let (values, plane) = program.input(arena);
                        scatter(values, plane, images.len() / taken, |lane, offset, chunk| {
                            images[lane * taken + offset..][..chunk.len()].convert_to_f32_slice(chunk);
                        });
                    });
                    Ok::<(), ScratchError>(())
                }
                Transfer::Store(groups) => cache.write(images(&groups), given, staging, |halves| {
                    each(arenas.iter().zip(halves.chunks_mut(LANES * given)), |(arena, images)| {
                        let (values, plane) = program.output(arena);
                        gather(values, plane, images.len() / given, |lane, offset, chunk| {
                            to_f16(chunk, &mut images[lane * given + offset..][..chunk.len()]);
                        });
                    });
                }),
            })?;
        }
        Ok(())
    }

    /// The images at `indices`, counted from image `first`, in that order.
    ///
    /// # Errors
    /// The storage's own.
    pub fn gather(&mut self, first: usize, indices: &[usize], images: &mut Images) -> Result<(), ScratchError> {
        let elements = self.shape.elements();
        images.reset(self.shape, indices.len());
        match &mut self.cache {
            Cache::Memory(halves) => images.fill(|image, offset, chunk| {
                halves[(first + indices[image]) * elements + offset..][..chunk.len()].convert_to_f32_slice(chunk);
            }),
            cache => {
                for (position, &index) in indices.iter().enumerate() {
                    let index = first + index;
                    let halves = cache.read(index..index + 1, elements, &mut self.staging)?;
                    images.fill_image(position, |offset, chunk| {
                        halves[offset..][..chunk.len()].convert_to_f32_slice(chunk);
                    });
                }
            }
        }
        Ok(())
    }
}

impl Cache {
    /// Images of `elements` values each.
    fn read<'a>(
        &'a mut self,
        images: Range<usize>,
        elements: usize,
        staging: &'a mut Vec<u16>,
    ) -> Result<&'a [f16], ScratchError> {
        match self {
            Self::Memory(halves) => Ok(&halves[images.start * elements..images.end * elements]),
            Self::Storage(storage) => {
                let halves = staged(staging, images.len() * elements);
                storage.read(2 * images.start as u64 * elements as u64, cast_slice_mut(halves))?;
                Ok(halves.reinterpret_cast())
            }
        }
    }

    /// Puts what `fill` makes in the place of images of `elements` values each.
    fn write(
        &mut self,
        images: Range<usize>,
        elements: usize,
        staging: &mut Vec<u16>,
        fill: impl FnOnce(&mut [f16]),
    ) -> Result<(), ScratchError> {
        match self {
            Self::Memory(halves) => {
                let end = images.end * elements;
                if halves.len() < end {
                    halves.resize(end, f16::ZERO);
                }
                fill(&mut halves[images.start * elements..end]);
                Ok(())
            }
            Self::Storage(storage) => {
                let halves = staged(staging, images.len() * elements);
                fill(halves.reinterpret_cast_mut());
                storage.write(2 * images.start as u64 * elements as u64, cast_slice_mut(halves))
            }
        }
    }
}

/// Room for `len` values on their way.
fn staged(staging: &mut Vec<u16>, len: usize) -> &mut [u16] {
    if staging.capacity() < len {
        // A fresh one, because resizing would hold old and new at once.
        *staging = Vec::new();
    }
    staging.resize(len, 0);
    staging
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
