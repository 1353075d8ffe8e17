//! The activations at one boundary of the network: the inputs of the next neighbourhood.
//!
//! They are pushed forward one block at a time, batch by batch and in place, so the cache is the only thing whose size grows with
//! the number of images. It is held in half precision, because activations are needed to three digits: in memory, in a
//! [`Scratch`] storage, or on the device that computes.

use alloc::{boxed::Box, vec, vec::Vec};
use core::ops::Range;

use bytemuck::cast_slice_mut;
use half::{
    f16,
    slice::{HalfBitsSliceExt, HalfFloatSliceExt},
};

#[cfg(feature = "burn")]
use crate::engine::burn::BurnCache;
use crate::{
    block::Statistics,
    engine::{
        Batch, DeviceBlock,
        cpu::{BatchPass, Program, Transfer, Workspace, from_lanes, to_lanes},
    },
    kernels::{parallel::each, plane::LANES},
    storage::{Scratch, ScratchError},
    tensor::Shape,
};

/// Cached activations `[images, C, H, W]` at one boundary: what the teacher makes there, and in a sequential run after them what the students before
/// make of the same images.
#[derive(Debug)]
pub struct Cache {
    shape: Shape,
    size: CacheSize,
    store: Store,
    /// Images on their way from or to a storage, as bits of half precision.
    staging: Vec<u16>,
}

/// How many images a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSize {
    /// Images at the network's input.
    pub images: usize,
    /// Of them, what go through a block together: they share their current statistics.
    pub batch: usize,
    /// Whose activations are kept.
    pub sides: Sides,
}

/// Whose activations a cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sides {
    /// The teacher's.
    Teacher,
    /// The teacher's and the students'.
    Both,
}

/// One of a cache's sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the teacher makes.
    Teacher,
    /// What the students make, where that is kept, else the teacher.
    Student,
}

/// Where activations lie.
#[derive(Debug)]
pub enum Store {
    /// In memory; room reserved for the largest boundary spares a move.
    Memory(Vec<f16>),
    /// In a storage, a slice at a time in memory.
    Storage(Box<dyn Scratch>),
    /// On a device, from when a block of that device first reads them.
    #[cfg(feature = "burn")]
    #[doc(hidden)]
    Burn(Box<BurnCache>),
}

impl Store {
    /// In memory.
    pub const MEMORY: Self = Self::Memory(Vec::new());
}

/// The blocks that a cache passes: both take and give the same shapes.
#[derive(Debug)]
pub struct Passed {
    /// For the teacher's side.
    pub teacher: DeviceBlock,
    /// For the students' side, where there is one.
    pub student: Option<DeviceBlock>,
}

impl CacheSize {
    /// Images of both sides.
    pub fn total(&self) -> usize {
        self.images * if self.sides == Sides::Both { 2 } else { 1 }
    }
}

impl Cache {
    /// Room for images of `shape`.
    pub fn new(store: Store, shape: Shape, size: CacheSize) -> Self {
        Self { shape, size, store, staging: Vec::new() }
    }

    /// Makes the students' side, if there is one, the teacher's.
    ///
    /// # Errors
    /// The storage's own.
    pub fn copy_to_students(&mut self) -> Result<(), ScratchError> {
        let images = self.images(Side::Student);
        let mut buffer = vec![0.0; self.shape.elements()];
        (0..images.start.min(images.len())).try_for_each(|image| {
            self.get(image, &mut buffer)?;
            self.put(images.start + image, &buffer)
        })
    }

    /// Replaces one image, `[C, H, W]`, of the teacher's side.
    ///
    /// # Errors
    /// The storage's own.
    pub fn put(&mut self, image: usize, values: &[f32]) -> Result<(), ScratchError> {
        let halves = |halves: &mut [f16]| to_f16(values, halves);
        self.store.write(image..image + 1, self.shape.elements(), &mut self.staging, halves)
    }

    /// One image, `[C, H, W]`, of the teacher's side.
    ///
    /// # Errors
    /// The storage's own.
    pub fn get(&mut self, image: usize, values: &mut [f32]) -> Result<(), ScratchError> {
        let halves = self.store.read(image..image + 1, self.shape.elements(), &mut self.staging)?;
        halves.convert_to_f32_slice(values);
        Ok(())
    }

    /// Shape of one image.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Images of a side.
    pub fn len(&self) -> usize {
        self.size.images
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the students have a side of their own.
    pub fn has_students(&self) -> bool {
        self.size.sides == Sides::Both
    }

    /// Where the images of a side lie.
    fn images(&self, side: Side) -> Range<usize> {
        let first = if side == Side::Student && self.has_students() { self.len() } else { 0 };
        first..first + self.len()
    }

    /// Pushes every image through the block of its side, in at most `arenas` arenas of a group of images each.
    ///
    /// # Errors
    /// The storage's own; the activations are lost then.
    pub fn advance(&mut self, passed: Passed, statistics: Statistics, arenas: usize) -> Result<(), ScratchError> {
        let Passed { teacher, student } = passed;
        let output = teacher.output();
        // An image that grows may only lie where nothing is left to read.
        let backwards = output.elements() > self.shape.elements();
        let sides = [Some((Side::Teacher, teacher)), student.map(|student| (Side::Student, student))];
        let mut sides: Vec<(Side, DeviceBlock)> = sides.into_iter().flatten().collect();
        if backwards {
            sides.reverse();
        }
        #[cfg(feature = "burn")]
        if let Some(first) = sides[0].1.burn_block() {
            let passes: Option<Vec<_>> =
                sides.iter().map(|(side, block)| Some((self.images(*side), block.burn_block()?))).collect();
            let (total, device) = (self.size.total(), first.device());
            let cache = on_device(&mut self.store, self.shape, total, &device, &mut self.staging)?;
            cache.advance(&passes.unwrap_or_default(), self.size.batch, statistics);
            self.shape = output;
            return Ok(());
        }
        for (side, mut block) in sides {
            if let Some(program) = block.program_mut() {
                self.pass(side, program, BatchPass { count: 0, backwards, statistics }, arenas)?;
            }
        }
        // As many images at a time are not wanted again before the next block.
        self.staging = Vec::new();
        self.shape = output;
        Ok(())
    }

    fn pass(&mut self, side: Side, program: &mut Program, pass: BatchPass, arenas: usize) -> Result<(), ScratchError> {
        let range = self.images(side);
        let Self { shape, size: CacheSize { batch, .. }, store, staging } = self;
        let (taken, given) = (shape.elements(), program.value().elements());
        let mut workspace = Workspace::default();
        let batches = range.len().div_ceil(*batch);
        for index in 0..batches {
            let index = if pass.backwards { batches - 1 - index } else { index };
            let first = range.start + index * *batch;
            let here = (range.end - first).min(*batch);
            let images = |groups: &Range<usize>| first + groups.start * LANES..first + here.min(groups.end * LANES);
            let arenas = workspace.arenas(arenas.min(here.div_ceil(LANES)), program.arena());
            let pass = BatchPass { count: here, ..pass };
            pass.run(program, arenas, |program, arenas, transfer| match transfer {
                Transfer::Load(groups) => {
                    let halves = store.read(images(&groups), taken, staging)?;
                    each(arenas.iter_mut().zip(halves.chunks(LANES * taken)), |(arena, images)| {
                        let (values, plane) = program.input(arena);
                        to_lanes(values, plane, images.len() / taken, |lane, offset, chunk| {
                            images[lane * taken + offset..][..chunk.len()].convert_to_f32_slice(chunk);
                        });
                    });
                    Ok::<(), ScratchError>(())
                }
                Transfer::Store(groups) => store.write(images(&groups), given, staging, |halves| {
                    each(arenas.iter().zip(halves.chunks_mut(LANES * given)), |(arena, images)| {
                        let (values, plane) = program.output(arena);
                        from_lanes(values, plane, images.len() / given, |lane, offset, chunk| {
                            to_f16(chunk, &mut images[lane * given + offset..][..chunk.len()]);
                        });
                    });
                }),
            })?;
        }
        Ok(())
    }

    /// The images at `indices` of a side, in that order.
    ///
    /// # Errors
    /// The storage's own.
    pub fn gather(&mut self, side: Side, indices: &[usize], batch: &mut Batch) -> Result<(), ScratchError> {
        let (elements, first) = (self.shape.elements(), self.images(side).start);
        #[cfg(feature = "burn")]
        if let Some(batch) = batch.burn_mut() {
            let cache = on_device(&mut self.store, self.shape, self.size.total(), &batch.device(), &mut self.staging)?;
            cache.gather(indices.iter().map(|index| first + index), batch);
            return Ok(());
        }
        let Self { shape, store, staging, .. } = self;
        match store {
            Store::Memory(halves) => {
                batch.fill(*shape, indices.len(), |image, offset, chunk| {
                    halves[(first + indices[image]) * elements + offset..][..chunk.len()].convert_to_f32_slice(chunk);
                });
                Ok(())
            }
            store => batch.fill_in_order(*shape, indices.len(), |position, offset, chunk| {
                let image = first + indices[position];
                if offset == 0 {
                    store.read(image..image + 1, elements, staging)?;
                }
                staging[offset..][..chunk.len()].reinterpret_cast::<f16>().convert_to_f32_slice(chunk);
                Ok(())
            }),
        }
    }

    /// Heap bytes of images on their way from or to a storage, `count` at a time, beside a cache that lies there.
    pub(crate) fn staging_bytes(count: usize, elements: usize) -> u64 {
        count as u64 * elements as u64 * size_of::<f16>() as u64
    }
}

/// The cache on a device, where it moves if it is not there.
#[cfg(feature = "burn")]
fn on_device<'a>(
    store: &'a mut Store,
    shape: Shape,
    images: usize,
    device: &burn::tensor::Device,
    staging: &mut Vec<u16>,
) -> Result<&'a mut BurnCache, ScratchError> {
    if !matches!(store, Store::Burn(_)) {
        let values = store.read(0..images, shape.elements(), staging)?.to_f32_vec();
        *store = Store::Burn(Box::new(BurnCache::new(values, shape, device)));
    }
    match store {
        Store::Burn(cache) => Ok(cache),
        _ => unreachable!("it was just moved there"),
    }
}

impl Store {
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
            #[cfg(feature = "burn")]
            Self::Burn(_) => panic!("{ON_DEVICE}"),
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
            #[cfg(feature = "burn")]
            Self::Burn(_) => panic!("{ON_DEVICE}"),
        }
    }
}

/// What the CPU that reaches for activations of another device ends in.
#[cfg(feature = "burn")]
const ON_DEVICE: &str = "activations on a device are read there";

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
