//! Terminal output of both programs: logs and errors on stderr, one result on stdout.

use std::{
    borrow::Cow,
    env,
    io::{self, ErrorKind, Write, stderr, stdout},
    path::Path,
    process::{ExitCode, exit},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use clap::{ArgMatches, Command, Id, Parser};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::file::{check_distinct, places};

/// Where there is no bar, how often long work says that it goes on.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// Identifiers of arguments that name a file to write.
const OUTPUTS: [&str; 5] = ["output", "predictions", "draw", "counter_file", "metrics"];
/// Of those that name a folder in which a command writes files of its own.
const FOLDERS: [&str; 3] = ["work", "dir", "tensorboard"];

/// Parses the arguments, and refuses to write over what any of them names. Wrong usage ends the program with exit code 2, an
/// output in an input's place with 1; with `--json` stdout gets an object, too.
pub fn parse<C: Parser>() -> C {
    let json = env::args_os().any(|argument| argument == "--json");
    let matches = C::command().try_get_matches();
    let parsed = matches.and_then(|matches| Ok((C::from_arg_matches(&matches)?, matches)));
    let (command, matches) = parsed.unwrap_or_else(|error| {
        // Help and the version are no errors, and go to stdout themselves.
        if error.use_stderr() && json {
            let text = error.render().to_string();
            let said = text.split("\n\n").next().unwrap_or(&text).trim_start_matches("error: ");
            let sentence = said.split_whitespace().collect::<Vec<_>>().join(" ");
            let _ = print(true, &Failure { error: sentence, causes: Vec::new() }, String::new);
        }
        error.format(&mut C::command()).exit()
    });
    if let Err(error) = check_outputs(&C::command(), &matches) {
        exit_code(json, Err(error));
        exit(1);
    }
    command
}

/// Checks that no output is in the place of a file that another argument names, or inside a folder of images.
fn check_outputs(command: &Command, matches: &ArgMatches) -> Result<()> {
    if let Some((name, matches)) = matches.subcommand() {
        return command.find_subcommand(name).map_or(Ok(()), |command| check_outputs(command, matches));
    }
    let paths = |id: &str| matches.try_get_raw(id).ok().flatten().into_iter().flatten().map(Path::new);
    // A group of arguments has values, too: their names.
    let is_argument = |id: &&Id| command.get_arguments().any(|argument| argument.get_id() == *id);
    let names: Vec<&str> = matches.ids().filter(is_argument).map(Id::as_str).collect();
    for output in OUTPUTS.into_iter().filter(|output| names.contains(output)) {
        for input in names.iter().filter(|&name| *name != output && !FOLDERS.contains(name)) {
            paths(output).flat_map(places).try_for_each(|place| check_distinct(&place, paths(input)))?;
        }
    }
    Ok(())
}

/// Starts logging to stderr: warnings, with `-v` information, with `-vv` details.
pub fn start_log(verbose: u8) {
    let level = ["warn", "info", "debug"][usize::from(verbose).min(2)];
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level));
    builder.target(env_logger::Target::Pipe(Box::new(Log))).init();
}

/// The log's way to stderr: around a progress bar, and without what steers terminals.
struct Log;

impl Write for Log {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        beside_bar(|| stderr().write_all(printable(&text).as_bytes()))?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        stderr().flush()
    }
}

/// Text with every control character but line feeds and tabs replaced: names from files may hold any.
fn printable(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    match text.contains(steers) {
        true => Cow::Owned(text.replace(steers, "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

/// The bar on the terminal, if there is one.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn bar_on_terminal() -> MutexGuard<'static, Option<ProgressBar>> {
    // Printing goes on even if a thread has panicked.
    BAR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes to stderr while no bar is in the way.
fn beside_bar<T>(write: impl FnOnce() -> T) -> T {
    let bar = bar_on_terminal().clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Prints one JSON object, or text for people.
///
/// # Errors
/// The terminal's, except for a closed pipe (`| head`).
pub fn print(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    write_out(if json { serde_json::to_string(value)? } else { printable(&text()).into_owned() } + "\n")
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

/// Prints a line on stderr. If that is closed or full, the work goes on without.
pub fn say(line: &str) {
    let _ = beside_bar(|| writeln!(stderr(), "{}", printable(line)));
}

/// Most characters of an error: names from files may have any length.
const LONGEST_ERROR: usize = 2000;

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
    say(&format!("error: {}", sentence(&format!("{error:#}"))));
    if json {
        let causes = error.chain().skip(1).map(|cause| sentence(&cause.to_string())).collect();
        // Nothing is left to do about a failure to print the failure.
        let _ = print(true, &Failure { error: sentence(&error.to_string()), causes }, String::new);
    }
    ExitCode::FAILURE
}

/// An error as one line of bounded length, whatever names are in it.
fn sentence(error: &str) -> String {
    let line = printable(error).replace('\n', " ");
    match line.char_indices().nth(LONGEST_ERROR) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A number of parameters, and how many of them are zero if that matters.
pub fn parameters(parameters: usize, zeros: usize) -> String {
    sparse(zeros, parameters).map_or_else(|| parameters.to_string(), |sparse| format!("{parameters} ({sparse})"))
}

/// How many of some weights are zero, if that matters.
pub fn sparse(zeros: usize, weights: usize) -> Option<String> {
    let share = 100.0 * zeros as f64 / weights.max(1) as f64;
    (share >= 1.0).then(|| format!("{share:.0} % zero"))
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
            *bar_on_terminal() = Some(bar.clone());
        }
        Ok(Self { bar, lines })
    }

    /// Names what is being done now, for `{msg}` in the template.
    pub fn name(&self, part: String) {
        self.bar.set_message(printable(&part).into_owned());
    }

    /// Prints a line above the bar.
    pub fn say(&self, line: &str) {
        let line = printable(line);
        match self.lines {
            Some(_) => say(&line),
            None => self.bar.println(&*line),
        }
    }

    /// Sets the units done.
    pub fn set(&mut self, done: u64) {
        self.bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        *bar_on_terminal() = None;
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
                say(&line(work, bar.position(), bar.length(), bar.elapsed(), &bar.message()));
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
    fn names_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[31m\r\u{9b}2J\n"), "a\u{fffd}[31m\u{fffd}\u{fffd}2J\n");
        assert!(matches!(printable("layer1.0: ‖S − T‖"), Cow::Borrowed(_)));
    }

    #[test]
    fn lines_tell_how_far_the_work_is() {
        let line = |done, total, part| line("distilling", done, total, Duration::from_secs(10), part);
        assert_eq!(line(0, Some(9), "block 0 a"), "distilling: 10 s, block 0 a");
        assert_eq!(line(1, Some(4), "block 1 b"), "distilling: 25 % (ETA 30 s), block 1 b");
        assert_eq!(line(3, None, ""), "distilling: 10 s");
        assert_eq!(line(9, Some(9), ""), "distilling: 100 % (ETA 0 s)");
    }
}
