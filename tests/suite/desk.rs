//! A folder with a teacher, in which the two programs are run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use distill_core::Encoding;
use distill_host::quickstart::builtin_teacher;
use distill_tests::built_programs;
use serde_json::Value;
use tempfile::TempDir;

use super::json;

/// A program of this workspace, built with the profile of this test.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(built_programs).join(name)
}

/// A folder with the built-in teacher's pack, to run programs in.
pub struct Desk(pub TempDir);

impl Desk {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        builtin_teacher().unwrap().write_pack(&folder.path().join("teacher.ndp"), Encoding::F32).unwrap();
        Self(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn files(&self) -> Vec<String> {
        let name = |entry: Result<fs::DirEntry, _>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(self.0.path()).unwrap().map(name).collect();
        names.sort();
        names
    }

    /// Runs `distill` or `distill-device` with arguments that hold no spaces.
    pub fn run(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        Command::new(program(words.next().unwrap())).args(words).current_dir(self.0.path()).output().unwrap()
    }

    /// The one JSON object on stdout.
    pub fn json(&self, line: &str) -> Value {
        let output = self.run(&format!("{line} --json"));
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        let object = serde_json::from_slice(&output.stdout).unwrap();
        json::check(line, &object);
        object
    }

    /// stderr of a run that must fail with this exit code, and leave the folder as it was.
    pub fn failure(&self, line: &str, code: i32) -> String {
        let before = self.files();
        let error = failed(&self.run(line), line, code);
        assert_eq!(self.files(), before, "{line} left files");
        error
    }
}

pub fn failed(output: &Output, line: &str, code: i32) -> String {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{line}: {error}");
    assert!(output.stdout.is_empty(), "{line} printed on stdout");
    assert!(!error.contains("panicked"), "{line}: {error}");
    error
}

/// A file of `fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}
