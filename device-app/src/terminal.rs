//! Terminal output of both programs: logs and errors on stderr, one result on stdout.

use std::{
    env,
    io::{ErrorKind, Write, stdout},
    process::ExitCode,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Where there is no bar, how often long work says that it goes on.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// Parses the arguments. Wrong usage ends the program with exit code 2; with `--json` stdout gets an object, too.
pub fn parse<C: Parser>() -> C {
    C::try_parse().unwrap_or_else(|error| {
        // Help and the version are no errors, and go to stdout themselves.
        if error.use_stderr() && env::args_os().any(|argument| argument == "--json") {
            let text = error.render().to_string();
            let said = text.split("\n\n").next().unwrap_or(&text).trim_start_matches("error: ");
            let sentence = said.split_whitespace().collect::<Vec<_>>().join(" ");
            let _ = print(true, &Failure { error: sentence, causes: Vec::new() }, String::new);
        }
        error.exit()
    })
}

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
    write_out(if json { serde_json::to_string(value)? } else { text() } + "\n")
}

/// Writes text to stdout.
///
/// # Errors
/// As [`print`].
pub fn write_out(text: impl AsRef<[u8]>) -> Result<()> {
    let mut out = stdout();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// The object that `--json` prints instead of a result.
#[derive(Serialize)]
struct Failure {
    /// What failed.
    error: String,
    /// Why, from the nearest cause to the first.
    causes: Vec<String>,
}

/// Returns exit code 0, or prints the error with its causes and returns 1.
pub fn exit_code(json: bool, result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("error: {error:#}");
    if json {
        let causes = error.chain().skip(1).map(ToString::to_string).collect();
        // Nothing is left to do about a failure to print the failure.
        let _ = print(true, &Failure { error: error.to_string(), causes }, String::new);
    }
    ExitCode::FAILURE
}

/// The columns that tables should fit: those of `COLUMNS` or of the terminal; `None` if stdout is a file or a pipe.
pub fn columns() -> Option<u16> {
    let asked = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    asked.or_else(|| console::Term::stdout().size_checked().map(|(_, columns)| columns))
}

/// Progress of long work on stderr: on a terminal a bar with the time left, otherwise a line every ten seconds.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    lines: Option<Lines>,
}

impl Progress {
    /// Starts `work` ("evaluating") of `total` units, if known; `count` is a template ("{pos}/{len} images").
    ///
    /// # Errors
    /// `count` is not a template.
    pub fn new(work: &'static str, total: Option<u64>, count: &str) -> Result<Self> {
        let bar = match total {
            Some(total) => ProgressBar::new(total)
                .with_style(ProgressStyle::with_template(&format!("{work} {{wide_bar}} {count} (ETA {{eta}})"))?),
            None => ProgressBar::no_length()
                .with_style(ProgressStyle::with_template(&format!("{{spinner}} {work} {{elapsed}}"))?),
        };
        let lines = bar.is_hidden().then(|| Lines::start(work, bar.clone()));
        if lines.is_none() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Ok(Self { bar, lines })
    }

    /// Names what is being done now, for `{msg}` in the template.
    pub fn name(&self, part: String) {
        self.bar.set_message(part);
    }

    /// Prints a line above the bar.
    pub fn say(&self, line: &str) {
        match self.lines {
            Some(_) => eprintln!("{line}"),
            None => self.bar.println(line),
        }
    }

    /// Sets the units done.
    pub fn set(&mut self, done: u64) {
        self.bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A thread that writes a line about a hidden bar now and then, until it is dropped: a step of the work can take minutes.
#[derive(Debug)]
struct Lines {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    fn start(work: &'static str, bar: ProgressBar) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().spawn(move || {
            while stopped.recv_timeout(SAID_EVERY) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{}", line(work, bar.position(), bar.length(), bar.elapsed(), &bar.message()));
            }
        });
        // Without a thread, the work goes on silently.
        Self { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
    }
}

/// "distilling: 25 % (ETA 30 s), block 3 layer1.2"; before the first unit is done "distilling: 10 s".
fn line(work: &str, done: u64, total: Option<u64>, elapsed: Duration, part: &str) -> String {
    let seconds = elapsed.as_secs_f64();
    let part = if part.is_empty() { String::new() } else { format!(", {part}") };
    match total.filter(|&total| done > 0 && total > 0) {
        Some(total) => {
            let share = (done as f64 / total as f64).min(1.0);
            format!("{work}: {:.0} % (ETA {:.0} s){part}", 100.0 * share, seconds * (1.0 - share) / share)
        }
        None => format!("{work}: {seconds:.0} s{part}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_how_far_the_work_is() {
        let line = |done, total, part| line("distilling", done, total, Duration::from_secs(10), part);
        assert_eq!(line(0, Some(9), "block 0 a"), "distilling: 10 s, block 0 a");
        assert_eq!(line(1, Some(4), "block 1 b"), "distilling: 25 % (ETA 30 s), block 1 b");
        assert_eq!(line(3, None, ""), "distilling: 10 s");
        assert_eq!(line(9, Some(9), ""), "distilling: 100 % (ETA 0 s)");
    }
}
