//! What Ctrl-C, or a request to terminate, leaves behind: one line, at once.
//!
//! Nothing is cleaned up: every file is written so that a cut at any time loses nothing, and this is one more cut.

use std::{
    process::exit,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::terminal::say;

/// What is kept of the work in progress; the last line counts.
static KEPT: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Exit code of a program that SIGINT ended, by convention.
const INTERRUPTED: i32 = 130;

fn kept() -> MutexGuard<'static, Vec<String>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the program at an interruption, with a line that says what is kept.
pub fn end_at_interrupt() {
    let handler = || {
        let line = kept()
            .last()
            .cloned()
            .unwrap_or_else(|| "finished files are whole, and all others are as they were".to_owned());
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
    /// Starts such work; the line says what is kept and how to resume.
    pub fn new(line: String) -> Self {
        kept().push(line);
        Self(())
    }
}

impl Drop for Resumable {
    fn drop(&mut self) {
        kept().pop();
    }
}
