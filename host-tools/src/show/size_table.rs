//! How large and how fast the students of a network would be, block by block, without distilling them.

use anyhow::{Result, ensure};
use distill_core::{Block, Role, Settings, Unchanged, fold_batch_norms};
use distill_device::UnchangedBlocks;
use serde::Serialize;

use super::table;
use crate::{measure::block_milliseconds, network::Network};

/// The object `student` of `inspect --width --json`.
#[derive(Debug, Serialize)]
pub struct SizeTable {
    /// The network as it is.
    pub teacher: Size,
    /// With the students of its blocks.
    pub student: Size,
    /// Its blocks, in order.
    pub blocks: Vec<SizeLine>,
}

/// What a network or a block costs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Size {
    /// Trained scalars.
    pub parameters: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Bytes of its weights as an exported network stores them: four per value, batch norms folded.
    pub bytes: u64,
    /// Milliseconds for one image, measured as [`milliseconds`](crate::measure::milliseconds) does.
    pub milliseconds: f64,
}

/// A block and its student.
#[derive(Debug, Serialize)]
pub struct SizeLine {
    /// Number among the neighbourhoods; `None` for stem and head.
    pub index: Option<usize>,
    /// Its name.
    pub name: String,
    /// The block itself.
    pub teacher: Size,
    /// Its student.
    pub student: Size,
    /// Why the student is the teacher's block; `None` if it is not, or if the block is not distilled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unchanged: Option<Unchanged>,
}

impl SizeTable {
    /// Makes the untrained students that a run with these settings begins with, and measures them.
    ///
    /// # Errors
    /// Settings that name blocks which the network does not have.
    pub fn new(network: &Network, settings: &Settings) -> Result<Self> {
        let count = network.neighbourhoods().count();
        if let Some(missing) = settings.blocks.iter().find(|&&number| number >= count) {
            anyhow::bail!("there is no block {missing}: the network has {count}, from 0");
        }
        for (name, _) in &settings.widths {
            let known = network.neighbourhoods().any(|(_, block)| block.name() == name);
            ensure!(
                known,
                "a width is given for {name}, which is none of the network's blocks: `distill inspect` lists them"
            );
        }
        let student = network.student(settings)?;
        let sizes = [sizes(network)?, sizes(&student)?];
        let mut number = 0;
        let mut blocks = Vec::with_capacity(network.blocks.len());
        for (place, block) in network.blocks.iter().enumerate() {
            let index = (block.role() == Role::Neighbourhood).then_some(number);
            number += usize::from(index.is_some());
            let chosen = index.is_some_and(|index| settings.blocks.is_empty() || settings.blocks.contains(&index));
            let unchanged = match chosen {
                true => settings.recipe_of(block.name()).unchanged(&fold_batch_norms(block)?)?,
                false => None,
            };
            let [teacher, student] = [0, 1].map(|of| sizes[of][place]);
            // What does not change is as large and takes as long, whatever folded norms and a clock say.
            let student = if student.bytes == teacher.bytes { teacher } else { student };
            blocks.push(SizeLine { index, name: block.name().to_owned(), teacher, student, unchanged });
        }
        let sum = |size: fn(&SizeLine) -> Size| blocks.iter().map(size).fold(Size::default(), Size::plus);
        Ok(Self { teacher: sum(|line| line.teacher), student: sum(|line| line.student), blocks })
    }

    /// The table that a person reads.
    pub fn table(&self) -> String {
        let titles = ["#", "block", "parameters", "MACs", "KiB", "ms"];
        let row = |index: String, name: &str, [teacher, student]: [&Size; 2]| {
            let both = |size: fn(&Size) -> f64| {
                let [before, after] = [teacher, student].map(|of| short(size(of)));
                if before == after { before } else { format!("{before} -> {after}") }
            };
            [
                index,
                name.to_owned(),
                both(|size| size.parameters as f64),
                both(|size| size.macs as f64),
                both(|size| size.bytes as f64 / 1024.0),
                both(|size| size.milliseconds),
            ]
        };
        let index = |line: &SizeLine| line.index.map_or_else(String::new, |index| index.to_string());
        let rows = self.blocks.iter().map(|line| row(index(line), &line.name, [&line.teacher, &line.student]));
        let total = row(String::new(), "total", [&self.teacher, &self.student]);
        let table = table(titles, &[0, 2, 3, 4, 5], rows.chain([total]));
        let mut unchanged = UnchangedBlocks::default();
        self.blocks.iter().for_each(|line| line.unchanged.iter().for_each(|&reason| unchanged.add(reason, &line.name)));
        let lines: String = unchanged.lines().map(|line| format!("\n{line}")).collect();
        let share = 100.0 * self.student.parameters as f64 / self.teacher.parameters.max(1) as f64;
        format!("{table}\n{share:.1} % of the parameters; ms: for one image of 16 on one thread{lines}")
    }
}

impl Size {
    fn plus(self, other: Self) -> Self {
        Self {
            parameters: self.parameters + other.parameters,
            macs: self.macs + other.macs,
            bytes: self.bytes + other.bytes,
            milliseconds: self.milliseconds + other.milliseconds,
        }
    }
}

/// The sizes of a network's blocks.
fn sizes(network: &Network) -> Result<Vec<Size>> {
    let size = |(block, milliseconds): (&Block, f64)| {
        let values: usize = fold_batch_norms(block)?.weights().iter().map(|weight| weight.data.len()).sum();
        let bytes = (values * size_of::<f32>()) as u64;
        Ok(Size { parameters: block.parameters(), macs: block.macs(), bytes, milliseconds })
    };
    network.blocks.iter().zip(block_milliseconds(network)).map(size).collect()
}

/// A number of three digits, such as 1.23M.
fn short(number: f64) -> String {
    let (scaled, unit) = match number {
        _ if number >= 999.5e6 => (number / 1e9, "G"),
        _ if number >= 999.5e3 => (number / 1e6, "M"),
        _ if number >= 999.5 => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let decimals = match scaled {
        _ if scaled.fract() == 0.0 && unit.is_empty() => 0,
        _ if scaled >= 99.95 => 0,
        _ if scaled >= 9.995 => 1,
        _ => 2,
    };
    format!("{scaled:.decimals$}{unit}")
}
