//! What a compression made, as an object and as a table.

use std::path::PathBuf;

use bytesize::ByteSize;
use serde::Serialize;

use crate::{measure::Comparison, show::table};

/// The object `compress --json` prints.
#[derive(Debug, Serialize)]
pub struct Compressed {
    /// The student's file.
    pub file: PathBuf,
    /// The teacher's pack, with the noise images if there are any.
    pub pack: PathBuf,
    /// The model as it came, batch norms folded.
    pub teacher: Sizes,
    /// The student.
    pub student: Sizes,
    /// How closely it follows the teacher.
    pub comparison: Comparison,
    /// Peak learning rate of the fine-tune that was kept; `None` if none was.
    pub fine_tuned_at: Option<f32>,
    /// What was done, in order.
    pub stages: Vec<Stage>,
    /// The folder of the stages' files.
    pub work: PathBuf,
}

/// Size and speed of a network.
#[derive(Debug, Serialize)]
pub struct Sizes {
    /// Trained scalars.
    pub parameters: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Size of its file, and of the weights beside it.
    pub bytes: u64,
    /// Median time of a forward pass of one image.
    pub milliseconds: f64,
    /// Percent of the labelled images; `None` without any.
    pub accuracy: Option<f64>,
}

/// A stage of a compression.
#[derive(Debug, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// Whether its file was there.
    pub found: bool,
    /// Wall time.
    pub seconds: f64,
}

impl Compressed {
    /// What is wrong with the student; `None` if nothing is.
    pub fn warning(&self) -> Option<String> {
        let same = self.student.parameters >= self.teacher.parameters;
        let nothing =
            "nothing became smaller: `distill inspect MODEL --width 0.5` says which blocks can, and why others stay";
        same.then(|| nothing.to_owned()).or_else(|| self.comparison.warning())
    }

    /// The table that a person reads.
    pub fn table(&self) -> String {
        let Self { teacher, student, comparison, .. } = self;
        let share = |student: f64, teacher: f64| format!("{:.0} %", 100.0 * student / teacher);
        let row = |title: &str, show: &dyn Fn(&Sizes) -> String, number: &dyn Fn(&Sizes) -> f64| {
            [title.to_owned(), show(teacher), show(student), share(number(student), number(teacher))]
        };
        let mut rows = vec![
            row("parameters", &|sizes| sizes.parameters.to_string(), &|sizes| sizes.parameters as f64),
            row("MACs", &|sizes| format!("{:.1} M", sizes.macs as f64 / 1e6), &|sizes| sizes.macs as f64),
            row("file", &|sizes| ByteSize(sizes.bytes).display().si().to_string(), &|sizes| sizes.bytes as f64),
            row("ms an image", &|sizes| format!("{:.2}", sizes.milliseconds), &|sizes| sizes.milliseconds),
        ];
        if let (Some(before), Some(after)) = (teacher.accuracy, student.accuracy) {
            let lost = format!("{:+.2}", after - before);
            rows.push(["accuracy %".to_owned(), format!("{before:.2}"), format!("{after:.2}"), lost]);
        }
        let table = table(["", "teacher", "student", "share"], &[1, 2, 3], rows);
        let seconds: f64 = self.stages.iter().map(|stage| stage.seconds).sum();
        let tuned = match self.fine_tuned_at {
            Some(rate) => format!("\nfine-tuned at a rate of {rate}"),
            None => String::new(),
        };
        format!(
            "{table}\n{}{tuned}\n{seconds:.0} s; written: {file}\non pictures of your own: distill compare {} {file} --images FOLDER",
            comparison.line(),
            self.pack.display(),
            file = self.file.display()
        )
    }
}
