//! The multiple-choice knapsack: one option for each place, the least sum of errors at a bounded sum of costs.

/// Parts into which the bound is divided; costs are rounded up to whole ones.
const UNITS: u64 = 20_000;

/// What a place may hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub cost: u64,
    pub error: f64,
}

/// The choice for each place with the least total error whose costs are at most `bound` in total; `None` if none are. The costs are
/// rounded up, so that a bound is a bound; an answer that uses it up to the last unit may be missed.
pub fn best(places: &[Vec<Choice>], bound: u64) -> Option<Vec<usize>> {
    let unit = bound.div_ceil(UNITS).max(1);
    let most = (bound / unit) as usize;
    let cost = |choice: &Choice| choice.cost.div_ceil(unit) as usize;
    // The least error of the places so far at each total cost, and the choice that makes it.
    let mut least = vec![f64::INFINITY; most + 1];
    least[0] = 0.0;
    let mut taken: Vec<Vec<u16>> = Vec::with_capacity(places.len());
    for place in places {
        let mut next = vec![f64::INFINITY; most + 1];
        let mut takes = vec![u16::MAX; most + 1];
        for (index, choice) in place.iter().enumerate() {
            let cost = cost(choice);
            for before in 0..(most + 1).saturating_sub(cost) {
                let error = least[before] + choice.error;
                if error < next[before + cost] {
                    (next[before + cost], takes[before + cost]) = (error, index as u16);
                }
            }
        }
        least = next;
        taken.push(takes);
    }
    let (mut at, error) = least.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1))?;
    if error.is_infinite() {
        return None;
    }
    let mut chosen = vec![0; places.len()];
    for (place, takes) in taken.iter().enumerate().rev() {
        chosen[place] = usize::from(takes[at]);
        at -= cost(&places[place][chosen[place]]);
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use distill_core::{Purpose, Stream};

    use super::*;

    fn total(places: &[Vec<Choice>], chosen: &[usize]) -> (u64, f64) {
        let choices = || places.iter().zip(chosen).map(|(place, &index)| place[index]);
        (choices().map(|choice| choice.cost).sum(), choices().map(|choice| choice.error).sum())
    }

    /// Every combination of three options in five places.
    fn all() -> impl Iterator<Item = Vec<usize>> {
        (0..243).map(|code| (0..5).map(|place| code / 3_usize.pow(place) % 3).collect())
    }

    #[test]
    fn no_other_choice_within_the_bound_is_better() {
        for seed in 0..50 {
            let mut values = Stream::new(seed, Purpose::Images, 0).gaussian(30).into_iter().map(|v| f64::from(v.abs()));
            let mut choice = || Some(Choice { cost: (100.0 * values.next()?) as u64, error: values.next()? });
            let places: Vec<Vec<Choice>> = (0..5).map(|_| (0..3).filter_map(|_| choice()).collect()).collect();
            for bound in [100, 200, 400, 1000] {
                let fitting = all().map(|chosen| total(&places, &chosen)).filter(|(cost, _)| *cost <= bound);
                let least = fitting.map(|(_, error)| error).min_by(f64::total_cmp);
                let found = best(&places, bound).map(|chosen| total(&places, &chosen));
                assert!(found.is_none_or(|(cost, _)| cost <= bound), "{seed}, {bound}");
                assert_eq!(found.map(|(_, error)| error), least, "{seed}, {bound}");
            }
        }
    }
}
