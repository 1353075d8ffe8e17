//! `distill`: imports teachers, and exports and measures their students.

mod cli;

use std::{alloc::System, process::ExitCode};

use distill_core::CountingAllocator;
use distill_device::exit_code;

#[global_allocator]
static HEAP: CountingAllocator<System> = CountingAllocator::new(System);

fn main() -> ExitCode {
    exit_code(cli::run(&HEAP))
}
