//! What a report holds, and its table as people read it.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;
use distill_device::write_file;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plot::{Curve, plot};
use crate::learn::Preset;

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Standard noise, gradient steps alone: the paper's recipe.
    Standard,
    /// Propagated noise, solve, gradient steps.
    Propagated,
    /// Calibrated noise, solve alone.
    Solved,
    /// Calibrated noise, solve, gradient steps.
    Distilled,
    /// And the whole network fine-tuned on it.
    FineTuned,
    /// Knowledge distillation on noise images.
    GnKd,
    /// Zero-shot knowledge distillation.
    Zskd,
}

impl Method {
    pub(super) const ALL: [Self; 7] =
        [Self::Standard, Self::Propagated, Self::Solved, Self::Distilled, Self::FineTuned, Self::GnKd, Self::Zskd];

    /// Whether it is somebody else's.
    pub(super) fn is_baseline(self) -> bool {
        matches!(self, Self::GnKd | Self::Zskd)
    }

    /// What it is called in the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Standard => "standard noise, steps",
            Self::Propagated => "propagated, solve + steps",
            Self::Solved => "calibrated, solve only",
            Self::Distilled => "calibrated, solve + steps",
            Self::FineTuned => "the same, fine-tuned",
            Self::GnKd => "GN-KD",
            Self::Zskd => "ZSKD",
        }
    }
}

/// One student.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// How it was made.
    pub method: Method,
    /// Bottleneck multiplier.
    pub width: f32,
    /// Seed.
    pub seed: u64,
    /// Percent of the test images.
    pub accuracy: f64,
    /// Mean relative error of its blocks on calibrated noise; a student that learned end to end has none.
    pub interface_error: Option<f64>,
    /// Trained scalars.
    pub parameters: usize,
    /// Wall time to make it from what it begins with: the teacher's pack, or the student it fine-tunes.
    pub seconds: f64,
}

/// The noise images of one seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Calibrated {
    /// Seed.
    pub seed: u64,
    /// How many.
    pub images: usize,
    /// What is left of the mismatch.
    pub mismatch: f32,
    /// Wall time; none if some had been made before.
    pub seconds: Option<f64>,
}

/// Everything the report knows: `data-free.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataFree {
    /// The command that makes it.
    pub command: String,
    /// File the teacher came from.
    pub source: String,
    /// Fingerprint of the teacher's pack.
    pub teacher: u32,
    /// Percent of the test images that the teacher has right.
    pub teacher_accuracy: f64,
    /// The teacher's trained scalars.
    pub teacher_parameters: usize,
    /// Test images.
    pub images: usize,
    /// Checksum of the labels of the data set.
    pub labels: u32,
    /// Share of the usual work.
    pub effort: f32,
    /// Version and settings of every method, for seed 0 and width 1.
    pub recipes: Value,
    /// How much work went into the baselines.
    pub baselines: Option<Preset>,
    /// Calibrated noise, by seed.
    pub noise: Vec<Calibrated>,
    /// Students, in the order they were made.
    pub cells: Vec<Cell>,
}

/// The paper's table 3b: k, CE (with data), G-ND, G-ND+FT, GN-KD, ZSKD.
const PAPER: [(f32, [f64; 5]); 4] = [
    (1.0, [91.60, 91.51, 91.51, 16.00, 21.50]),
    (0.9, [91.31, 88.78, 88.78, 12.97, 22.77]),
    (0.75, [90.89, 80.64, 83.74, 13.00, 21.54]),
    (0.5, [90.17, 53.40, 54.83, 12.74, 22.17]),
];

fn paper(k: f32) -> Option<[f64; 5]> {
    PAPER.iter().find(|(width, _)| *width == k).map(|&(_, row)| row)
}

/// Accuracies, interface errors and seconds of one method and width over the seeds.
struct Spread<'a>(Vec<&'a Cell>);

impl Spread<'_> {
    /// Mean, and the largest distance from it.
    fn of(&self, value: impl Fn(&Cell) -> Option<f64>) -> Option<(f64, f64)> {
        let values: Option<Vec<f64>> = self.0.iter().map(|cell| value(cell)).collect();
        let values = values.filter(|values| !values.is_empty())?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some((mean, values.iter().map(|value| (value - mean).abs()).fold(0.0, f64::max)))
    }
}

impl DataFree {
    /// Mean accuracy of each method at each width, largest first, and the paper's best without data.
    fn curves(&self) -> Vec<Curve> {
        let curve = |method: Method| -> Curve {
            let mean = |k: f32| Some((k, self.spread(method, k).of(|cell| Some(cell.accuracy))?.0));
            (method.title(), self.widths().into_iter().filter_map(mean).collect())
        };
        let paper = self.widths().into_iter().filter_map(|k| Some((k, paper(k)?[2]))).collect();
        Method::ALL.into_iter().map(curve).chain([("paper, G-ND+FT", paper)]).collect()
    }

    /// Widths of its students, largest first.
    pub(super) fn widths(&self) -> Vec<f32> {
        let mut widths: Vec<f32> = self.cells.iter().map(|cell| cell.width).collect();
        widths.sort_by(|a, b| b.total_cmp(a));
        widths.dedup();
        widths
    }

    fn spread(&self, method: Method, k: f32) -> Spread<'_> {
        Spread(self.cells.iter().filter(|cell| cell.method == method && cell.width == k).collect())
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        write_file(&folder.join("data-free.json"), &serde_json::to_vec_pretty(self)?)?;
        write_file(&folder.join("data-free.md"), self.markdown()?.as_bytes())?;
        write_file(&folder.join("data-free.svg"), plot(self.curves())?.as_bytes())
    }

    /// The table that a person reads.
    ///
    /// # Errors
    /// None in practice.
    pub fn markdown(&self) -> Result<String> {
        let mut text = String::new();
        writeln!(text, "# Distillation without data\n\nMade by `{}`.\n", self.command)?;
        writeln!(
            text,
            "Teacher `{}`: {:.2} % of {} test images, {} parameters. Mean ± the largest distance from it (number of seeds). *Error* is \
             the mean over the blocks of ‖S(a) − T(a)‖ / ‖T(a)‖ on calibrated noise that no student saw, with the teacher's own \
             activations as inputs; seconds are those of the column's last step alone.\n",
            self.source, self.teacher_accuracy, self.images, self.teacher_parameters
        )?;
        if self.effort != 1.0 {
            writeln!(text, "**{} of the usual work: a trial.**\n", self.effort)?;
        }
        text.push_str("![Accuracy over width](data-free.svg)\n\n");
        self.table(&mut text)?;
        text.push_str("\n## The paper, its own teacher (Shao et al. 2020, table 3b; CE sees the data)\n\n");
        text.push_str("| k | CE | G-ND | G-ND+FT | GN-KD | ZSKD |\n|---|---|---|---|---|---|\n");
        for (k, row) in PAPER {
            let row: Vec<String> = row.iter().map(|accuracy| format!("{accuracy:.2}")).collect();
            writeln!(text, "| {k} | {} |", row.join(" | "))?;
        }
        text.push_str("\n## Noise images\n\n| seed | images | mismatch left | seconds |\n|---|---|---|---|\n");
        for Calibrated { seed, images, mismatch, seconds } in &self.noise {
            let seconds = seconds.map_or("made before".to_owned(), |seconds| format!("{seconds:.0}"));
            writeln!(text, "| {seed} | {images} | {mismatch:.3} | {seconds} |")?;
        }
        Ok(text)
    }

    fn table(&self, text: &mut String) -> Result<()> {
        let made = |method: &Method| self.cells.iter().any(|cell| cell.method == *method);
        let methods: Vec<Method> = Method::ALL.into_iter().filter(made).collect();
        let titles: Vec<&str> = methods.iter().map(|method| method.title()).collect();
        writeln!(text, "| k | parameters | paper, G-ND | {} |", titles.join(" | "))?;
        writeln!(text, "|{}", "---|".repeat(3 + methods.len()))?;
        for k in self.widths() {
            let parameters = self.cells.iter().find(|cell| cell.width == k);
            write!(text, "| {k} | {} |", parameters.map_or(0, |cell| cell.parameters))?;
            text.push_str(&paper(k).map_or_else(|| " |".to_owned(), |row| format!(" {:.2} |", row[1])));
            for &method in &methods {
                let spread = self.spread(method, k);
                let Some((accuracy, most)) = spread.of(|cell| Some(cell.accuracy)) else {
                    text.push_str(" |");
                    continue;
                };
                write!(text, " {accuracy:.2} ± {most:.2} ({})", spread.0.len())?;
                if let Some((error, _)) = spread.of(|cell| cell.interface_error) {
                    write!(text, ", error {error:.3}")?;
                }
                let seconds = spread.of(|cell| Some(cell.seconds)).map_or(0.0, |(mean, _)| mean);
                write!(text, ", {seconds:.0} s |")?;
            }
            text.push('\n');
        }
        Ok(())
    }
}
