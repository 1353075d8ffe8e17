//! Batch norm with the statistics of the batch at hand.

use pulp::Arch;

use super::plane::{LANES, Lanes, Plane};

/// Mean of some values and the sum of their squared distances from it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// How many values.
    pub count: f64,
    /// Their mean.
    pub mean: f64,
    /// `Σ (x − mean)²`.
    pub scatter: f64,
}

impl Moments {
    /// Those of both sets together (Chan, Golub & LeVeque 1979).
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

/// Moments of each channel over the positions of the first `lanes` images.
pub fn moments(arch: Arch, (values, plane): (&[Lanes], Plane), lanes: usize, moments: &mut [Moments]) {
    let shape = plane.shape;
    let count = (shape.height * shape.width) as f64;
    arch.dispatch(|| {
        for (channel, moments) in moments.iter_mut().enumerate() {
            let rows = || (0..shape.height).map(|row| &values[plane.at(channel, row, 0)..][..shape.width]);
            // Row by row in single precision, over the rows in double.
            let mut sums = [0.0f64; LANES];
            for row in rows() {
                let mut here = [0.0f32; LANES];
                row.iter().for_each(|x| here.iter_mut().zip(x.0).for_each(|(sum, x)| *sum += x));
                sums.iter_mut().zip(here).for_each(|(sum, here)| *sum += f64::from(here));
            }
            let mean = sums.iter().take(lanes).sum::<f64>() / (count * lanes as f64);
            let center = mean as f32;
            let mut squares = [0.0f64; LANES];
            for row in rows() {
                let mut here = [0.0f32; LANES];
                row.iter().for_each(|x| {
                    here.iter_mut().zip(x.0).for_each(|(sum, x)| *sum += (x - center) * (x - center));
                });
                squares.iter_mut().zip(here).for_each(|(sum, here)| *sum += f64::from(here));
            }
            let scatter = squares.iter().take(lanes).sum();
            *moments = Moments { count: count * lanes as f64, mean, scatter };
        }
    });
}

/// Adds `Σ gradient` to `sums[c]` and `Σ gradient · (input − mean[c])` to `products[c]`.
pub fn gradient_sums(
    arch: Arch,
    (gradient, of): (&[Lanes], Plane),
    (input, from): (&[Lanes], Plane),
    mean: &[f32],
    (sums, products): (&mut [f32], &mut [f32]),
) {
    let width = of.shape.width;
    arch.dispatch(|| {
        for (index, (g, x)) in of.rows().zip(from.rows()).enumerate() {
            let channel = index / of.shape.height;
            let (mut sum, mut product, mean) = ([0.0f32; LANES], [0.0f32; LANES], mean[channel]);
            for (gradient, input) in gradient[g..g + width].iter().zip(&input[x..x + width]) {
                for lane in 0..LANES {
                    sum[lane] += gradient.0[lane];
                    product[lane] += gradient.0[lane] * (input.0[lane] - mean);
                }
            }
            sums[channel] += sum.iter().sum::<f32>();
            products[channel] += product.iter().sum::<f32>();
        }
    });
}

/// `target (+)= a[c] · gradient + b[c] · input + d[c]` in the first `lanes` images: the gradient by a batch norm's input.
pub fn combine(
    arch: Arch,
    (target, to, add): (&mut [Lanes], Plane, bool),
    (gradient, of): (&[Lanes], Plane),
    (input, from): (&[Lanes], Plane),
    factors: &[[f32; 3]],
    lanes: usize,
) {
    let width = of.shape.width;
    let present: [f32; LANES] = core::array::from_fn(|lane| if lane < lanes { 1.0 } else { 0.0 });
    arch.dispatch(|| {
        for (index, ((t, g), x)) in to.rows().zip(of.rows()).zip(from.rows()).enumerate() {
            let [a, b, d] = factors[index / of.shape.height];
            let pairs = gradient[g..g + width].iter().zip(&input[x..x + width]);
            for (target, (gradient, input)) in target[t..t + width].iter_mut().zip(pairs) {
                for lane in 0..LANES {
                    let value = (a * gradient.0[lane] + b * input.0[lane] + d) * present[lane];
                    target.0[lane] = if add { target.0[lane] + value } else { value };
                }
            }
        }
    });
}
