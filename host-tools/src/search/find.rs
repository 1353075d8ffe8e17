//! The best combination of candidates under a bound.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use distill_core::{Block, Role, SourceKind};
use serde::Serialize;

use super::{
    amount::Amount,
    candidates::{Candidate, Candidates},
    knapsack::{Choice, best},
    students::noise_of,
};
use crate::{
    measure::{Comparison, Sample, compare},
    network::Network,
};

/// What a student may have at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Parameters.
    Parameters(Amount),
    /// Multiply-accumulates for an image.
    Macs(Amount),
}

impl Bound {
    fn amount(self) -> Amount {
        match self {
            Self::Parameters(amount) | Self::Macs(amount) => amount,
        }
    }

    /// What a block has of it.
    fn of(self, block: &Block) -> u64 {
        match self {
            Self::Parameters(_) => block.parameters() as u64,
            Self::Macs(_) => block.macs(),
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Parameters(_) => "parameters",
            Self::Macs(_) => "multiply-accumulates",
        }
    }
}

/// What was found for a block.
#[derive(Clone, Debug, Serialize)]
pub struct FoundBlock {
    /// Its name.
    pub name: String,
    /// Share of the inner channels that it keeps; 1 is the teacher's block.
    pub width: f32,
    /// `‖S(x) − T(x)‖ / ‖T(x)‖` of the network's outputs with this block alone replaced.
    pub output_error: f64,
}

/// The object `search --json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The blocks, in the network's order.
    pub blocks: Vec<FoundBlock>,
    /// Parameters of the student.
    pub parameters: usize,
    /// Its multiply-accumulates for an image.
    pub macs: u64,
    /// Error of the output that the blocks' errors foretell: the root of the sum of their squares.
    pub foretold: f64,
    /// The student beside its teacher, on noise that nothing learned from.
    pub comparison: Comparison,
}

/// Finds the student with the least error under a bound, among all combinations of the candidates in a folder.
///
/// # Errors
/// As [`Candidates::measured`]; a bound that the teacher meets, or that no combination does.
pub fn search(folder: &Path, teacher: &Path, bound: Bound) -> Result<(Network, Found)> {
    let (network, blocks) = Candidates::open(folder, teacher)?.measured()?;
    let folded = network.folded()?;
    let all: u64 = folded.blocks.iter().map(|block| bound.of(block)).sum();
    let most = bound.amount().of(all);
    ensure!(
        most < all,
        "the teacher has {all} {}: to make it smaller, ask for fewer than that, not {}",
        bound.what(),
        bound.amount()
    );
    let choice = |candidate: &Candidate| Choice { cost: bound.of(&candidate.block), error: candidate.error };
    let places: Vec<Vec<Choice>> = blocks.iter().map(|place| place.candidates.iter().map(choice).collect()).collect();
    let what = bound.what();
    let others = folded.blocks.iter().filter(|block| block.role() != Role::Neighbourhood);
    let fixed: u64 = others.map(|block| bound.of(block)).sum();
    let least: u64 =
        fixed + places.iter().map(|place| place.iter().map(|choice| choice.cost).min().unwrap_or(0)).sum::<u64>();
    ensure!(
        least <= most,
        "no combination has at most {most} {what} ({}): the smallest has {least}; add smaller candidates \
         (`distill candidates --widths`)",
        bound.amount()
    );
    let Some(chosen) = best(&places, most - fixed) else {
        bail!("no combination has at most {most} {what}, but for rounding: allow a little more");
    };
    let mut student = folded;
    let mut found = Vec::new();
    for (place, &index) in blocks.iter().zip(&chosen) {
        let Candidate { width, block, error } = &place.candidates[index];
        found.push(FoundBlock { name: block.name().to_owned(), width: *width, output_error: error.sqrt() });
        student.blocks[place.position] = block.clone();
    }
    student.manifest.made_from = student.manifest.made_from.max(Some(SourceKind::Calibrated));
    let foretold = found.iter().map(|block| block.output_error.powi(2)).sum::<f64>().sqrt();
    let noise = noise_of(teacher)?;
    let comparison = compare(&network, &student, Sample::Calibrated(&noise))?;
    let (parameters, macs) = (student.parameters(), student.macs());
    Ok((student, Found { blocks: found, parameters, macs, foretold, comparison }))
}
