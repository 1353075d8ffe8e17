//! Heap bytes of what every phase has: images, programs, the arenas they work in, and what feeds them.

use crate::{
    engine::{Portions, cpu::Program},
    kernels::plane::{LANES, Lanes},
    recipe::Noise,
    run::Settings,
};

pub fn values_bytes<T>(count: usize) -> u64 {
    count as u64 * size_of::<T>() as u64
}

/// `count` images of so many elements, in groups.
pub fn images_bytes(elements: usize, count: usize) -> u64 {
    count.div_ceil(LANES) as u64 * values_bytes::<Lanes>(elements)
}

/// A program, and an arena it works in.
pub fn program_bytes(program: &Program) -> [u64; 2] {
    [program.heap_bytes() as u64, arena_bytes(program.arena())]
}

pub fn arena_bytes(vectors: usize) -> u64 {
    values_bytes::<Lanes>(vectors)
}

/// The arenas of a pass over `images` images at a time.
pub fn arenas_bytes(portions: Portions, images: usize, arena: u64) -> u64 {
    portions.workers.min(images.div_ceil(LANES)) as u64 * arena
}

/// What draws inputs.
#[derive(Clone, Copy)]
pub struct Feed {
    noise: Noise,
    /// Whether the teacher takes other images than the student.
    pub paired: bool,
    /// Elements of an input.
    pub input: usize,
}

impl Feed {
    /// Of a neighbourhood whose inputs have so many elements.
    pub fn new(settings: &Settings, input: usize) -> Self {
        Self { noise: settings.noise, paired: settings.sequential, input }
    }

    /// Elements that lie beside an input, for the teacher.
    pub fn beside(&self) -> usize {
        if self.paired { self.input } else { 0 }
    }

    /// Numbers of a part's images, and either the cache's order or one image of fresh noise.
    pub fn bytes(&self, images: usize, order: usize) -> u64 {
        match self.noise {
            Noise::Propagated | Noise::Calibrated => values_bytes::<usize>(2 * images + order),
            Noise::Standard => values_bytes::<f32>(self.input),
        }
    }
}
