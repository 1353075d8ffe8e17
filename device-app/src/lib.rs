//! The device program as a library: files, timing and progress around `distill-core`'s run.

mod advice;
mod command;
mod file;
mod interrupt;
mod job;
mod memory;
mod options;
mod signing;
mod terminal;
mod unchanged;
mod version;

pub use advice::Advised;
pub use command::{OpenImages, run_command};
pub use file::{
    DiskFile, NewFile, UnfinishedFile, check_distinct, check_pack_name, check_replaces_pack, check_writable, open_pack,
    scratch_file, write_file,
};
pub use interrupt::{Resumable, end_at_interrupt};
pub use job::{BlockOutcome, Job, Outcome, open_source, program_bytes, run_job};
pub use memory::{available_memory, check_memory};
pub use options::{
    ChosenSource, DeviceName, OptimizerName, RunOptions, SPARSE_IMAGES, ScheduleName, WorkOptions, parse_pattern,
    parse_share, read_widths,
};
pub use signing::{PUBLIC, SECRET, SignOptions, Signer, Trust, TrustOptions, hex};
pub use terminal::{Progress, columns, exit_code, parameters, parse, print, say, sparse, start_log, write_out};
pub use unchanged::{NOTHING_TO_DISTIL, UnchangedBlocks, check_changes};
pub use version::VERSION;
