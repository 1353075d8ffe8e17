//! Faults of system calls on files, injected by `strace`.

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Output},
};

use distill_core::Stream;

use super::bench::{Case, Desk, KILLED, succeeded};

/// The system calls on files, and whether they change something.
const CALLS: [(&str, bool); 17] = [
    ("read", false),
    ("pread64", false),
    ("lseek", false),
    ("statx", false),
    ("flock", false),
    ("openat", true),
    ("mkdir", true),
    ("write", true),
    ("writev", true),
    ("pwrite64", true),
    ("copy_file_range", true),
    ("ftruncate", true),
    ("fsync", true),
    ("fdatasync", true),
    ("rename", true),
    ("unlink", true),
    ("unlinkat", true),
];

/// What happens to a system call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The disk cannot be read or written.
    Broken,
    /// The disk is full.
    Full,
    /// The program is killed instead.
    Kill,
}

impl Fault {
    fn argument(self) -> &'static str {
        match self {
            Self::Broken => "error=EIO",
            Self::Full => "error=ENOSPC",
            Self::Kill => "signal=KILL",
        }
    }
}

/// A call of a program's main thread, which does all its work on files.
#[derive(Clone)]
struct Call {
    name: &'static str,
    /// From 1, among the calls of this name.
    number: usize,
    file: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {}", self.name, self.number, self.file)
    }
}

#[derive(Default)]
struct Tally {
    injected: usize,
    /// Ends in an error; the others go on without the call, such as a lock or a training's state.
    errors: usize,
}

/// Whether faults can be injected here; says so if not.
pub fn possible() -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    let possible = traced.is_ok_and(|status| status.success());
    if !possible {
        println!("no faults are injected: strace is not there, or may not trace");
    }
    possible
}

/// Injects `most` faults into a command, of every kind alike, each into a run of its own, and runs it again without.
/// Returns the number of violations.
pub fn faults(case: &Case<'_>, most: usize, stream: &mut Stream) -> usize {
    let (mut tallies, mut missed, mut violations) = (BTreeMap::<_, Tally>::new(), 0, 0);
    for (call, fault) in chosen(recorded(case), most, stream) {
        let desk = case.desk();
        match inject(case, &desk, &call, fault) {
            Ok(None) => missed += 1,
            Ok(Some(failed)) => {
                let tally = tallies.entry((fault, call.name)).or_default();
                tally.injected += 1;
                tally.errors += usize::from(failed);
            }
            Err(wrong) => {
                violations += 1;
                case.keep(desk, &format!("{} at {call}: {wrong}", fault.argument()));
            }
        }
    }
    let all: usize = tallies.values().map(|tally| tally.injected).sum();
    for ((fault, name), Tally { injected, errors }) in tallies {
        let ends =
            if fault == Fault::Kill { String::new() } else { format!(", {errors} end in an error, the others well") };
        println!("  {} at {name}: {injected}{ends}", fault.argument());
    }
    println!("  {all} faults, {violations} violations; {missed} calls did not come again");
    violations
}

/// Every call of an undisturbed command on files in its folder.
fn recorded(case: &Case<'_>) -> Vec<Call> {
    let desk = case.desk();
    let (output, log) = trace(case, &desk, &[]);
    succeeded(&output).unwrap();
    let folder = desk.path().canonicalize().unwrap();
    let mut numbers = BTreeMap::<&str, usize>::new();
    let call = |line: &str| {
        let (name, arguments) = line.split_once('(')?;
        let name = CALLS.iter().map(|&(known, _)| known).find(|&known| known == name)?;
        let number = numbers.entry(name).or_default();
        *number += 1;
        Some(Call { name, number: *number, file: file_of(arguments, &folder)? })
    };
    log.lines().filter_map(call).collect()
}

/// The file of a call, if it is in the folder: that of a descriptor, `4</folder/name>`, or a relative name.
fn file_of(arguments: &str, folder: &Path) -> Option<String> {
    if arguments.starts_with(|c: char| c.is_ascii_digit()) {
        let path = arguments.split_once('<')?.1.split_once('>')?.0;
        return Some(Path::new(path).strip_prefix(folder).ok()?.display().to_string());
    }
    arguments.split('"').nth(1).filter(|name| !name.starts_with('/')).map(str::to_owned)
}

/// Some of the faults that these calls can have, so that every kind of call and fault comes in turn.
fn chosen(mut calls: Vec<Call>, most: usize, stream: &mut Stream) -> Vec<(Call, Fault)> {
    let changes = |name| CALLS.iter().any(|&(known, changes)| known == name && changes);
    let faults = |name| if changes(name) { &[Fault::Broken, Fault::Full, Fault::Kill][..] } else { &[Fault::Broken] };
    let mut drawn = BTreeMap::<_, usize>::new();
    let mut all = Vec::new();
    while !calls.is_empty() {
        let call = calls.swap_remove(stream.below(calls.len()));
        for &fault in faults(call.name) {
            let rank = drawn.entry((fault, call.name)).or_default();
            *rank += 1;
            all.push((*rank, (call.clone(), fault)));
        }
    }
    all.sort_by_key(|&(rank, _)| rank);
    all.into_iter().take(most).map(|(_, pair)| pair).collect()
}

/// Runs a command with a fault, and again without. Says whether the first ended in an error; `None` if the call did not come.
fn inject(case: &Case<'_>, desk: &Desk, call: &Call, fault: Fault) -> Result<Option<bool>, String> {
    let argument = format!("inject={}:{}:when={}", call.name, fault.argument(), call.number);
    let (output, log) = trace(case, desk, &["-e", &argument]);
    let failed = match (fault, output.status.code()) {
        (Fault::Kill, None) if output.status.signal() == Some(KILLED) => true,
        (Fault::Kill, _) => return Ok(None),
        _ if !log.contains("(INJECTED)") => return Ok(None),
        (_, Some(0)) => false,
        (_, Some(1)) => {
            one_sentence(&output)?;
            true
        }
        _ => return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))),
    };
    if failed {
        case.check_cut(desk)?
    } else {
        case.check_end(desk)?
    }
    let again = case.run(desk).and_then(|()| case.check_end(desk));
    again.map_err(|wrong| format!("once more without the fault: {wrong}"))?;
    Ok(Some(failed))
}

fn one_sentence(output: &Output) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let errors = said.lines().filter(|line| line.starts_with("error: ")).count();
    let is_last = said.lines().last().is_some_and(|line| line.starts_with("error: "));
    if errors == 1 && is_last && !said.contains("panicked") { Ok(()) } else { Err(format!("it says {said:?}")) }
}

/// Runs a command under strace, which writes a log of its main thread's calls.
fn trace(case: &Case<'_>, desk: &Desk, arguments: &[&str]) -> (Output, String) {
    let (plain, logs) = (case.command(desk), tempfile::tempdir().unwrap());
    let log = logs.path().join("log");
    let names = CALLS.map(|(name, _)| name).join(",");
    let mut traced = Command::new("strace");
    traced.arg("-y").arg("-o").arg(&log).args(["-e", &format!("trace={names}")]).args(arguments);
    traced.arg(plain.get_program()).args(plain.get_args()).current_dir(desk.path());
    let output = traced.output().unwrap();
    // Pixels and weights need not be text.
    (output, String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned())
}
