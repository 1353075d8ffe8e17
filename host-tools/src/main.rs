//! `distill`: the program that prepares teachers and puts students together.

mod cli;

use std::{alloc::System, process::ExitCode};

use distill_core::CountingAllocator;

#[global_allocator]
static HEAP: CountingAllocator<System> = CountingAllocator::new(System);

fn main() -> ExitCode {
    match cli::run(&HEAP) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
