//! Selects the hidden channels of a student by their worth to the convolution that reads them.
//!
//! Removing features `S` from a ridge regression with inverse Gram matrix `P` and solution `W` raises its residual by
//! `tr(W_Sᵀ (P_SS)⁻¹ W_S)`; then `P ← P − P_:S (P_SS)⁻¹ P_S:` and `W ← W − P_:S (P_SS)⁻¹ W_S`. Backward elimination
//! removes the cheapest channel, one at a time. On noise that is unlike data, selection by norm is better.

use alloc::vec::Vec;

use nalgebra::{Cholesky, DMatrix};

use crate::student::ChannelClasses;

/// Selects again among the classes of `value`'s channels: as many per group as `keeps` keeps, but those whose removal
/// costs most. The rows of `inverse` and `solution` are the features of the value's channels, channel by channel, then
/// the bias. Returns `None` if a factor is not positive definite (too few inputs), no cost is finite, or no class is left to
/// remove.
pub fn eliminate(
    classes: &ChannelClasses,
    value: usize,
    keeps: &[bool],
    (mut inverse, mut solution): (DMatrix<f64>, DMatrix<f64>),
) -> Option<Vec<bool>> {
    let channels = classes.of_value(value);
    let area = (inverse.nrows() - 1) / channels.len();
    // Classes that may be removed, and the number to remove per group.
    let (mut candidates, mut quotas) = (Vec::<Candidate>::new(), Vec::<(usize, usize)>::new());
    let mut chosen = keeps.to_vec();
    for (channel, &class) in channels.iter().enumerate() {
        let Some(group) = classes.group(class) else { continue };
        let features = channel * area..(channel + 1) * area;
        match candidates.iter_mut().find(|candidate| candidate.class == class) {
            Some(candidate) => candidate.features.extend(features),
            None => {
                candidates.push(Candidate { class, group, features: features.collect() });
                let goes = usize::from(!keeps[class]);
                match quotas.iter_mut().find(|(other, _)| *other == group) {
                    Some((_, quota)) => *quota += goes,
                    None => quotas.push((group, goes)),
                }
                chosen[class] = true;
            }
        }
    }
    while quotas.iter().any(|&(_, left)| left > 0) {
        let may_go = |&Candidate { class, group, .. }: &Candidate| {
            quotas.iter().any(|&(other, left)| other == group && left > 0) && !classes.is_last(class, &chosen)
        };
        let costs = candidates.iter().enumerate().filter(|(_, candidate)| may_go(candidate));
        let costs = costs.filter_map(|(index, candidate)| Some((index, candidate.cost(&inverse, &solution)?)));
        let costs = costs.filter(|(_, cost)| cost.is_finite());
        let (cheapest, _) = costs.min_by(|(_, a), (_, b)| a.total_cmp(b))?;
        let Candidate { class, group, features } = candidates.swap_remove(cheapest);
        chosen[class] = false;
        quotas.iter_mut().filter(|(other, _)| *other == group).for_each(|(_, left)| *left -= 1);
        let block = block(&inverse, &features)?;
        let columns = inverse.select_columns(&features);
        let (of_inverse, of_solution) =
            (block.solve(&columns.transpose()), block.solve(&solution.select_rows(&features)));
        inverse.gemm(-1.0, &columns, &of_inverse, 1.0);
        solution.gemm(-1.0, &columns, &of_solution, 1.0);
    }
    Some(chosen)
}

struct Candidate {
    class: usize,
    group: usize,
    features: Vec<usize>,
}

impl Candidate {
    /// The increase of the residual without it.
    fn cost(&self, inverse: &DMatrix<f64>, solution: &DMatrix<f64>) -> Option<f64> {
        let weights = solution.select_rows(&self.features);
        Some(block(inverse, &self.features)?.solve(&weights).dot(&weights))
    }
}

/// The Cholesky factor of `P_SS`.
fn block(inverse: &DMatrix<f64>, features: &[usize]) -> Option<Cholesky<f64, nalgebra::Dyn>> {
    Cholesky::new(inverse.select_columns(features).select_rows(features))
}
