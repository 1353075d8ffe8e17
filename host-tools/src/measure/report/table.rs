//! The content of a report, and its table in Markdown.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;
use distill_core::SourceKind;
use distill_device::write_file;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plot::{Curve, plot};
use crate::learn::{Baseline, Preset};

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
    /// The same, then the whole network fine-tuned on that noise.
    FineTuned,
    /// Knowledge distillation on noise images.
    GnKd,
    /// Zero-shot knowledge distillation.
    Zskd,
}

impl Method {
    pub(super) const ALL: [Self; 7] =
        [Self::Standard, Self::Propagated, Self::Solved, Self::Distilled, Self::FineTuned, Self::GnKd, Self::Zskd];

    /// The baseline that it is, if any.
    pub(super) fn baseline(self) -> Option<Baseline> {
        match self {
            Self::GnKd => Some(Baseline::GnKd),
            Self::Zskd => Some(Baseline::Zskd),
            _ => None,
        }
    }

    /// What its neighbourhoods are distilled from.
    pub(super) fn source(self) -> SourceKind {
        match self {
            Self::Standard => SourceKind::Standard,
            Self::Propagated => SourceKind::Propagated,
            _ => SourceKind::Calibrated,
        }
    }

    /// Its name in the table.
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

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    pub method: Method,
    pub width: f32,
    pub seed: u64,
    /// Percent of the test images.
    pub accuracy: f64,
    /// Mean relative error of its blocks on calibrated noise; `None` for a student trained end to end.
    pub interface_error: Option<f64>,
    pub parameters: usize,
    /// Wall time of the method's last step: from the teacher pack, or from the student that is fine-tuned.
    pub seconds: f64,
}

/// The noise images of one seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Calibrated {
    pub seed: u64,
    pub images: usize,
    /// The remaining mismatch of the statistics; `None` for a teacher without them.
    pub mismatch: Option<f32>,
    /// Wall time; `None` if some were made by an earlier run.
    pub seconds: Option<f64>,
}

/// The content of `data-free.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataFree {
    /// The command that makes the report.
    pub command: String,
    /// File that the teacher was imported from.
    pub source: String,
    /// Fingerprint of the teacher's pack.
    pub teacher: String,
    /// Percent of the test images that the teacher classifies correctly.
    pub teacher_accuracy: f64,
    /// The teacher's trained scalars.
    pub teacher_parameters: usize,
    /// Number of test images.
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
    /// Students, in the order in which they were made.
    pub cells: Vec<Cell>,
}

/// A row of the paper's table 3b: accuracies in percent, `ce` with data.
struct PaperRow {
    k: f32,
    ce: f64,
    g_nd: f64,
    g_nd_ft: f64,
    gn_kd: f64,
    zskd: f64,
}

const PAPER: [PaperRow; 4] = [
    PaperRow { k: 1.0, ce: 91.60, g_nd: 91.51, g_nd_ft: 91.51, gn_kd: 16.00, zskd: 21.50 },
    PaperRow { k: 0.9, ce: 91.31, g_nd: 88.78, g_nd_ft: 88.78, gn_kd: 12.97, zskd: 22.77 },
    PaperRow { k: 0.75, ce: 90.89, g_nd: 80.64, g_nd_ft: 83.74, gn_kd: 13.00, zskd: 21.54 },
    PaperRow { k: 0.5, ce: 90.17, g_nd: 53.40, g_nd_ft: 54.83, gn_kd: 12.74, zskd: 22.17 },
];

fn paper(k: f32) -> Option<&'static PaperRow> {
    PAPER.iter().find(|row| row.k == k)
}

fn mean(cells: &[&Cell], value: impl Fn(&Cell) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = cells.iter().map(|cell| value(cell)).collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

impl DataFree {
    /// Mean accuracy of each method at each width, largest first, and the paper's best without data.
    fn curves(&self) -> Vec<Curve> {
        let curve = |method: Method| {
            let point = |k: f32| Some((k, mean(&self.seeds(method, k), |cell| Some(cell.accuracy))?));
            Curve { title: method.title(), points: self.widths().into_iter().filter_map(point).collect() }
        };
        let paper = self.widths().into_iter().filter_map(|k| Some((k, paper(k)?.g_nd_ft))).collect();
        Method::ALL.into_iter().map(curve).chain([Curve { title: "paper, G-ND+FT", points: paper }]).collect()
    }

    /// Widths of the students, largest first.
    pub(super) fn widths(&self) -> Vec<f32> {
        let mut widths: Vec<f32> = self.cells.iter().map(|cell| cell.width).collect();
        widths.sort_by(|a, b| b.total_cmp(a));
        widths.dedup();
        widths
    }

    /// The students of a method and width, one for each seed.
    fn seeds(&self, method: Method, k: f32) -> Vec<&Cell> {
        self.cells.iter().filter(|cell| cell.method == method && cell.width == k).collect()
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        write_file(&folder.join("data-free.json"), &serde_json::to_vec_pretty(self)?)?;
        write_file(&folder.join("data-free.md"), self.markdown()?.as_bytes())?;
        write_file(&folder.join("data-free.svg"), plot(self.curves())?.as_bytes())
    }

    /// The report in Markdown.
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
        for PaperRow { k, ce, g_nd, g_nd_ft, gn_kd, zskd } in PAPER {
            writeln!(text, "| {k} | {ce:.2} | {g_nd:.2} | {g_nd_ft:.2} | {gn_kd:.2} | {zskd:.2} |")?;
        }
        text.push_str("\n## Noise images\n\n| seed | images | mismatch left | seconds |\n|---|---|---|---|\n");
        for Calibrated { seed, images, mismatch, seconds } in &self.noise {
            let seconds = seconds.map_or("made before".to_owned(), |seconds| format!("{seconds:.0}"));
            let mismatch = mismatch.map_or("none to match".to_owned(), |mismatch| format!("{mismatch:.3}"));
            writeln!(text, "| {seed} | {images} | {mismatch} | {seconds} |")?;
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
            text.push_str(&paper(k).map_or_else(|| " |".to_owned(), |row| format!(" {:.2} |", row.g_nd)));
            for &method in &methods {
                let seeds = self.seeds(method, k);
                let Some(accuracy) = mean(&seeds, |cell| Some(cell.accuracy)) else {
                    text.push_str(" |");
                    continue;
                };
                let distance = seeds.iter().map(|cell| (cell.accuracy - accuracy).abs()).fold(0.0, f64::max);
                write!(text, " {accuracy:.2} ± {distance:.2} ({})", seeds.len())?;
                if let Some(error) = mean(&seeds, |cell| cell.interface_error) {
                    write!(text, ", error {error:.3}")?;
                }
                let seconds = mean(&seeds, |cell| Some(cell.seconds)).unwrap_or(0.0);
                write!(text, ", {seconds:.0} s |")?;
            }
            text.push('\n');
        }
        Ok(())
    }
}
