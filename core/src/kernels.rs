//! The CPU kernels: convolutions and the operators between them, on groups of images side by side.
//!
//! [`plane`] is the memory layout: a vector holds one position of one channel in each image of a group, so a kernel
//! tap, a stride or a border needs no shuffle and wastes no lanes, whatever the extents. [`correlate`] sums over taps
//! (forward pass, input gradient), [`products`] over positions (weight gradient, normal equations); [`conv`] builds
//! convolutions from both. [`elementwise`] and [`norm`] hold all other kernels, [`parallel`] the threads. No kernel
//! allocates. SIMD is dispatched at run time once per call, with plain Rust as the fallback.

#[macro_use]
mod dispatch;

pub mod conv;
pub mod correlate;
pub mod elementwise;
pub mod instructions;
pub mod norm;
pub mod parallel;
pub mod plane;
pub mod products;

#[cfg(test)]
mod tests;
