//! The loops of the CPU: convolutions and what stands between them, on groups of images side by side.
//!
//! [`plane`] is how a value lies in memory: a vector holds one position of one channel in each image of a group, so a
//! kernel tap, a stride or a border costs no shuffle and no waste, whatever the extents. [`correlate`] has the sums over
//! taps (forward, gradient by the input), [`products`] those over positions (gradient by the weights, normal equations),
//! [`conv`] says which of them a convolution is made of. [`elementwise`] and [`norm`] are the rest, [`parallel`] the threads.
//! No loop allocates. SIMD is dispatched at run time once a call; without any it is plain Rust.

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
