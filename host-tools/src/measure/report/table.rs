//! The content of a report, and its tables in Markdown.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;
use distill_device::write_file;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    kind::{Kind, Size},
    method::Method,
    plot::{Curve, Plot},
};
use crate::learn::Preset;

/// A student, measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    pub method: Method,
    #[serde(flatten)]
    pub size: Size,
    pub seed: u64,
    /// Percent of the test images.
    pub accuracy: f64,
    /// Mean relative error of its blocks, on inputs like those that it learned from; `None` for a student trained end to end.
    pub interface_error: Option<f64>,
    pub parameters: usize,
    /// Bytes of its pack in single precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Wall time of the method's last step: from the teacher pack, or from the student that is fine-tuned.
    pub seconds: f64,
    /// Mean wall time of a block that was distilled on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_seconds: Option<f64>,
    /// Accuracy in the course of a training of the whole network, on the test images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<Point>,
}

/// A moment of a training.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Point {
    pub seconds: f64,
    pub accuracy: f64,
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

/// The content of a report's `.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Which report it is.
    pub kind: Kind,
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
    /// How much work goes into students that learn from data.
    pub preset: Preset,
    /// Version and settings of every method, for seed 0 and width 1.
    pub recipes: Value,
    /// How much work went into the baselines without data.
    pub baselines: Option<Preset>,
    /// Calibrated noise, by seed.
    pub noise: Vec<Calibrated>,
    /// Students, in the order in which they were made.
    pub cells: Vec<Cell>,
}

fn mean(cells: &[&Cell], value: impl Fn(&Cell) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = cells.iter().map(|cell| value(cell)).collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

impl Report {
    /// The rows of which there are students, largest students first.
    pub fn rows(&self) -> Vec<f32> {
        let mut rows: Vec<f32> = self.cells.iter().map(|cell| self.kind.row(cell.size)).collect();
        rows.sort_by(|a, b| b.total_cmp(a));
        rows.dedup();
        if self.kind == Kind::Sparsity {
            rows.reverse();
        }
        rows
    }

    /// Its methods of which there are students.
    fn methods(&self) -> Vec<Method> {
        let made = |method: &&Method| self.cells.iter().any(|cell| cell.method == **method);
        self.kind.methods().iter().filter(made).copied().collect()
    }

    /// The students of a method and row, one for each seed.
    fn seeds(&self, method: Method, row: f32) -> Vec<&Cell> {
        self.cells.iter().filter(|cell| cell.method == method && self.kind.row(cell.size) == row).collect()
    }

    /// Writes the report, its tables and its plots into a folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = |ending: &str| folder.join(format!("{}{ending}", self.kind.name()));
        write_file(&path(".json"), &serde_json::to_vec_pretty(self)?)?;
        write_file(&path(".md"), self.markdown()?.as_bytes())?;
        if let Some(plot) = self.over_minutes() {
            write_file(&path("-minutes.svg"), plot.svg()?.as_bytes())?;
        }
        write_file(&path(".svg"), self.over_rows().svg()?.as_bytes())
    }

    /// Mean accuracy of each method in each row, and the paper's best.
    fn over_rows(&self) -> Plot {
        let (paper, rows) = (self.kind.paper(), self.rows());
        let curve = |&method: &Method| {
            let point = |&k: &f32| Some((f64::from(k), mean(&self.seeds(method, k), |cell| Some(cell.accuracy))?));
            Curve { title: method.title().to_owned(), points: rows.iter().filter_map(point).collect() }
        };
        let theirs = rows.iter().filter_map(|&k| Some((f64::from(k), paper.row(k)?[paper.beside])));
        let theirs = Curve { title: format!("paper, {}", paper.columns[paper.beside]), points: theirs.collect() };
        let curves = self.kind.methods().iter().map(curve).chain([theirs]).collect();
        Plot { x: self.kind.axis()[1], curves }
    }

    /// Accuracy over time of the smallest students: from the blocks on where a student is fine-tuned.
    fn over_minutes(&self) -> Option<Plot> {
        let smallest = *self.rows().last()?;
        let curve = |&method: &Method| {
            let cell = self.cells.iter().find(|cell| cell.method == method && self.kind.row(cell.size) == smallest);
            let points = cell.map_or_else(Vec::new, |cell| self.curve(cell));
            let minutes = |Point { seconds, accuracy }| (seconds / 60.0, accuracy);
            Curve { title: method.title().to_owned(), points: points.into_iter().map(minutes).collect() }
        };
        let trained: Vec<Curve> = self.kind.methods().iter().map(curve).collect();
        let any = trained.iter().any(|curve| !curve.points.is_empty());
        any.then_some(Plot { x: "minutes, distilling the blocks included", curves: trained })
    }

    /// The course of a training, with what came before it.
    fn curve(&self, cell: &Cell) -> Vec<Point> {
        let before = cell.method.before().and_then(|method| self.same(cell, method));
        let start = before.map_or(0.0, |before| before.seconds);
        let from = before.map(|before| Point { seconds: start, accuracy: before.accuracy });
        let later = cell.curve.iter().map(|point| Point { seconds: start + point.seconds, ..*point });
        if cell.curve.is_empty() { Vec::new() } else { from.into_iter().chain(later).collect() }
    }

    /// The student of another method, of the same size and seed.
    fn same(&self, cell: &Cell, method: Method) -> Option<&Cell> {
        self.cells.iter().find(|other| (other.method, other.size, other.seed) == (method, cell.size, cell.seed))
    }

    /// The report in Markdown.
    pub fn markdown(&self) -> Result<String> {
        let mut text = String::new();
        let [row, _] = self.kind.axis();
        let (name, inputs) = (
            self.kind.name(),
            if self.kind.takes_data() {
                "held-out training images (calibrated noise for students made without data)"
            } else {
                "calibrated noise that no student saw"
            },
        );
        writeln!(text, "# {}\n\nMade by `{}`.\n", self.kind.title(), self.command)?;
        writeln!(
            text,
            "Teacher `{}`: {:.2} % of {} test images, {} parameters. Mean ± the largest distance from it (number of seeds). *Error* is \
             the mean over the blocks of ‖S(a) − T(a)‖ / ‖T(a)‖ on {inputs}, with the teacher's own \
             activations as inputs; seconds are those of the column's last step alone.\n",
            self.source, self.teacher_accuracy, self.images, self.teacher_parameters
        )?;
        if self.effort != 1.0 {
            writeln!(text, "**{} of the usual work: a trial.**\n", self.effort)?;
        }
        writeln!(text, "![Accuracy over {row}]({name}.svg)\n")?;
        self.table(&mut text)?;
        if self.over_minutes().is_some() {
            self.timing(&mut text)?;
        }
        let paper = self.kind.paper();
        writeln!(text, "\n## The paper, its own teacher (Shao et al. 2020, {})\n", paper.title)?;
        writeln!(text, "| {row} | {} |\n|---|{}", paper.columns.join(" | "), "---|".repeat(paper.columns.len()))?;
        let digits = if matches!(self.kind, Kind::DataFree | Kind::Sparsity) { 2 } else { 1 };
        for (k, accuracies) in paper.rows {
            let row: Vec<String> = accuracies.iter().map(|accuracy| format!("{accuracy:.digits$}")).collect();
            writeln!(text, "| {k} | {} |", row.join(" | "))?;
        }
        if !self.noise.is_empty() {
            text.push_str("\n## Noise images\n\n| seed | images | mismatch left | seconds |\n|---|---|---|---|\n");
        }
        for Calibrated { seed, images, mismatch, seconds } in &self.noise {
            let seconds = seconds.map_or("made before".to_owned(), |seconds| format!("{seconds:.0}"));
            let mismatch = mismatch.map_or("none to match".to_owned(), |mismatch| format!("{mismatch:.3}"));
            writeln!(text, "| {seed} | {images} | {mismatch} | {seconds} |")?;
        }
        Ok(text)
    }

    fn table(&self, text: &mut String) -> Result<()> {
        let (methods, paper, [row, _]) = (self.methods(), self.kind.paper(), self.kind.axis());
        let is_sparse = self.kind == Kind::Sparsity;
        let titles: Vec<&str> = methods.iter().map(|method| method.title()).collect();
        let size = if is_sparse { "bytes" } else { "parameters" };
        writeln!(text, "| {row} | {size} | paper, {} | {} |", paper.columns[paper.beside], titles.join(" | "))?;
        writeln!(text, "|{}", "---|".repeat(3 + methods.len()))?;
        for k in self.rows() {
            let cell = self.cells.iter().find(|cell| self.kind.row(cell.size) == k);
            let size = cell.map_or(0, |cell| cell.bytes.filter(|_| is_sparse).unwrap_or(cell.parameters as u64));
            write!(text, "| {k} | {size} |")?;
            text.push_str(&paper.row(k).map_or_else(|| " |".to_owned(), |row| format!(" {:.2} |", row[paper.beside])));
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

    /// Where the time goes (table 6), and when each training is as good as knowledge distillation ends.
    fn timing(&self, text: &mut String) -> Result<()> {
        writeln!(
            text,
            "\n## Time\n\n![Accuracy over minutes]({}-minutes.svg)\n\n\
             Seconds of the first seed. *As good as KD*: until a training first reaches the accuracy at which KD ends, \
             measured 20 times on the way, blocks included.\n\n\
             | {} | training | one block | all blocks | whole network | total | accuracy % | as good as KD |\n|{}",
            self.kind.name(),
            self.kind.axis()[0],
            "---|".repeat(8)
        )?;
        for cell in self.cells.iter().filter(|cell| cell.seed == 0 && !cell.curve.is_empty()) {
            let before = cell.method.before().and_then(|method| self.same(cell, method));
            let shown = |seconds: Option<f64>| seconds.map_or(String::new(), |seconds| format!("{seconds:.1}"));
            let all = before.map(|before| before.seconds);
            let kd =
                [Method::Kd, Method::MagnitudeFt].into_iter().find_map(|kd| self.same(cell, kd)).map(|kd| kd.accuracy);
            let points = self.curve(cell);
            let reached = kd.map(|kd| points.iter().find(|point| point.accuracy >= kd).map(|point| point.seconds));
            let reached = match reached {
                Some(Some(seconds)) => format!("{seconds:.1}"),
                Some(None) => "never".to_owned(),
                None => String::new(),
            };
            writeln!(
                text,
                "| {} | {} | {} | {} | {:.1} | {:.1} | {:.2} | {reached} |",
                self.kind.row(cell.size),
                cell.method.title(),
                shown(before.and_then(|before| before.unit_seconds)),
                shown(all),
                cell.seconds,
                cell.seconds + all.unwrap_or(0.0),
                cell.accuracy
            )?;
        }
        Ok(())
    }
}
