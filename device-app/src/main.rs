//! `distill-device`: the program for devices with little memory.

use std::{alloc::System, process::ExitCode};

use clap::{Parser, Subcommand};
use distill_core::CountingAllocator;
use distill_device::{RunOptions, VERSION, end_at_interrupt, exit_code, parse, run_command, start_log};

#[global_allocator]
static HEAP: CountingAllocator<System> = CountingAllocator::new(System);

/// Distil a network on this device, block by block, without data
#[derive(Parser)]
#[command(name = "distill-device", version = VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object on stdout, also for errors; progress stays on stderr
    #[arg(long, global = true)]
    json: bool,
    /// Log more (-v: information, -vv: every step's loss)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Distil the neighbourhoods of a teacher pack into a student pack
    #[command(after_help = "Example:\n  distill-device run teacher.ndp -o student.ndp --width 0.5 --steps 150")]
    Run(Box<RunOptions>),
}

fn main() -> ExitCode {
    let Cli { command: Command::Run(options), json, verbose } = parse();
    start_log(verbose);
    end_at_interrupt();
    exit_code(json, run_command(json, &options, None, &HEAP))
}
