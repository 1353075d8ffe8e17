//! What Ctrl-C, or a request to terminate, leaves behind: one line, at once.
//!
//! Nothing is cleaned up: every file is written so that a cut at any time loses nothing, and this is one more cut.

use std::{
    path::PathBuf,
    process::exit,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::terminal::say;

/// Where something of the work in progress is kept, and what to say of it.
static KEPT: Mutex<Vec<(PathBuf, String)>> = Mutex::new(Vec::new());

/// Exit code of a program that SIGINT ended, by convention.
const INTERRUPTED: i32 = 130;

fn kept() -> MutexGuard<'static, Vec<(PathBuf, String)>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the program at an interruption, with a line that says what is kept.
pub fn end_at_interrupt() {
    let handler = || {
        let kept = kept();
        let there = kept.iter().rev().find(|(path, _)| path.exists());
        let line = match there {
            Some((_, line)) => line,
            None if kept.is_empty() => "finished files are whole, and all others are as they were",
            None => "nothing was finished yet: the same command begins again",
        };
        say(&format!("\ninterrupted: {line}"));
        exit(INTERRUPTED);
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        log::debug!("interruptions end the program without a word: {error}");
    }
}

/// Work of which something is kept if it is interrupted.
#[derive(Debug)]
pub struct Resumable(());

impl Resumable {
    /// Starts such work; the line says what is kept and how to resume, if anything is at `path` by then.
    pub fn new(path: PathBuf, line: String) -> Self {
        kept().push((path, line));
        Self(())
    }
}

impl Drop for Resumable {
    fn drop(&mut self) {
        kept().pop();
    }
}
