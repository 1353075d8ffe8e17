//! How small a student is to be, and the widths that make it so.

use anyhow::{Result, bail};
use distill_core::{Recipe, Settings, Width};

use crate::{network::Network, search::Amount};

/// Widths are multiples of one over this.
const STEPS: u32 = 1000;

/// How small a student is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Share of the inner channels that each block keeps.
    Width(Width),
    /// Most parameters.
    Parameters(Amount),
    /// Most multiply-accumulates for an image.
    Macs(Amount),
}

/// The widths of a student.
#[derive(Clone, Debug, PartialEq)]
pub struct Widths {
    /// Of every block,
    pub all: Width,
    /// except these.
    pub some: Vec<(String, Width)>,
}

impl Widths {
    /// The settings of a student of these widths.
    pub fn apply(&self, settings: Settings, round_to: usize) -> Settings {
        let recipe = Recipe { width: self.all, round_to, ..settings.recipe };
        Settings { recipe, widths: self.some.clone(), ..settings }
    }
}

impl Target {
    /// The widths of the largest student that meets the target: the same for every block, but for the first ones, which are
    /// a step wider as far as that fits. By shapes alone: nothing is distilled.
    ///
    /// # Errors
    /// No width does.
    pub fn widths(self, network: &Network, round_to: usize) -> Result<Widths> {
        let (amount, size, what): (_, fn(&Network) -> u64, _) = match self {
            Self::Width(all) => return Ok(Widths { all, some: Vec::new() }),
            Self::Parameters(amount) => (amount, |network| network.parameters() as u64, "parameters"),
            Self::Macs(amount) => (amount, Network::macs, "multiply-accumulates"),
        };
        let teacher = size(&network.folded()?);
        let most = amount.of(teacher);
        if most >= teacher {
            bail!("the teacher has {teacher} {what}: to make it smaller, ask for fewer than that, not {amount}");
        }
        let of = |widths: &Widths| -> Result<u64> {
            // As it is written in the end.
            Ok(size(&network.student(&widths.apply(Settings::new(widths.all, 0), round_to))?.folded()?))
        };
        let uniform = |step: u32| -> Result<Widths> {
            Ok(Widths { all: Width::new(step as f32 / STEPS as f32)?, some: Vec::new() })
        };
        let (mut low, mut high) = (1, STEPS + 1);
        let least = of(&uniform(low)?)?;
        if least > most {
            bail!(
                "no width gives a student of at most {most} {what} ({amount}): the smallest has {least}, because the blocks' \
                 inputs and outputs, the stem and the head stay as they are"
            );
        }
        // A student grows with its width: the largest that fits lies between the two.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if of(&uniform(middle)?)? <= most { low = middle } else { high = middle }
        }
        let mut widths = uniform(low)?;
        if high <= STEPS {
            let wider = uniform(high)?.all;
            for (_, block) in network.neighbourhoods() {
                widths.some.push((block.name().to_owned(), wider));
                if of(&widths)? > most {
                    widths.some.pop();
                }
            }
        }
        Ok(widths)
    }
}
