//! Batch norm with batch statistics.

use pulp::Simd;

use super::{
    elementwise::Read,
    plane::{LANES, Lanes, Plane, floats, floats_mut, vectors},
};

/// The mean of some values and the sum of their squared distances from it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// Number of values.
    pub count: f64,
    /// Their mean.
    pub mean: f64,
    /// `Σ (x − mean)²`.
    pub scatter: f64,
}

impl Moments {
    /// Combines the moments of two sets (Chan, Golub & LeVeque 1979).
    pub fn and(self, other: Self) -> Self {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let distance = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + distance * other.count / count,
            scatter: self.scatter + other.scatter + distance * distance * self.count * other.count / count,
        }
    }

    /// `Σ (x − mean)² / n`.
    pub fn variance(&self) -> f64 {
        self.scatter / self.count.max(1.0)
    }
}

dispatched! {
    /// Computes the moments of each channel over the positions of the first `lanes` images.
    pub fn moments<'a, S>(simd, values: Read<'a>, lanes: usize, moments: &'a mut [Moments]) -> () {
        let count = (values.1.shape.height * values.1.shape.width * lanes) as f64;
        for (channel, moments) in moments.iter_mut().enumerate() {
            let mean = sum(simd, values, channel, lanes, None) / count;
            *moments = Moments { count, mean, scatter: sum(simd, values, channel, lanes, Some(mean as f32)) };
        }
    }
}

/// Sums a channel, or its squared distances from `center`: in single precision within a row, in double across rows.
#[inline(always)]
fn sum<S: Simd>(simd: S, (values, plane): Read<'_>, channel: usize, lanes: usize, center: Option<f32>) -> f64 {
    let rows = (0..plane.shape.height).map(|row| &values[plane.at(channel, row, 0)..][..plane.shape.width]);
    let mut total = 0.0;
    if lanes < LANES {
        for x in rows.flatten().flat_map(|x| &x.0[..lanes]) {
            total += f64::from(center.map_or(*x, |center| (x - center) * (x - center)));
        }
        return total;
    }
    let (one, middle) = (simd.splat_f32s(1.0), simd.splat_f32s(center.unwrap_or(0.0)));
    for row in rows {
        let mut sum = simd.splat_f32s(0.0);
        for x in vectors::<S>(row) {
            let distance = simd.sub_f32s(*x, middle);
            sum = simd.mul_add_e_f32s(distance, if center.is_some() { distance } else { one }, sum);
        }
        total += f64::from(simd.reduce_sum_f32s(sum));
    }
    total
}

dispatched! {
    /// Adds `Σ gradient` to `sums[c]` and `Σ gradient · (input − mean[c])` to `products[c]`.
    pub fn gradient_sums<'a, S>(
        simd,
        gradient: Read<'a>,
        input: Read<'a>,
        mean: &'a [f32],
        sums: &'a mut [f32],
        products: &'a mut [f32],
    ) -> () {
        let ((gradient, of), (input, from)) = (gradient, input);
        let width = of.shape.width;
        for (channel, (sums, products)) in sums.iter_mut().zip(products).enumerate() {
            let mean = simd.splat_f32s(mean[channel]);
            let [mut sum, mut product] = [simd.splat_f32s(0.0); 2];
            for row in 0..of.shape.height {
                let gradient = vectors::<S>(&gradient[of.at(channel, row, 0)..][..width]);
                let input = vectors::<S>(&input[from.at(channel, row, 0)..][..width]);
                for (gradient, input) in gradient.iter().zip(input) {
                    sum = simd.add_f32s(sum, *gradient);
                    product = simd.mul_add_e_f32s(*gradient, simd.sub_f32s(*input, mean), product);
                }
            }
            *sums += simd.reduce_sum_f32s(sum);
            *products += simd.reduce_sum_f32s(product);
        }
    }
}

dispatched! {
    /// `target = a[c] · gradient + b[c] · input + d[c]`, or adds that to it: the input gradient of a batch norm.
    pub fn combine<'a, S>(
        _simd,
        target: (&'a mut [Lanes], Plane, bool),
        gradient: Read<'a>,
        input: Read<'a>,
        factors: &'a [[f32; 3]],
    ) -> () {
        let ((target, to, add), (gradient, of), (input, from)) = (target, gradient, input);
        let width = of.shape.width;
        let kept = if add { 1.0 } else { 0.0 };
        for (index, ((t, g), x)) in to.rows().zip(of.rows()).zip(from.rows()).enumerate() {
            let [a, b, d] = factors[index / of.shape.height];
            let pairs = floats(&gradient[g..g + width]).iter().zip(floats(&input[x..x + width]));
            for (target, (gradient, input)) in floats_mut(&mut target[t..t + width]).iter_mut().zip(pairs) {
                *target = kept * *target + (a * gradient + b * input + d);
            }
        }
    }
}
