//! Which share of its weights each convolution should lose, so that the network suffers least.
//!
//! Each convolution alone is cut at a few shares, on the teacher's own activations, and the error that this makes in the network's
//! output is measured on noise that took no part. Errors of several layers are taken to add up as squares, which they nearly do
//! while they are small. Of all shares that remove so many weights in total, those with the least sum lie where one more weight
//! costs the same in every layer.

use std::path::Path;

use anyhow::{Result, ensure};
use distill_core::{Pattern, Recipe, Settings, Sparsity, Width, prunable};
use distill_device::Progress;
use serde::Serialize;

use super::{
    output_errors::OutputErrors,
    students::{independent_students, noise_of},
};
use crate::network::Network;

/// Shares at which each layer is tried.
const TRIED: [f32; 7] = [0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98];
/// Shares between two of these are told apart by this much.
const STEP: f64 = 0.01;

/// A convolution, and what is to be removed of it.
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// The name of its kernel.
    pub name: String,
    /// Weights of its kernel.
    pub weights: usize,
    /// Share of them to remove.
    pub share: f64,
    /// `‖S(x) − T(x)‖ / ‖T(x)‖` of the network's outputs if only this layer lost that share, between the measured ones.
    pub output_error: f64,
    /// Position of its block in the network.
    #[serde(skip)]
    position: usize,
    /// Errors at the shares that were tried.
    #[serde(skip)]
    tried: Vec<(f64, f64)>,
}

/// The object `allocate --json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Allocation {
    /// The convolutions, in the network's order.
    pub layers: Vec<Layer>,
    /// Share of all their weights that goes.
    pub sparsity: f64,
}

/// Chooses the shares with which `sparsity` of all weights go.
///
/// # Errors
/// A teacher without calibrated noise or without a convolution that can be cut; a share or a pattern that cannot be allocated.
pub fn allocate(teacher: &Path, sparsity: Sparsity, images: usize, seed: u64) -> Result<Allocation> {
    ensure!(
        !matches!(sparsity.pattern, Pattern::OfEach { .. }),
        "a pattern such as 2:4 is the same in every layer: give it to `distill run`"
    );
    let most = TRIED[TRIED.len() - 1];
    ensure!(sparsity.share() > 0.0, "a sparsity of 0 removes nothing");
    ensure!(sparsity.share() <= most, "no layer loses more than {most} of its weights: take a lower --sparsity");
    let network = Network::read_pack(teacher)?;
    let noise = noise_of(teacher)?;
    let mut layers = layers(&network)?;
    ensure!(!layers.is_empty(), "the network has no convolution that weights are removed from");
    let errors = OutputErrors::new(&network, &noise)?;
    // The nth layer of every block is cut in one run: each block sees the teacher's activations.
    let most_of_a_block = (0..network.blocks.len()).map(|position| of_block(&layers, position).count()).max();
    let turns = most_of_a_block.unwrap_or(0);
    let mut done = 0;
    let mut progress = Progress::new("measuring", Some((turns * TRIED.len()) as u64), "{pos}/{len} cuts (ETA {eta})")?;
    for turn in 0..turns {
        let places: Vec<usize> =
            (0..network.blocks.len()).filter_map(|position| of_block(&layers, position).nth(turn)).collect();
        for share in TRIED {
            let dense = layers.iter().enumerate().filter(|(place, _)| !places.contains(place));
            let dense = dense.map(|(_, layer)| (layer.name.clone(), 0.0)).collect();
            let recipe = Recipe {
                images,
                projections: 0,
                sparsity: Some(Sparsity::new(share, sparsity.pattern)?),
                sparsities: dense,
                ..Settings::calibrated(Width::FULL, 0).recipe
            };
            let settings = Settings { recipe, seed, ..Settings::new(Width::FULL, 0) };
            let students = independent_students(teacher, &settings, || {})?;
            let students = students.iter().filter(|(at, _)| places.iter().any(|&place| layers[place].position == *at));
            for (&place, error) in places.iter().zip(errors.of(students)?) {
                layers[place].tried.push((share.into(), error));
            }
            done += 1;
            progress.set(done);
        }
    }
    let curves: Vec<Curve> = layers.iter().map(Curve::new).collect();
    let shares = cheapest(&curves, sparsity.share().into());
    for ((layer, curve), share) in layers.iter_mut().zip(&curves).zip(shares) {
        (layer.share, layer.output_error) = (share, curve.error(share).sqrt());
    }
    let total = |of: fn(&Layer) -> f64| layers.iter().map(of).sum::<f64>();
    let sparsity = total(|layer| layer.share * layer.weights as f64) / total(|layer| layer.weights as f64);
    Ok(Allocation { layers, sparsity })
}

/// The convolutions of the neighbourhoods, in order.
fn layers(network: &Network) -> Result<Vec<Layer>> {
    let mut layers = Vec::new();
    for (position, block) in network.folded()?.neighbourhoods() {
        for kernel in prunable(block).filter_map(|node| block.weight(node, 0)) {
            let (name, weights) = (kernel.name.clone(), kernel.data.len());
            layers.push(Layer { name, weights, share: 0.0, output_error: 0.0, position, tried: Vec::new() });
        }
    }
    Ok(layers)
}

/// The places of a block's layers.
fn of_block(layers: &[Layer], position: usize) -> impl Iterator<Item = usize> {
    layers.iter().enumerate().filter(move |(_, layer)| layer.position == position).map(|(place, _)| place)
}

/// The squared error of the output over the share that a layer loses.
struct Curve {
    weights: f64,
    /// Measured points, from none removed.
    points: Vec<(f64, f64)>,
}

impl Curve {
    fn new(layer: &Layer) -> Self {
        // More zeros cannot be better; where they seem so, that is chance.
        let mut most = 0.0_f64;
        let rising = layer.tried.iter().map(|&(share, error)| {
            most = most.max(error);
            (share, most)
        });
        Self { weights: layer.weights as f64, points: [(0.0, 0.0)].into_iter().chain(rising).collect() }
    }

    /// Between two points the logarithm is linear; before the first that is not zero the error itself.
    fn error(&self, share: f64) -> f64 {
        let next = self.points.iter().position(|point| point.0 >= share).unwrap_or(self.points.len() - 1).max(1);
        let [(left, low), (right, high)] = [self.points[next - 1], self.points[next]];
        let part = (share - left) / (right - left);
        if low > 0.0 { low * (high / low).powf(part) } else { high * part }
    }

    /// The stretches of its lower convex hull: how much the share grows, and what a weight costs there.
    fn stretches(&self) -> Vec<Stretch> {
        let (last, _) = self.points[self.points.len() - 1];
        let fine = (0..=(last / STEP).round() as usize).map(|step| step as f64 * STEP);
        let mut hull: Vec<(f64, f64)> = Vec::new();
        for point in fine.map(|share| (share, self.error(share))) {
            let slope = |a: (f64, f64), b: (f64, f64)| (b.1 - a.1) / (b.0 - a.0);
            while let [.., before, corner] = hull[..]
                && slope(before, corner) >= slope(corner, point)
            {
                hull.pop();
            }
            hull.push(point);
        }
        let stretch = |ends: &[(f64, f64)]| Stretch {
            share: ends[1].0 - ends[0].0,
            cost: (ends[1].1 - ends[0].1) / ((ends[1].0 - ends[0].0) * self.weights),
        };
        hull.windows(2).map(stretch).collect()
    }
}

struct Stretch {
    share: f64,
    cost: f64,
}

/// The shares with the least sum of errors that remove a share of all weights: the cheapest stretches of all layers go first.
fn cheapest(curves: &[Curve], share: f64) -> Vec<f64> {
    let mut left = share * curves.iter().map(|curve| curve.weights).sum::<f64>();
    let of_layer = |(layer, curve): (usize, &Curve)| curve.stretches().into_iter().map(move |stretch| (layer, stretch));
    let mut stretches: Vec<(usize, Stretch)> = curves.iter().enumerate().flat_map(of_layer).collect();
    // A stable sort: of one layer, an earlier stretch is never dearer.
    stretches.sort_by(|(_, a), (_, b)| a.cost.total_cmp(&b.cost));
    let mut shares = vec![0.0; curves.len()];
    for (layer, stretch) in stretches {
        let weights = curves[layer].weights;
        let taken = (stretch.share * weights).min(left);
        shares[layer] += taken / weights;
        left -= taken;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(weights: f64, errors: [f64; 3]) -> Curve {
        Curve { weights, points: [(0.0, 0.0), (0.5, errors[0]), (0.8, errors[1]), (0.95, errors[2])].to_vec() }
    }

    #[test]
    fn no_other_shares_of_the_same_total_cost_less() {
        let curves = [curve(100.0, [0.01, 0.05, 0.4]), curve(400.0, [0.001, 0.01, 0.2]), curve(200.0, [0.1, 0.3, 0.5])];
        let total =
            |shares: &[f64]| shares.iter().zip(&curves).map(|(share, curve)| share * curve.weights).sum::<f64>();
        let cost = |shares: &[f64]| shares.iter().zip(&curves).map(|(share, curve)| curve.error(*share)).sum::<f64>();
        for wanted in [0.3, 0.6, 0.8, 0.94] {
            let best = cheapest(&curves, wanted);
            assert!((total(&best) - wanted * 700.0).abs() < 1e-6);
            for first in 0..=95 {
                for second in 0..=95 {
                    let [first, second] = [first, second].map(|percent| f64::from(percent) / 100.0);
                    let third = (wanted * 700.0 - 100.0 * first - 400.0 * second) / 200.0;
                    if (0.0..=0.95).contains(&third) {
                        // A stretch may end between two steps.
                        assert!(cost(&best) <= cost(&[first, second, third]) + 2e-3, "{wanted}: {best:?}");
                    }
                }
            }
        }
    }
}
