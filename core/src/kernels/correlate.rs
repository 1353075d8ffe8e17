//! The two inner loops, in vectors of whatever width the processor has (dispatched once a call).

use pulp::{Arch, Simd, WithSimd};

/// Channels whose sums stay in registers.
pub const CHANNELS: usize = 4;
/// Vectors of positions whose sums stay in registers.
const VECTORS: usize = 3;
/// Taps whose sums stay in registers, for [`products`].
pub const TAPS: usize = 3;
/// Floats that a loop may read or write past its last position: vectors of up to 16.
pub const SLACK: usize = 16 * VECTORS;

/// `output[c·row + p] = bias[c] + Σ_t weights[t][c] · input[taps[t] + p]` for `p` in `0..span`; up to [`SLACK`] positions more
/// are overwritten.
pub fn correlate(
    input: &[f32],
    (taps, weights): (&[usize], &[[f32; CHANNELS]]),
    bias: [f32; CHANNELS],
    (output, row): (&mut [f32], usize),
    span: usize,
) {
    Arch::new().dispatch(Correlate { input, taps, weights, bias, output, row, span });
}

/// `sums[t][c] += Σ_p gradients[c][p] · input[taps[t] + p]`; the gradients' length is a multiple of 16, and the number of
/// taps one of [`TAPS`].
pub fn products(input: &[f32], taps: &[usize], gradients: [&[f32]; CHANNELS], sums: &mut [[f32; CHANNELS]]) {
    Arch::new().dispatch(Products { input, taps, gradients, sums });
}

struct Correlate<'a> {
    input: &'a [f32],
    taps: &'a [usize],
    weights: &'a [[f32; CHANNELS]],
    bias: [f32; CHANNELS],
    output: &'a mut [f32],
    row: usize,
    span: usize,
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { input, taps, weights, bias, output, row, span } = self;
        let step = VECTORS * S::F32_LANES;
        for start in (0..span).step_by(step) {
            let mut sums = bias.map(|bias| [simd.splat_f32s(bias); VECTORS]);
            for (&tap, weights) in taps.iter().zip(weights) {
                let (values, _) = S::as_simd_f32s(&input[tap + start..][..step]);
                for (sums, &weight) in sums.iter_mut().zip(weights) {
                    let weight = simd.splat_f32s(weight);
                    for (sum, &value) in sums.iter_mut().zip(values) {
                        *sum = simd.mul_add_e_f32s(weight, value, *sum);
                    }
                }
            }
            for (channel, sums) in sums.iter().enumerate() {
                let (target, _) = S::as_mut_simd_f32s(&mut output[channel * row + start..][..step]);
                target.copy_from_slice(sums);
            }
        }
    }
}

struct Products<'a> {
    input: &'a [f32],
    taps: &'a [usize],
    gradients: [&'a [f32]; CHANNELS],
    sums: &'a mut [[f32; CHANNELS]],
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { input, taps, gradients, sums } = self;
        let length = gradients[0].len();
        // One count for all, known before the loop: no check inside.
        let count = length / S::F32_LANES;
        let gradients = gradients.map(|gradient| &S::as_simd_f32s(&gradient[..length]).0[..count]);
        for (taps, sums) in taps.chunks_exact(TAPS).zip(sums.chunks_exact_mut(TAPS)) {
            let values: [_; TAPS] = core::array::from_fn(|t| &S::as_simd_f32s(&input[taps[t]..][..length]).0[..count]);
            let mut vectors = [[simd.splat_f32s(0.0); TAPS]; CHANNELS];
            for position in 0..count {
                // Three values and one gradient beside twelve sums: all of a processor's sixteen registers.
                let values = values.map(|values| values[position]);
                for (vectors, gradient) in vectors.iter_mut().zip(gradients) {
                    let gradient = gradient[position];
                    for (vector, value) in vectors.iter_mut().zip(values) {
                        *vector = simd.mul_add_e_f32s(value, gradient, *vector);
                    }
                }
            }
            for (channel, vectors) in vectors.into_iter().enumerate() {
                for (sums, vector) in sums.iter_mut().zip(vectors) {
                    sums[channel] += simd.reduce_sum_f32s(vector);
                }
            }
        }
    }
}
