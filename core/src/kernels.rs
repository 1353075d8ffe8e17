//! Convolutions of small blocks on the CPU, faster than a general backend's: the hot loop of everything here.
//!
//! Every pass is one flat correlation. [`planes`] copies an image into zero-padded planes, one a channel
//! (a stride splits each into its phases), so that a kernel tap is a fixed distance between flat positions,
//! for any size, stride and padding. [`correlate`] runs over those positions in vectors. [`conv`] says which
//! planes and taps make the forward pass, the gradient by the input and the gradient by the weights.
//! [`elementwise`] is what stands around them, [`normal`] the sums of the solve, and [`extension`] hands them
//! to Burn's `flex` device; other devices keep Burn's own operators.

mod conv;
mod correlate;
mod elementwise;
mod extension;
mod normal;
mod parallel;
mod planes;

pub use self::{
    extension::{add_relu, conv2d, mean_squared_error},
    normal::normal_products,
};
