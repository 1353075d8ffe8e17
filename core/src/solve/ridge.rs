//! Ridge regression from sums over targets `y` and patches `u`, each followed by a 1 for the bias.
//!
//! `W = argmin E‖W u − y‖² + λ‖W − W₀‖²` solves `(G + λI) Wᵀ = C + λ W₀ᵀ` with `G = E[u uᵀ]` and `C = E[u yᵀ]`. The zeros of a
//! sparse `W₀` stay: each of its outputs has a system of its own, in the features that it reads.

use alloc::{vec, vec::Vec};

use crate::recipe::Ridge;
use nalgebra::{Cholesky, DMatrix, Dyn};

/// The weights `W₀` towards which a solve is regularised.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held<'a> {
    pub kernel: &'a [f32],
    pub bias: &'a [f32],
}

/// Matrix rows per unit of parallel work.
pub const ROWS: usize = 16;

/// Sums over targets `y` and patches `u`, each followed by a 1.
#[derive(Debug)]
pub struct Sums {
    /// Length of a patch, including the 1.
    pub features: usize,
    /// The lower triangle of `Σ u uᵀ` in chunks of [`ROWS`] rows, each row padded to the chunk's last.
    pub patches: Vec<Vec<f64>>,
    /// `Σ y uᵀ`, row-major.
    pub targets: Vec<f64>,
    /// `Σ ‖y‖²`.
    pub energy: f64,
}

impl Sums {
    /// Empty sums.
    pub fn new(features: usize, outputs: usize) -> Self {
        let patches = chunks(features).map(|len| vec![0.0; len]).collect();
        Self { features, patches, targets: vec![0.0; outputs * features], energy: 0.0 }
    }

    /// Number of patches: the sum of the squared 1s.
    pub fn count(&self) -> f64 {
        self.patches.last().and_then(|rows| rows.last()).copied().unwrap_or_default()
    }

    /// The rows of the lower triangle, up to the diagonal.
    fn rows(&self) -> impl Iterator<Item = (usize, &[f64])> {
        let chunks = (0..self.features).step_by(ROWS).zip(&self.patches);
        chunks.flat_map(|(first, rows)| {
            let rows = rows.chunks_exact(self.features.min(first + ROWS));
            (first..).zip(rows).map(|(i, row)| (i, &row[..=i]))
        })
    }

    /// The mean of the Gram matrix's diagonal.
    pub fn mean_square(&self) -> f64 {
        let diagonal: f64 = self.rows().map(|(i, row)| row[i]).sum();
        diagonal / (self.features as f64 * self.count().max(1.0))
    }

    /// Adds the sums over other patches.
    pub fn add(&mut self, other: Self) {
        let triangles = self.patches.iter_mut().flatten().zip(other.patches.into_iter().flatten());
        let targets = self.targets.iter_mut().zip(other.targets);
        triangles.chain(targets).for_each(|(sum, more)| *sum += more);
        self.energy += other.energy;
    }

    /// `E‖W u − y‖²` of a solution `Wᵀ`.
    fn error(&self, solution: &DMatrix<f64>) -> f64 {
        let outputs = solution.ncols();
        // The row-major values are the transpose in column-major order.
        let cross: f64 = solution.as_slice().iter().zip(&self.targets).map(|(w, sum)| w * sum).sum();
        let weights = solution.transpose();
        let column = |i: usize| &weights.as_slice()[i * outputs..][..outputs];
        let dot = |i: usize, j: usize| column(i).iter().zip(column(j)).map(|(a, b)| a * b).sum::<f64>();
        let row = |(i, row): (usize, &[f64])| -> f64 {
            let twice: f64 = row.iter().enumerate().map(|(j, sum)| 2.0 * sum * dot(i, j)).sum();
            twice - row[i] * dot(i, i)
        };
        (self.energy - 2.0 * cross + self.rows().map(row).sum::<f64>()) / self.count().max(1.0)
    }

    /// The strength among [`Ridge::STRENGTHS`] whose solution, regularised towards `W₀`, does best on other patches.
    pub fn best_strength(&self, others: &Self, held: Held<'_>) -> f64 {
        let error = |strength: f64| {
            let ridge = strength * self.mean_square();
            let targets = Targets { targets: self.targets.clone(), energy: self.energy, count: self.count() };
            let system = System::new(self.gram(ridge), targets, ridge, held);
            let error = system.solved().map_or(f64::INFINITY, |(solution, _)| others.error(&solution));
            log::debug!("ridge {strength:.0e}: error {error:.6} on held-out inputs");
            error
        };
        let errors = Ridge::STRENGTHS.map(|strength| (strength, error(strength)));
        let finite = errors.into_iter().filter(|(_, error)| error.is_finite());
        finite.min_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(Ridge::STRENGTH, |(strength, _)| strength)
    }

    /// The regression with ridge λ towards kernel and bias `W₀`.
    pub fn system(self, ridge: f64, held: Held<'_>) -> System {
        let (gram, count) = (self.gram(ridge), self.count());
        System::new(gram, Targets { targets: self.targets, energy: self.energy, count }, ridge, held)
    }

    /// The lower triangle of `G + λI`, which is all that a factorisation reads.
    fn gram(&self, ridge: f64) -> DMatrix<f64> {
        let scale = 1.0 / self.count().max(1.0);
        let mut gram = DMatrix::zeros(self.features, self.features);
        self.rows().for_each(|(i, row)| row.iter().enumerate().for_each(|(j, sum)| gram[(i, j)] = scale * sum));
        (0..self.features).for_each(|i| gram[(i, i)] += ridge);
        gram
    }
}

/// `Σ y uᵀ` and `Σ ‖y‖²` over `count` patches.
struct Targets {
    targets: Vec<f64>,
    energy: f64,
    count: f64,
}

/// The system `(G + λI) Wᵀ = C + λ W₀ᵀ`, with the lower triangle of its left side.
pub struct System {
    gram: DMatrix<f64>,
    cross: DMatrix<f64>,
    /// `E‖y‖² + λ‖W₀‖²`.
    energy: f64,
    /// λ.
    ridge: f64,
    /// Whether each output reads each feature; empty if each reads all.
    reads: Vec<bool>,
}

impl System {
    /// Builds the system from `G + λI` and the targets' sums.
    fn new(gram: DMatrix<f64>, Targets { targets, energy, count }: Targets, ridge: f64, held: Held<'_>) -> Self {
        let (features, scale) = (gram.nrows(), 1.0 / count.max(1.0));
        // The row-major values are the transpose in column-major order.
        let mut cross = DMatrix::from_vec(features, targets.len() / features, targets);
        cross *= scale;
        let mut energy = scale * energy;
        for (output, mut column) in cross.column_iter_mut().enumerate() {
            let kernel = &held.kernel[output * (features - 1)..][..features - 1];
            for (sum, &weight) in column.iter_mut().zip(kernel.iter().chain([&held.bias[output]])) {
                *sum += ridge * f64::from(weight);
                energy += ridge * f64::from(weight) * f64::from(weight);
            }
        }
        let mut reads = Vec::new();
        if held.kernel.contains(&0.0) {
            reads.reserve_exact(cross.len());
            for kernel in held.kernel.chunks(features - 1) {
                reads.extend(kernel.iter().map(|weight| *weight != 0.0).chain([true]));
            }
        }
        Self { gram, cross, energy, ridge, reads }
    }

    /// The inverse of the left side, and the solution; `None` if the left side is not positive definite.
    pub fn inverted(self) -> Option<(DMatrix<f64>, DMatrix<f64>)> {
        let Self { gram, cross: mut solution, .. } = self;
        let factor = Cholesky::new(gram)?;
        factor.solve_mut(&mut solution);
        Some((factor.inverse(), solution))
    }

    /// λ.
    pub fn ridge(&self) -> f64 {
        self.ridge
    }

    /// The solution, one column of weights and bias per output, and its `E‖W u − y‖² + λ‖W − W₀‖²`; `None` if the left
    /// side is not positive definite, as for sums that are not finite.
    pub fn solved(self) -> Option<(DMatrix<f64>, f64)> {
        let Self { gram, cross: mut solution, energy, reads, .. } = self;
        if !reads.is_empty() {
            let features = gram.nrows();
            let mut gain = 0.0;
            // Those that read all features share a factor.
            if reads.chunks(features).any(reads_all) {
                let all: Vec<usize> = (0..features).collect();
                let factor = Cholesky::new(gram.clone())?;
                let outputs = solution.as_mut_slice().chunks_mut(features).zip(reads.chunks(features));
                gain += outputs
                    .filter(|(_, reads)| reads_all(reads))
                    .map(|(output, _)| solve_output(&factor, output, &all))
                    .sum::<f64>();
            }
            let outputs = solution.as_mut_slice().chunks_mut(features).zip(reads.chunks(features));
            for (output, reads) in outputs.filter(|(_, reads)| !reads_all(reads)) {
                let own: Vec<usize> = (0..features).filter(|&feature| reads[feature]).collect();
                let gram = DMatrix::from_fn(own.len(), own.len(), |row, column| gram[(own[row], own[column])]);
                gain += solve_output(&Cholesky::new(gram)?, output, &own);
            }
            return Some((solution, energy - gain));
        }
        let factor = Cholesky::new(gram)?;
        // With G + λI = L Lᵀ, the error is the energy minus ‖L⁻¹ (C + λ W₀ᵀ)‖².
        factor.l_dirty().solve_lower_triangular_mut(&mut solution);
        let error = energy - solution.norm_squared();
        factor.l_dirty().ad_solve_lower_triangular_mut(&mut solution);
        Some((solution, error))
    }
}

/// Whether an output reads every feature.
fn reads_all(reads: &[bool]) -> bool {
    !reads.contains(&false)
}

/// Replaces `C + λ W₀ᵀ` of one output by its solution in these features, whose factor is given, and zeros; returns how much it lowers
/// the output's error.
fn solve_output(factor: &Cholesky<f64, Dyn>, output: &mut [f64], features: &[usize]) -> f64 {
    let mut solution = DMatrix::from_fn(features.len(), 1, |row, _| output[features[row]]);
    factor.l_dirty().solve_lower_triangular_mut(&mut solution);
    let gain = solution.norm_squared();
    factor.l_dirty().ad_solve_lower_triangular_mut(&mut solution);
    output.fill(0.0);
    features.iter().zip(solution.iter()).for_each(|(&feature, &weight)| output[feature] = weight);
    gain
}

/// Lengths of the chunks of a lower triangle; see [`Sums::patches`].
pub fn chunks(features: usize) -> impl Iterator<Item = usize> {
    (0..features).step_by(ROWS).map(move |first| ROWS.min(features - first) * features.min(first + ROWS))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that panics fails")]
mod tests {
    use super::*;
    use crate::stream::{Purpose, Stream};

    const FEATURES: usize = 6;
    const OUTPUTS: usize = 3;

    /// Sums over a few random patches and targets.
    fn sums() -> Sums {
        let mut sums = Sums::new(FEATURES, OUTPUTS);
        let mut values =
            Stream::new(2, Purpose::Solve, 0).gaussian(40 * (FEATURES - 1 + OUTPUTS)).into_iter().map(f64::from);
        for _ in 0..40 {
            let mut patch: Vec<f64> = values.by_ref().take(FEATURES - 1).collect();
            patch.push(1.0);
            let targets: Vec<f64> = values.by_ref().take(OUTPUTS).collect();
            for (row, left) in patch.iter().enumerate() {
                patch[..=row]
                    .iter()
                    .enumerate()
                    .for_each(|(column, right)| sums.patches[0][row * FEATURES + column] += left * right);
            }
            for (output, target) in targets.iter().enumerate() {
                patch
                    .iter()
                    .enumerate()
                    .for_each(|(feature, value)| sums.targets[output * FEATURES + feature] += target * value);
                sums.energy += target * target;
            }
        }
        sums
    }

    #[test]
    fn outputs_with_zeros_have_the_best_weights_that_they_can_have() {
        let kernel: Vec<f32> = (0..OUTPUTS * (FEATURES - 1)).map(|at| if at % 3 == 1 { 0.0 } else { 0.5 }).collect();
        let bias = [0.25; OUTPUTS];
        let held = Held { kernel: &kernel, bias: &bias };
        let ridge = 0.01;
        let (solution, error) = sums().system(ridge, held).solved().unwrap();
        let cost = |solution: &DMatrix<f64>| {
            let apart = solution.column_iter().zip(kernel.chunks(FEATURES - 1)).zip(bias).flat_map(
                |((column, kernel), bias)| {
                    let start: Vec<f32> = kernel.iter().copied().chain([bias]).collect();
                    column
                        .iter()
                        .zip(start)
                        .map(|(weight, start)| (weight - f64::from(start)).powi(2))
                        .collect::<Vec<_>>()
                },
            );
            sums().error(solution) + ridge * apart.sum::<f64>()
        };
        assert!((cost(&solution) - error).abs() < 1e-9, "{} and {error}", cost(&solution));
        for (at, weight) in kernel.iter().enumerate() {
            let place = (at % (FEATURES - 1), at / (FEATURES - 1));
            assert_eq!(solution[place] == 0.0, *weight == 0.0);
            for step in [-1e-3, 1e-3] {
                let mut other = solution.clone();
                other[place] += step;
                assert!(*weight == 0.0 || cost(&other) > error, "{place:?}");
            }
        }
    }
}
