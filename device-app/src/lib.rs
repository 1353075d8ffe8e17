//! The device program as a library: files, timing and progress around `distill-core`'s run.

mod advice;
mod file;
mod job;
mod options;
mod terminal;
mod unchanged;

pub use advice::Advised;
pub use file::{DiskFile, NewFile, UnfinishedFile, check_distinct, open_pack, scratch_file, write_file};
pub use job::{BlockOutcome, Job, Outcome, open_source, program_bytes, run_job};
pub use options::{DeviceName, RunOptions, WorkOptions};
pub use terminal::{Progress, exit_code, print, start_log};
pub use unchanged::{NOTHING_TO_DISTIL, UnchangedBlocks, check_changes};
