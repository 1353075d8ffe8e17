//! The device program as a library: files, clock and progress around `distill-core`'s run.

mod file;
mod job;
mod options;
mod terminal;

pub use file::{NewFile, PackFile, check_distinct, open_pack, write_file};
pub use job::{BlockOutcome, Outcome, run_job};
pub use options::{DeviceName, RunOptions};
pub use terminal::{Progress, exit_code, print, start_log};
