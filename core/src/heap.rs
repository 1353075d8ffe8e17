//! A global allocator that counts the bytes in use, now and at the peak.
//!
//! The only `unsafe` code of the workspace, apart from one line in the firmware. It adds two relaxed atomic operations
//! to each allocator call and nothing else, so it also works without an operating system.

#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::{
    alloc::{GlobalAlloc, Layout},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Wraps an allocator and counts what it hands out.
///
/// ```
/// use std::alloc::System;
/// use distill_core::CountingAllocator;
///
/// static HEAP: CountingAllocator<System> = CountingAllocator::new(System); // with #[global_allocator]
/// assert_eq!(HEAP.peak_bytes(), 0);
/// ```
#[derive(Debug)]
pub struct CountingAllocator<A> {
    inner: A,
    in_use: AtomicUsize,
    peak: AtomicUsize,
}

impl<A> CountingAllocator<A> {
    /// Counts from zero.
    pub const fn new(inner: A) -> Self {
        Self { inner, in_use: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    /// The wrapped allocator, for those that must be given their memory first.
    pub const fn inner(&self) -> &A {
        &self.inner
    }

    /// Bytes allocated and not yet freed.
    pub fn in_use_bytes(&self) -> usize {
        self.in_use.load(Relaxed)
    }

    /// The most bytes in use since the start, or since [`reset_peak`](Self::reset_peak).
    pub fn peak_bytes(&self) -> usize {
        self.peak.load(Relaxed)
    }

    /// Resets the peak to the bytes in use now.
    pub fn reset_peak(&self) {
        self.peak.store(self.in_use_bytes(), Relaxed);
    }

    fn grew(&self, bytes: usize) {
        let now = self.in_use.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(now, Relaxed);
    }

    fn shrank(&self, bytes: usize) {
        self.in_use.fetch_sub(bytes, Relaxed);
    }
}

/// Heap bytes of a vector's buffer, excluding what its elements own.
pub(crate) fn held<T>(values: &Vec<T>) -> usize {
    values.capacity() * size_of::<T>()
}

// SAFETY: every call is passed on unchanged to `inner`, which upholds the contract; the counters touch no memory.
unsafe impl<A: GlobalAlloc> GlobalAlloc for CountingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's guarantees for `layout` are those `inner` asks for.
        let pointer = unsafe { self.inner.alloc(layout) };
        if !pointer.is_null() {
            self.grew(layout.size());
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        let pointer = unsafe { self.inner.alloc_zeroed(layout) };
        if !pointer.is_null() {
            self.grew(layout.size());
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `inner` with this layout, because every allocation is passed on.
        unsafe { self.inner.dealloc(pointer, layout) };
        self.shrank(layout.size());
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as in `dealloc`; the caller guarantees a valid `new_size`.
        let moved = unsafe { self.inner.realloc(pointer, layout, new_size) };
        if !moved.is_null() {
            // Count old and new together: a realloc that moves holds both at once.
            self.grew(new_size);
            self.shrank(layout.size());
        }
        moved
    }
}
