//! What a training writes down while it goes on: a CSV file, and event files that TensorBoard reads.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use distill_core::Step;
use distill_device::write_file;
use prost::Message;

/// Rows of a whole training, and those of them that have an accuracy.
const ROWS: usize = 200;
const MEASURED: usize = 20;

const HEADER: &str = "step,rate,loss,held-out accuracy %";

/// Where metrics go.
#[derive(Clone, Copy, Debug, Default)]
pub struct MetricFiles<'a> {
    /// A CSV file.
    pub csv: Option<&'a Path>,
    /// A folder of event files for TensorBoard.
    pub tensorboard: Option<&'a Path>,
}

/// The metrics of a training.
#[derive(Debug)]
pub struct Metrics {
    steps: usize,
    csv: Option<(PathBuf, String)>,
    events: Option<Events>,
}

impl Metrics {
    /// Opens the files for a training of so many steps. Rows of the CSV file up to step `done` are kept: a resumed training
    /// goes on after them.
    ///
    /// # Errors
    /// A file that cannot be read or written, or a CSV file of something else.
    pub fn new(files: MetricFiles<'_>, steps: usize, done: usize) -> Result<Self> {
        let csv = files.csv.map(|path| -> Result<_> {
            let context = || format!("cannot read {}", path.display());
            let text = match fs::read_to_string(path) {
                Ok(text) => text,
                Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
                Err(error) => return Err(error).with_context(context),
            };
            ensure!(
                text.is_empty() || text.lines().next() == Some(HEADER),
                "{} holds something else than metrics: name another file",
                path.display()
            );
            let is_before = |row: &&str| {
                row.split(',').next().and_then(|step| step.parse().ok()).is_some_and(|step: usize| step <= done)
            };
            let mut rows = format!("{HEADER}\n");
            for row in text.lines().skip(1).filter(is_before) {
                rows.push_str(row);
                rows.push('\n');
            }
            write_file(path, rows.as_bytes())?;
            Ok((path.to_owned(), rows))
        });
        let events = files.tensorboard.map(Events::create).transpose()?;
        Ok(Self { steps, csv: csv.transpose()?, events })
    }

    /// Writes a step down, if it is due. `accuracy` measures the network in percent.
    ///
    /// # Errors
    /// The files', or those of `accuracy`.
    pub fn record(&mut self, step: &Step<'_>, accuracy: impl FnOnce(&Step<'_>) -> Result<Option<f64>>) -> Result<()> {
        let is_due = |rows: usize| step.number.is_multiple_of(self.steps.div_ceil(rows)) || step.number == self.steps;
        if (self.csv.is_none() && self.events.is_none()) || !is_due(ROWS) {
            return Ok(());
        }
        let accuracy = if is_due(MEASURED) { accuracy(step)? } else { None };
        if let Some((path, rows)) = &mut self.csv {
            let accuracy = accuracy.map_or_else(String::new, |accuracy| format!("{accuracy:.2}"));
            rows.push_str(&format!("{},{},{},{accuracy}\n", step.number, step.rate, step.loss));
            write_file(path, rows.as_bytes())?;
        }
        if let Some(events) = &mut self.events {
            let values = [
                ("rate", Some(step.rate)),
                ("loss", Some(step.loss)),
                ("held-out accuracy", accuracy.map(|a| a as f32)),
            ];
            let value = |(tag, value): (&str, Option<f32>)| Some(Value { tag: tag.to_owned(), simple_value: value? });
            let summary = Summary { value: values.into_iter().filter_map(value).collect() };
            events.write(Event { step: step.number as i64, summary: Some(summary), ..Event::now() })?;
        }
        Ok(())
    }
}

/// An event file: records of protobuf messages, each with its length and checksums (TensorFlow's TFRecord).
#[derive(Debug)]
struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Starts a new file in a folder: TensorBoard reads all that are there.
    fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let path = folder.join(format!("events.out.tfevents.{:.0}.{}.distill", seconds(), process::id()));
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let mut events = Self { path, file };
        events.write(Event { file_version: Some("brain.Event:2".to_owned()), ..Event::now() })?;
        Ok(events)
    }

    fn write(&mut self, event: Event) -> Result<()> {
        let data = event.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        let record = [&length[..], &masked_crc(&length), &data, &masked_crc(&data)].concat();
        self.file.write_all(&record).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// TFRecord's checksum.
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8).to_le_bytes()
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The parts of TensorFlow's `event.proto` and `summary.proto` that we write.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

impl Event {
    fn now() -> Self {
        Self { wall_time: seconds(), ..Self::default() }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}
