//! The sums of a convolution's normal equations, on the host: they end in a factorisation there, whatever the device.

use alloc::vec::Vec;

use burn::tensor::Tensor;

use super::{
    conv::{patches, weight_gradient},
    planes::Geometry,
};
use crate::{block::Conv, forward::host_values};

/// Sums over all positions of a batch, with the patches `u` (im2col) that a dense convolution sees and its targets `y`:
/// `[(Σ u uᵀ, Σ u), (Σ y uᵀ, Σ y)]`, matrices row by row. The second is just what a gradient by weights and bias is, and the
/// first the same with the patches as targets.
///
/// # Shapes
/// - hidden `[N, C_in, H, W]`, target `[N, C_out, H', W']`, kernel `[K_h, K_w]`
/// - with `K = C_in·K_h·K_w`: `K × K`, `K`, `C_out × K`, `C_out`
pub fn normal_products(
    hidden: Tensor<4>,
    target: Tensor<4>,
    [rows, columns]: [usize; 2],
    conv: &Conv,
) -> [(Vec<f32>, Vec<f32>); 2] {
    let ([_, inputs, height, width], [_, outputs, ..]) = (hidden.dims(), target.dims());
    let geometry = |outputs| Geometry::new([inputs, height, width], [outputs, rows, columns], conv);
    let (hidden, target) = (host_values(hidden), host_values(target));
    let by_patches = geometry(inputs * rows * columns);
    let patches = patches(&by_patches, &hidden);
    [(&by_patches, &patches), (&geometry(outputs), &target)]
        .map(|(geometry, target)| weight_gradient(geometry, &hidden, target, None))
}
