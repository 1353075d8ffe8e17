//! The heap: a fixed range of the board's memory, counted.
//!
//! Beside the core's counting allocator the only `unsafe` code.

#![allow(unsafe_code)]

use distill_core::CountingAllocator;
use embedded_alloc::LlffHeap;

use crate::board;

/// Bytes of it.
pub const SIZE: usize = board::HEAP.end - board::HEAP.start;

#[global_allocator]
static HEAP: CountingAllocator<LlffHeap> = CountingAllocator::new(LlffHeap::empty());

/// Gives the allocator its memory. To be called once, before anything allocates.
pub fn start() {
    // SAFETY: the range is memory of this board that neither the linker nor anybody else uses; `main` calls this once.
    unsafe { HEAP.inner().init(board::HEAP.start, SIZE) }
}

/// The most bytes there ever were in use.
pub fn peak_bytes() -> usize {
    HEAP.peak_bytes()
}
