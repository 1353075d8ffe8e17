//! What both programs do alike on a terminal: logs and errors to stderr, one result to stdout.

use std::{
    io::{ErrorKind, Write, stdout},
    process::ExitCode,
};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Starts logging to stderr: warnings, with `-v` information, with `-vv` details.
pub fn start_log(verbose: u8) {
    let level = ["warn", "info", "debug"][usize::from(verbose).min(2)];
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
}

/// Prints one JSON object, or the text a person reads.
///
/// # Errors
/// The terminal's; a reader that has seen enough (`| head`) is none.
pub fn print(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    let line = if json { serde_json::to_string(value)? } else { text() };
    match writeln!(stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Exit code 0, or 1 after one sentence with its causes.
pub fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Progress of long work on stderr: a bar with the time left on a terminal, elsewhere a line for each tenth.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    work: &'static str,
    tenth: u64,
}

impl Progress {
    /// `work` is what goes on ("evaluating"), `count` how much of it is done, in indicatif's language ("{pos}/{len} images").
    ///
    /// # Errors
    /// `count` is no template.
    pub fn new(work: &'static str, total: u64, count: &str) -> Result<Self> {
        let style = ProgressStyle::with_template(&format!("{work} {{bar:30}} {count} (ETA {{eta}})"))?;
        Ok(Self { bar: ProgressBar::new(total).with_style(style), work, tenth: 0 })
    }

    /// Says how much is done.
    pub fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        let tenth = 10 * done / self.bar.length().unwrap_or(0).max(1);
        if tenth > self.tenth && self.bar.is_hidden() {
            eprintln!("{}: {} %", self.work, 10 * tenth);
        }
        self.tenth = tenth;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
