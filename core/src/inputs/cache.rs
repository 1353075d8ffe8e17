//! The activations at one boundary of the network: the inputs of the next neighbourhood.
//!
//! They are propagated one block at a time, batch by batch and in place, so only the cache grows with the number of
//! images. Half precision suffices, as three digits do. The cache is in memory, in a [`Scratch`] storage or on the
//! device.

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

/// Cached activations `[images, C, H, W]` at one boundary: the teacher's, then in a sequential run also the students'.
#[derive(Debug)]
pub struct Cache {
    shape: Shape,
    size: CacheSize,
    store: Store,
    /// Transfer buffer of half-precision bits for images in a storage.
    staging: Vec<u16>,
}

/// The size of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSize {
    /// Images at the network's input.
    pub images: usize,
    /// Images per batch; a batch shares its current statistics.
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
    /// The teacher's activations.
    Teacher,
    /// The students' activations; the teacher's if the cache has no students' side.
    Student,
}

/// Where activations are stored.
#[derive(Debug)]
pub enum Store {
    /// In memory; reserve capacity for the largest boundary to avoid a reallocation.
    Memory(Vec<f16>),
    /// In a storage, with one slice at a time in memory.
    Storage(Box<dyn Scratch>),
    /// On a Burn device, from the first use by a block on that device.
    #[cfg(feature = "burn")]
    #[doc(hidden)]
    Burn(Box<BurnCache>),
}

impl Store {
    /// An empty store in memory.
    pub const MEMORY: Self = Self::Memory(Vec::new());
}

/// The blocks through which a cache is propagated: both have the same input and output shapes.
#[derive(Debug)]
pub struct SideBlocks {
    /// For the teacher's side.
    pub teacher: DeviceBlock,
    /// For the students' side, if the cache has one.
    pub student: Option<DeviceBlock>,
}

impl CacheSize {
    /// Total images on all sides.
    pub fn total(&self) -> usize {
        self.images * if self.sides == Sides::Both { 2 } else { 1 }
    }
}

impl Cache {
    /// An empty cache for images of `shape`.
    pub fn new(store: Store, shape: Shape, size: CacheSize) -> Self {
        Self { shape, size, store, staging: Vec::new() }
    }

    /// Copies the teacher's side to the students' side, if the cache has one.
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

    /// Reads one image, `[C, H, W]`, of the teacher's side.
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

    /// Images per side.
    pub fn len(&self) -> usize {
        self.size.images
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the cache has a students' side.
    pub fn has_students(&self) -> bool {
        self.size.sides == Sides::Both
    }

    /// The range of a side's images in the store.
    fn images(&self, side: Side) -> Range<usize> {
        let first = if side == Side::Student && self.has_students() { self.len() } else { 0 };
        first..first + self.len()
    }

    /// Replaces every image by its side's block's output, with at most `arenas` arenas of one group of images each.
    ///
    /// # Errors
    /// The storage's own; the cache is then unusable.
    pub fn advance(&mut self, passed: SideBlocks, statistics: Statistics, arenas: usize) -> Result<(), ScratchError> {
        let SideBlocks { teacher, student } = passed;
        let output = teacher.output();
        // An output larger than its input must overwrite only what was already read.
        let backwards = output.elements() > self.shape.elements();
        let sides = [Some((Side::Teacher, teacher)), student.map(|student| (Side::Student, student))];
        let mut sides: Vec<(Side, DeviceBlock)> = sides.into_iter().flatten().collect();
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
        if backwards {
            sides.reverse();
        }
        for (side, mut block) in sides {
            if let Some(program) = block.program_mut() {
                self.pass(side, program, BatchPass { count: 0, backwards, statistics }, arenas)?;
            }
        }
        // Free the buffer: no such large transfer follows before the next block.
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

    /// Copies the images at `indices` of a side into `batch`, in that order.
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

    /// Heap bytes of the transfer buffer for `count` images at a time, for a cache in a storage.
    pub(crate) fn staging_bytes(count: usize, elements: usize) -> u64 {
        count as u64 * elements as u64 * size_of::<f16>() as u64
    }
}

/// Returns the cache on the device, moving it there first if necessary.
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
    /// Reads images of `elements` values each.
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

    /// Overwrites images of `elements` values each with the output of `fill`.
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

/// The panic message for a CPU access to activations on another device.
#[cfg(feature = "burn")]
const ON_DEVICE: &str = "activations on a device are read there";

/// The transfer buffer, resized to `len` values.
fn staged(staging: &mut Vec<u16>, len: usize) -> &mut [u16] {
    if staging.capacity() < len {
        // Allocate anew: resizing would hold old and new at once.
        *staging = Vec::new();
    }
    staging.resize(len, 0);
    staging
}

/// The largest finite value of half precision.
const LARGEST: f32 = 65504.0;

/// Converts to half precision, saturating at its largest finite value.
fn to_f16(values: &[f32], halves: &mut [f16]) {
    let mut buffer = [0.0; 64];
    for (values, halves) in values.chunks(buffer.len()).zip(halves.chunks_mut(64)) {
        let buffer = &mut buffer[..values.len()];
        let limited = values.iter().map(|v| v.clamp(-LARGEST, LARGEST));
        buffer.iter_mut().zip(limited).for_each(|(kept, value)| *kept = value);
        halves.convert_from_f32_slice(buffer);
    }
}
