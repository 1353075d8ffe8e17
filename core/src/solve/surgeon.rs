//! Which weights a layer can do without: the optimal brain surgeon on its normal equations (Hassibi & Stork 1993), each output
//! exactly (Frantar & Alistarh 2022), or in one sweep over the weights where these are many (Frantar & Alistarh 2023).
//!
//! Removing weight `q` of an output with inverse Gram matrix `P` and weights `w` raises its error by `w_q² / P_qq`; then `w ← w −
//! P_:q w_q / P_qq` and `P ← P − P_:q P_:qᵀ / P_qq`: what is left is the least-squares solution without it. Within an output the
//! cheapest goes next; over all outputs, too.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use nalgebra::{Cholesky, DMatrix};

use crate::{
    kernels::parallel::share,
    recipe::{Pattern, Sparsity},
    student::{Group, Kernel, cheapest},
};

/// With more weights per output than these, or more work to update the matrix for each output, they are swept.
const EXACT_ROW: usize = 1200;
const EXACT_WORK: f64 = 5e11;
/// Weights of an output that a sweep compares with each other, rounded up to whole groups.
const COMPARED: usize = 128;

/// Takes weights out of the solution of a layer's regression, and fits the others to it again. Features are in rows, the bias last,
/// which stays; `inverse` is that of the Gram matrix. Weights that are zero in
/// `before` go first. `None` if the matrix is not positive definite.
pub fn surgeon(
    kernel: Kernel,
    sparsity: Sparsity,
    before: &[f32],
    inverse: DMatrix<f64>,
    mut solution: DMatrix<f64>,
    workers: usize,
) -> Option<DMatrix<f64>> {
    let (row, unit, features) = (kernel.row(), kernel.unit(sparsity.pattern), inverse.nrows());
    if !is_exact(kernel) {
        return sweep(kernel, sparsity, before, inverse, solution, workers);
    }
    let mut workers: Vec<Elimination> = (0..workers).map(|_| Elimination::default()).collect();
    if let Pattern::OfEach { .. } = sparsity.pattern {
        let groups = kernel.groups(sparsity.pattern);
        let outputs = solution.as_mut_slice().chunks_mut(features).zip(before.chunks(row));
        share(&mut workers, outputs, |(weights, before), elimination| {
            elimination.start(&inverse, weights);
            elimination.thin(&groups, before);
            elimination.finish(weights);
        });
        return Some(solution);
    }
    // The units of each output in the order in which they go, and the most that one up to there has cost.
    let units = row / unit;
    let (mut order, mut costs) = (vec![0_u32; kernel.outputs * units], vec![0.0_f32; kernel.outputs * units]);
    let outputs = order.chunks_mut(units).zip(costs.chunks_mut(units));
    let outputs = outputs.zip(solution.as_slice().chunks(features).zip(before.chunks(row)));
    share(&mut workers, outputs, |((order, costs), (weights, before)), elimination| {
        elimination.start(&inverse, weights);
        elimination.empty(unit, before, order, costs);
    });
    let gone = before.chunks(unit).filter(|unit| is_gone(unit)).count();
    let goes = cheapest(&costs, sparsity.removed(costs.len()).max(gone));
    let outputs = solution.as_mut_slice().chunks_mut(features).zip(order.chunks(units).zip(goes.chunks(units)));
    share(&mut workers, outputs, |(weights, (order, goes)), elimination| {
        elimination.start(&inverse, weights);
        let gone = order.iter().zip(goes).filter(|(_, goes)| **goes).map(|(&index, _)| index as usize);
        gone.flat_map(|index| index * unit..(index + 1) * unit).for_each(|feature| elimination.remove(feature));
        elimination.finish(weights);
    });
    Some(solution)
}

/// Whether all weights of a unit are zero already.
fn is_gone(unit: &[f32]) -> bool {
    unit.iter().all(|weight| *weight == 0.0)
}

/// Whether the weights of each output are removed one after another.
pub fn is_exact(kernel: Kernel) -> bool {
    let row = kernel.row();
    row <= EXACT_ROW && kernel.outputs as f64 * (row as f64) * (row as f64) * (row as f64) <= EXACT_WORK
}

/// Heap bytes of [`surgeon`], its matrices included, and those that their inverse was made from.
pub fn surgeon_bytes(kernel: Kernel, sparsity: Sparsity, workers: usize) -> u64 {
    let (row, features) = (kernel.row(), kernel.row() + 1);
    let of = |values: usize, bytes: usize| values as u64 * bytes as u64;
    let (matrix, solution) =
        (of(features, features * size_of::<f64>()), of(kernel.outputs, features * size_of::<f64>()));
    let groups = kernel.group_bytes(sparsity.pattern) + of(row, size_of::<usize>());
    // A cost, a place, its order and whether it goes; a unit has at least one weight.
    let per_weight = 2 * size_of::<u32>() + size_of::<usize>() + size_of::<bool>();
    let choosing =
        of(kernel.outputs * row.min(if is_exact(kernel) { row } else { 2 * COMPARED * kernel.taps }), per_weight);
    let elimination = matrix + of(features, 5 * size_of::<f64>());
    let workers = if is_exact(kernel) { of(workers, 1) * elimination } else { 0 };
    solution + matrix + matrix.max(groups + choosing + workers)
}

/// The backward elimination of one output's weights.
#[derive(Debug, Default)]
struct Elimination {
    /// The inverse Gram matrix of the features that are left: the first `left` of `stride` rows and columns.
    inverse: Vec<f64>,
    stride: usize,
    left: usize,
    weights: Vec<f64>,
    /// The feature in each place, and the place of each feature.
    features: Vec<usize>,
    places: Vec<usize>,
    column: Vec<f64>,
}

impl Elimination {
    fn start(&mut self, inverse: &DMatrix<f64>, weights: &[f64]) {
        (self.stride, self.left) = (weights.len(), weights.len());
        self.inverse.clear();
        self.inverse.extend_from_slice(inverse.as_slice());
        self.weights.clear();
        self.weights.extend_from_slice(weights);
        for order in [&mut self.features, &mut self.places] {
            order.clear();
            order.extend(0..weights.len());
        }
    }

    /// The weights that are left, in their places, and zeros.
    fn finish(&self, weights: &mut [f64]) {
        weights.fill(0.0);
        self.features[..self.left].iter().zip(&self.weights).for_each(|(&feature, &weight)| weights[feature] = weight);
    }

    /// Removes unit after unit until none is left, those that were zero before first, then the cheapest.
    fn empty(&mut self, unit: usize, before: &[f32], order: &mut [u32], costs: &mut [f32]) {
        let mut units: Vec<usize> = (0..order.len()).collect();
        let gone: Vec<bool> = before.chunks(unit).map(is_gone).collect();
        let mut most = 0.0_f64;
        for (order, cost) in order.iter_mut().zip(costs) {
            let price = |&index: &usize| if gone[index] { -1.0 } else { self.price(index * unit..(index + 1) * unit) };
            let prices = units.iter().map(price).enumerate();
            let Some((place, price)) = prices.min_by(|a, b| a.1.total_cmp(&b.1)) else { return };
            let index = units.swap_remove(place);
            // What goes after a dear one goes with it: an output's order stays.
            most = most.max(price);
            (*order, *cost) = (index as u32, if gone[index] { -1.0 } else { most as f32 });
            (index * unit..(index + 1) * unit).for_each(|feature| self.remove(feature));
        }
    }

    /// Removes those that were zero before, then the cheapest weights until each group has lost as many as it must.
    fn thin(&mut self, groups: &[Group], before: &[f32]) {
        let zeros = |group: &Group| group.members.iter().filter(|&&member| before[member] == 0.0).count();
        let mut quotas: Vec<usize> = groups.iter().map(|group| group.goes.saturating_sub(zeros(group))).collect();
        (0..before.len()).filter(|&member| before[member] == 0.0).for_each(|member| self.remove(member));
        loop {
            let open = groups.iter().enumerate().filter(|(index, _)| quotas[*index] > 0);
            let members = open.flat_map(|(index, group)| group.members.iter().map(move |&member| (index, member)));
            let here = members.filter(|&(_, member)| self.places[member] < self.left);
            let prices = here.map(|(index, member)| (index, member, self.price(member..member + 1)));
            let Some((group, member, _)) = prices.min_by(|a, b| a.2.total_cmp(&b.2)) else { return };
            quotas[group] -= 1;
            self.remove(member);
        }
    }

    /// How much the error rises without some features: `w_Sᵀ (P_SS)⁻¹ w_S`.
    fn price(&self, unit: Range<usize>) -> f64 {
        let at = |feature: usize| self.places[feature];
        let between = |a: usize, b: usize| self.inverse[at(a) * self.stride + at(b)];
        if unit.len() == 1 {
            let weight = self.weights[at(unit.start)];
            return weight * weight / between(unit.start, unit.start).max(f64::MIN_POSITIVE);
        }
        let (first, len) = (unit.start, unit.len());
        let matrix = DMatrix::from_fn(len, len, |row, column| between(first + row, first + column));
        let weights = DMatrix::from_fn(len, 1, |row, _| self.weights[at(first + row)]);
        Cholesky::new(matrix).map_or(f64::INFINITY, |factor| factor.solve(&weights).dot(&weights))
    }

    /// Removes a feature. The last one takes its place.
    fn remove(&mut self, feature: usize) {
        let Self { inverse, stride, left, weights, features, places, column } = self;
        let (stride, at) = (*stride, places[feature]);
        *left -= 1;
        let last = *left;
        let own = inverse[at * stride + at].max(f64::MIN_POSITIVE);
        column.clear();
        column.extend((0..=last).map(|row| inverse[row * stride + at]));
        let share = weights[at] / own;
        weights[..=last].iter_mut().zip(&*column).for_each(|(weight, column)| *weight -= share * column);
        if at != last {
            for row in 0..=last {
                inverse.swap(row * stride + at, row * stride + last);
            }
            let (upper, lower) = inverse.split_at_mut(last * stride);
            upper[at * stride..][..last].copy_from_slice(&lower[..last]);
            weights.swap(at, last);
            column.swap(at, last);
            places.swap(features[at], features[last]);
            features.swap(at, last);
        }
        for row in 0..last {
            let share = column[row] / own;
            let values = &mut inverse[row * stride..][..last];
            values.iter_mut().zip(&*column).for_each(|(value, column)| *value -= share * column);
        }
    }
}

/// The same in one pass over the features: with `P = Uᵀ U`, weight `j` costs `w_j² / U_jj²`, and those after it take over what it
/// did by `w_k ← w_k − w_j / U_jj · U_jk`.
fn sweep(
    kernel: Kernel,
    sparsity: Sparsity,
    before: &[f32],
    inverse: DMatrix<f64>,
    mut solution: DMatrix<f64>,
    workers: usize,
) -> Option<DMatrix<f64>> {
    let Sparsity { pattern, .. } = sparsity;
    let (row, unit, features) = (kernel.row(), kernel.unit(pattern), inverse.nrows());
    // Column j of L is row j of U.
    let factor = Cholesky::new(inverse)?.unpack();
    let groups = kernel.groups(pattern);
    let whole = kernel.taps * if let Pattern::OfEach { of, .. } = pattern { usize::from(of) } else { 1 };
    let step = COMPARED.next_multiple_of(whole);
    for first in (0..row).step_by(step) {
        let here = first..row.min(first + step);
        let cost = |output: usize, feature: usize| {
            if before[output * row + feature] == 0.0 {
                return -1.0;
            }
            let ratio = solution[(feature, output)] / factor[(feature, feature)];
            (ratio * ratio) as f32
        };
        // Whether each feature of each output goes.
        let mut goes = vec![false; kernel.outputs * here.len()];
        if groups.is_empty() {
            let units =
                || (0..kernel.outputs).flat_map(|output| here.clone().step_by(unit).map(move |start| (output, start)));
            let costs: Vec<f32> =
                units().map(|(output, start)| (start..start + unit).map(|at| cost(output, at)).sum()).collect();
            let zeros = costs.iter().filter(|cost| **cost < 0.0).count();
            let gone = cheapest(&costs, sparsity.removed(costs.len()).max(zeros));
            goes.chunks_mut(unit).zip(gone).for_each(|(unit, goes)| unit.fill(goes));
        }
        for group in groups.iter().filter(|group| here.contains(&group.members[0])) {
            for output in 0..kernel.outputs {
                let costs: Vec<f32> = group.members.iter().map(|&member| cost(output, member)).collect();
                let zeros = costs.iter().filter(|cost| **cost < 0.0).count();
                for (&member, gone) in group.members.iter().zip(cheapest(&costs, group.goes.max(zeros))) {
                    goes[output * here.len() + member - first] = gone;
                }
            }
        }
        let outputs = solution.as_mut_slice().chunks_mut(features).zip(goes.chunks(here.len()));
        share(&mut vec![(); workers], outputs, |(weights, goes), ()| {
            for feature in here.clone().zip(goes).filter(|(_, goes)| **goes).map(|(feature, _)| feature) {
                let share = weights[feature] / factor[(feature, feature)];
                let after = &factor.as_slice()[feature * features..][feature..features];
                weights[feature..].iter_mut().zip(after).for_each(|(weight, factor)| *weight -= share * factor);
                weights[feature] = 0.0;
            }
        });
    }
    Some(solution)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that panics fails")]
mod tests {
    use super::*;
    use crate::stream::{Purpose, Stream};

    const KERNEL: Kernel = Kernel { outputs: 5, inputs: 8, taps: 3 };

    type Cut = fn(Kernel, Sparsity, &[f32], DMatrix<f64>, DMatrix<f64>, usize) -> Option<DMatrix<f64>>;

    /// A regression of correlated features: its Gram matrix and cross products.
    fn regression() -> (DMatrix<f64>, DMatrix<f64>) {
        let features = KERNEL.row() + 1;
        let mut values =
            Stream::new(1, Purpose::Solve, 0).gaussian(features * features + features * KERNEL.outputs).into_iter();
        let mut next = || f64::from(values.next().unwrap());
        let mixed = DMatrix::from_fn(features, features, |_, _| next());
        let gram = &mixed * mixed.transpose() + DMatrix::identity(features, features);
        let cross = &gram * DMatrix::from_fn(features, KERNEL.outputs, |_, _| next());
        (gram, cross)
    }

    /// `wᵀGw − 2wᵀc` of an output.
    fn error(gram: &DMatrix<f64>, cross: &[f64], weights: &[f64]) -> f64 {
        let weights = DMatrix::from_column_slice(weights.len(), 1, weights);
        (weights.transpose() * gram * &weights)[0] - 2.0 * weights.iter().zip(cross).map(|(w, c)| w * c).sum::<f64>()
    }

    /// The least-squares weights of an output without some features.
    fn refitted(gram: &DMatrix<f64>, cross: &[f64], kept: &[usize]) -> Vec<f64> {
        let of_kept = DMatrix::from_fn(kept.len(), 1, |row, _| cross[kept[row]]);
        let fitted = Cholesky::new(gram.select_rows(kept).select_columns(kept)).unwrap().solve(&of_kept);
        let mut weights = vec![0.0; cross.len()];
        kept.iter().zip(fitted.iter()).for_each(|(&feature, &weight)| weights[feature] = weight);
        weights
    }

    fn kept(weights: &[f64]) -> Vec<usize> {
        (0..weights.len()).filter(|&feature| weights[feature] != 0.0).collect()
    }

    fn cut(sparsity: Sparsity, by: Cut) -> DMatrix<f64> {
        let (gram, cross) = regression();
        let factor = Cholesky::new(gram).unwrap();
        by(KERNEL, sparsity, &[1.0; 5 * 24], factor.inverse(), factor.solve(&cross), 2).unwrap()
    }

    #[test]
    fn what_is_left_is_the_solution_without_the_rest() {
        let (gram, cross) = regression();
        for sparsity in
            [Sparsity::new(0.5, Pattern::Weights), Sparsity::new(0.25, Pattern::Kernels), Sparsity::of_each(2, 4)]
        {
            let solution = cut(sparsity.unwrap(), surgeon);
            for (weights, cross) in solution.as_slice().chunks(gram.nrows()).zip(cross.as_slice().chunks(gram.nrows()))
            {
                let expected = refitted(&gram, cross, &kept(weights));
                let distance = weights.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(distance < 1e-8, "{sparsity:?}: {distance}");
            }
        }
    }

    #[test]
    fn the_first_weight_to_go_is_the_one_that_costs_least() {
        let (gram, cross) = regression();
        let features = gram.nrows();
        let all = (KERNEL.outputs * KERNEL.row()) as f32;
        let solution = cut(Sparsity::new(1.0 / all, Pattern::Weights).unwrap(), surgeon);
        let mut least = (f64::INFINITY, 0, 0);
        for (output, cross) in cross.as_slice().chunks(features).enumerate() {
            let whole = error(&gram, cross, &refitted(&gram, cross, &(0..features).collect::<Vec<_>>()));
            for gone in 0..KERNEL.row() {
                let without: Vec<usize> = (0..features).filter(|&feature| feature != gone).collect();
                let rise = error(&gram, cross, &refitted(&gram, cross, &without)) - whole;
                least = if rise < least.0 { (rise, output, gone) } else { least };
            }
        }
        let zeros: Vec<usize> = (0..solution.len()).filter(|&at| solution.as_slice()[at] == 0.0).collect();
        assert_eq!(zeros, [least.1 * features + least.2]);
    }

    #[test]
    fn patterns_hold_and_cost_less_than_the_smallest_weights() {
        let (gram, cross) = regression();
        let features = gram.nrows();
        let total = |solution: &DMatrix<f64>| -> f64 {
            let outputs = solution.as_slice().chunks(features).zip(cross.as_slice().chunks(features));
            outputs.map(|(weights, cross)| error(&gram, cross, weights)).sum()
        };
        let half = Sparsity::new(0.5, Pattern::Weights).unwrap();
        let dense = Cholesky::new(gram.clone()).unwrap().solve(&cross);
        let mut sizes: Vec<f64> = dense
            .row_iter()
            .take(KERNEL.row())
            .flat_map(|row| row.iter().map(|value| value.abs()).collect::<Vec<_>>())
            .collect();
        sizes.sort_by(f64::total_cmp);
        let median = sizes[sizes.len() / 2];
        let smallest = DMatrix::from_fn(features, KERNEL.outputs, |feature, output| {
            let value = dense[(feature, output)];
            if feature < KERNEL.row() && value.abs() < median { 0.0 } else { value }
        });
        let best = cut(half, surgeon);
        assert!(total(&best) < total(&smallest), "{} and {}", total(&best), total(&smallest));
        for by in [surgeon as Cut, sweep] {
            let solution = cut(half, by);
            let zeros = |solution: &DMatrix<f64>| solution.iter().filter(|value| **value == 0.0).count();
            assert_eq!(zeros(&solution), KERNEL.outputs * KERNEL.row() / 2);
            let thinned = cut(Sparsity::of_each(1, 4).unwrap(), by);
            for (weights, group) in thinned.as_slice().chunks(features).flat_map(|weights| {
                KERNEL.groups(Pattern::OfEach { kept: 1, of: 4 }).into_iter().map(move |group| (weights, group))
            }) {
                assert_eq!(group.members.iter().filter(|&&member| weights[member] != 0.0).count(), 1);
            }
            let kernels = cut(Sparsity::new(0.5, Pattern::Kernels).unwrap(), by);
            for weights in kernels.as_slice().chunks(features) {
                let whole = weights[..KERNEL.row()]
                    .chunks(KERNEL.taps)
                    .map(|taps| taps.iter().filter(|tap| **tap == 0.0).count());
                assert!(whole.into_iter().all(|zeros| zeros == 0 || zeros == KERNEL.taps));
            }
        }
    }

    #[test]
    fn of_independent_features_the_smallest_weights_of_all_outputs_go() {
        let features = KERNEL.row() + 1;
        let values = Stream::new(3, Purpose::Solve, 0).gaussian(features * KERNEL.outputs);
        // Outputs differ in size: what each has lost so far does not say which weight is cheapest next.
        let value =
            |feature: usize, output: usize| f64::from(values[output * features + feature]) * (output + 1) as f64;
        let solution = DMatrix::from_fn(features, KERNEL.outputs, value);
        let mut sizes: Vec<f64> = solution.rows(0, KERNEL.row()).iter().map(|weight| weight.abs()).collect();
        sizes.sort_by(f64::total_cmp);
        let least = sizes[sizes.len() / 2];
        let half = Sparsity::new(0.5, Pattern::Weights).unwrap();
        let cut = surgeon(KERNEL, half, &[1.0; 5 * 24], DMatrix::identity(features, features), solution.clone(), 2);
        let expected = DMatrix::from_fn(features, KERNEL.outputs, |feature, output| {
            let weight = solution[(feature, output)];
            if feature < KERNEL.row() && weight.abs() < least { 0.0 } else { weight }
        });
        assert_eq!(cut.unwrap(), expected);
    }

    #[test]
    fn zeros_stay_and_count() {
        let before: Vec<f32> = (0..5 * 24).map(|at| if at % 3 == 0 { 0.0 } else { 1.0 }).collect();
        let (gram, cross) = regression();
        let factor = Cholesky::new(gram).unwrap();
        for by in [surgeon as Cut, sweep] {
            for (sparsity, least) in [
                (Sparsity::new(0.5, Pattern::Weights), 60),
                (Sparsity::new(0.1, Pattern::Weights), 40),
                (Sparsity::of_each(1, 2), 60),
            ] {
                let cut = by(KERNEL, sparsity.unwrap(), &before, factor.inverse(), factor.solve(&cross), 2).unwrap();
                let weights = cut.as_slice().chunks(25).flat_map(|output| &output[..24]);
                let zeros: Vec<bool> = weights.map(|weight| *weight == 0.0).collect();
                assert!(before.iter().zip(&zeros).all(|(before, zero)| *before != 0.0 || *zero));
                assert!(zeros.iter().filter(|zero| **zero).count() >= least);
            }
        }
    }
}
