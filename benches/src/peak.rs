//! What the processor could do at most: multiply-adds in registers, more than any matrix product reaches.

use std::{hint::black_box, time::Instant};

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Independent sums: enough to hide an addition's latency on two units.
const SUMS: usize = 12;
const ROUNDS: usize = 10_000_000;

/// Floating-point operations a second of `threads` threads together.
pub fn measure(threads: usize) -> f64 {
    let start = Instant::now();
    let lanes: usize = (0..threads).into_par_iter().with_max_len(1).map(|_| Arch::new().dispatch(MultiplyAdds)).sum();
    (2 * lanes * SUMS * ROUNDS) as f64 / start.elapsed().as_secs_f64()
}

struct MultiplyAdds;

impl WithSimd for MultiplyAdds {
    /// Lanes of a vector.
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        let factor = simd.splat_f32s(black_box(0.999));
        let mut sums = [factor; SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, factor, factor);
            }
        }
        black_box(sums.map(|sum| simd.reduce_sum_f32s(sum)));
        S::F32_LANES
    }
}
