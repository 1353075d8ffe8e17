//! `distill`: imports teachers, and exports and measures their students.

mod cli;

use std::{alloc::System, process::ExitCode};

use distill_core::CountingAllocator;

#[global_allocator]
static HEAP: CountingAllocator<System> = CountingAllocator::new(System);

fn main() -> ExitCode {
    cli::run(&HEAP)
}
