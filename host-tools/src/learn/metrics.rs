//! What a training writes down while it goes on: a CSV file, and event files that TensorBoard reads.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use distill_core::Step;
use distill_device::write_file;
use prost::Message;

/// Rows of a whole training, and those of them that have an accuracy.
const ROWS: usize = 200;
const MEASURED: usize = 20;

const HEADER: &str = "step,seconds,rate,loss,accuracy %";

/// Where metrics go.
#[derive(Clone, Copy, Debug, Default)]
pub struct MetricFiles<'a> {
    /// A CSV file.
    pub csv: Option<&'a Path>,
    /// A folder of event files for TensorBoard.
    pub tensorboard: Option<&'a Path>,
}

/// A row of a CSV file of metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Steps taken.
    pub step: usize,
    /// Wall time of the training until then, without measuring, and without what a cut lost.
    pub seconds: f64,
    /// Learning rate.
    pub rate: f32,
    /// Mean cross-entropy.
    pub loss: f32,
    /// Percent of the images on which the training is watched.
    pub accuracy: Option<f64>,
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let mut cells = line.split(',');
        let (step, seconds) = (cells.next()?.parse().ok()?, cells.next()?.parse().ok()?);
        let (rate, loss) = (cells.next()?.parse().ok()?, cells.next()?.parse().ok()?);
        Some(Self { step, seconds, rate, loss, accuracy: cells.next()?.parse().ok() })
    }

    fn line(&self) -> String {
        let Self { step, seconds, rate, loss, accuracy } = self;
        let accuracy = accuracy.map_or_else(String::new, |accuracy| format!("{accuracy:.2}"));
        format!("{step},{seconds:.2},{rate},{loss},{accuracy}\n")
    }
}

/// The rows of a CSV file of metrics; none if there is no such file.
///
/// # Errors
/// A file that cannot be read, or of something else.
pub fn read_metrics(path: &Path) -> Result<Vec<Row>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut lines = text.lines();
    ensure!(
        lines.next().is_none_or(|first| first == HEADER),
        "{} holds something else than metrics: name another file",
        path.display()
    );
    Ok(lines.filter_map(Row::parse).collect())
}

/// The metrics of a training.
#[derive(Debug)]
pub struct Metrics {
    steps: usize,
    /// When the training would have started, had it not been cut or measured.
    start: Instant,
    csv: Option<(PathBuf, String)>,
    events: Option<Events>,
}

impl Metrics {
    /// Opens the files for a training of so many steps. Rows of the CSV file up to step `done` are kept: a resumed training
    /// goes on after them.
    ///
    /// # Errors
    /// As [`read_metrics`]; or a file cannot be written.
    pub fn new(files: MetricFiles<'_>, steps: usize, done: usize) -> Result<Self> {
        let (mut start, mut csv) = (Instant::now(), None);
        if let Some(path) = files.csv {
            let rows: Vec<Row> = read_metrics(path)?.into_iter().filter(|row| row.step <= done).collect();
            let before =
                rows.last().map_or(Duration::ZERO, |row| Duration::try_from_secs_f64(row.seconds).unwrap_or_default());
            start = start.checked_sub(before).unwrap_or(start);
            let text = rows.iter().fold(format!("{HEADER}\n"), |text, row| text + &row.line());
            write_file(path, text.as_bytes())?;
            csv = Some((path.to_owned(), text));
        }
        Ok(Self { steps, start, csv, events: files.tensorboard.map(Events::create).transpose()? })
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
        let elapsed = self.start.elapsed();
        let accuracy = if is_due(MEASURED) { accuracy(step)? } else { None };
        let Step { number, rate, loss, .. } = *step;
        if let Some((path, text)) = &mut self.csv {
            text.push_str(&Row { step: number, seconds: elapsed.as_secs_f64(), rate, loss, accuracy }.line());
            write_file(path, text.as_bytes())?;
        }
        if let Some(events) = &mut self.events {
            let values = [("rate", Some(rate)), ("loss", Some(loss)), ("accuracy", accuracy.map(|a| a as f32))];
            let value = |(tag, value): (&str, Option<f32>)| Some(Value { tag: tag.to_owned(), simple_value: value? });
            let summary = Summary { value: values.into_iter().filter_map(value).collect() };
            events.write(Event { step: number as i64, summary: Some(summary), ..Event::now() })?;
        }
        self.start += self.start.elapsed() - elapsed;
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

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;

    #[test]
    fn a_resumed_training_goes_on_after_the_rows_of_its_steps() -> Result<()> {
        let folder = tempdir()?;
        let path = folder.path().join("metrics.csv");
        let rows = format!("{HEADER}\n1,0.50,0.1,2.5,\n2,1.00,0.1,2.25,40.00\n3,1.50,0.1,2,\n");
        fs::write(&path, &rows)?;
        let files = MetricFiles { csv: Some(&path), tensorboard: None };
        let metrics = Metrics::new(files, 4, 2)?;
        assert_eq!(fs::read_to_string(&path)?, rows[..rows.len() - "3,1.50,0.1,2,\n".len()]);
        assert!(metrics.start.elapsed() >= Duration::from_secs(1), "the clock goes on where the last row was written");
        Metrics::new(files, 4, 0)?;
        assert_eq!(read_metrics(&path)?, []);
        Ok(())
    }
}
