//! The heap: a fixed range of the board's memory, counted.
//!
//! The only `unsafe` code apart from the core's counting allocator.

#![allow(unsafe_code)]

use distill_core::CountingAllocator;
use embedded_alloc::LlffHeap;

use crate::board;

/// Size in bytes.
pub const SIZE: usize = board::HEAP.end - board::HEAP.start;

#[global_allocator]
static HEAP: CountingAllocator<LlffHeap> = CountingAllocator::new(LlffHeap::empty());

/// Gives the allocator its memory. Call it once, before anything allocates.
pub fn start() {
    // SAFETY: the range is memory of this board that nothing else uses, the linker included; `main` calls this once.
    unsafe { HEAP.inner().init(board::HEAP.start, SIZE) }
}

/// Peak heap use in bytes.
pub fn peak_bytes() -> usize {
    HEAP.peak_bytes()
}
