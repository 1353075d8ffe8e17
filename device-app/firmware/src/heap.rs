//! The heap: a fixed range of the board's PSRAM, counted.
//!
//! Beside the core's counting allocator the only `unsafe` code.

#![allow(unsafe_code)]

use distill_core::CountingAllocator;
use embedded_alloc::LlffHeap;

/// Where the PSRAM of the MPS2 AN500 starts.
const START: usize = 0x6000_0000;
/// Bytes of it that are the heap; the board has 16 MiB.
pub const SIZE: usize = 12 << 20;

#[global_allocator]
static HEAP: CountingAllocator<LlffHeap> = CountingAllocator::new(LlffHeap::empty());

/// Gives the allocator its memory. To be called once, before anything allocates.
pub fn start() {
    // SAFETY: the range is memory of this board that neither the linker nor anybody else uses; `main` calls this once.
    unsafe { HEAP.inner().init(START, SIZE) }
}

/// The most bytes there ever were in use.
pub fn peak_bytes() -> usize {
    HEAP.peak_bytes()
}
