//! Terminal output of both programs: logs and errors on stderr, one result on stdout.

use std::{
    io::{ErrorKind, Write, stdout},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Starts logging to stderr: warnings, with `-v` information, with `-vv` details.
pub fn start_log(verbose: u8) {
    let level = ["warn", "info", "debug"][usize::from(verbose).min(2)];
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
}

/// Prints one JSON object, or text for people.
///
/// # Errors
/// The terminal's, except for a closed pipe (`| head`).
pub fn print(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    let line = if json { serde_json::to_string(value)? } else { text() };
    match writeln!(stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Returns exit code 0, or prints the error with its causes and returns 1.
pub fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Progress of long work on stderr: on a terminal a bar with the time left, otherwise a line every five seconds.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    work: &'static str,
    start: Instant,
    said: Instant,
}

impl Progress {
    /// Starts `work` ("evaluating") of `total` units, if known; `count` is a template ("{pos}/{len} images").
    ///
    /// # Errors
    /// `count` is not a template.
    pub fn new(work: &'static str, total: Option<u64>, count: &str) -> Result<Self> {
        let bar = match total {
            Some(total) => ProgressBar::new(total)
                .with_style(ProgressStyle::with_template(&format!("{work} {{bar:30}} {count} (ETA {{eta}})"))?),
            None => ProgressBar::no_length()
                .with_style(ProgressStyle::with_template(&format!("{{spinner}} {work} {{elapsed}}"))?),
        };
        bar.enable_steady_tick(Duration::from_millis(200));
        Ok(Self { bar, work, start: Instant::now(), said: Instant::now() })
    }

    /// Prints a line above the bar.
    pub fn say(&self, line: &str) {
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }

    /// Sets the units done.
    pub fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        if !self.bar.is_hidden() || self.said.elapsed() < Duration::from_secs(5) {
            return;
        }
        self.said = Instant::now();
        if let Some(total) = self.bar.length().filter(|_| done > 0) {
            let share = done as f64 / total.max(1) as f64;
            let left = self.start.elapsed().as_secs_f64() * (1.0 - share) / share;
            eprintln!("{}: {:.0} % (ETA {left:.0} s)", self.work, 100.0 * share);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
