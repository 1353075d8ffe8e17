//! What the processor could do at most: multiply-adds in registers, more than any matrix product reaches.

use std::{hint::black_box, time::Instant};

use pulp::{Arch, Simd, WithSimd};

/// Independent sums: enough to hide an addition's latency on two units.
const SUMS: usize = 12;
const ROUNDS: usize = 2_000_000;
const REPETITIONS: usize = 8;

/// Floating-point operations a second of the pool's threads together, at their best.
pub fn measure() -> f64 {
    let once = || {
        let start = Instant::now();
        let lanes: usize = rayon::broadcast(|_| Arch::new().dispatch(MultiplyAdds)).into_iter().sum();
        (2 * lanes * SUMS * ROUNDS) as f64 / start.elapsed().as_secs_f64()
    };
    (0..REPETITIONS).map(|_| once()).fold(0.0, f64::max)
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
