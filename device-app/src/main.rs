//! `distill-device`: the program for devices with little memory.

use std::{alloc::System, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use distill_core::{BlockReport, CountingAllocator};
use distill_device::{Job, RunOptions, exit_code, print, run_job, start_log};

#[global_allocator]
static HEAP: CountingAllocator<System> = CountingAllocator::new(System);

/// Distil a network on this device, block by block, without data
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object on stdout; progress stays on stderr
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
    Run(RunOptions),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.verbose);
    exit_code(execute(&cli))
}

fn execute(cli: &Cli) -> Result<()> {
    let Command::Run(options) = &cli.command;
    let job = Job {
        teacher: &options.teacher,
        student: &options.output,
        source: options.work.source(),
        resume: options.resume,
    };
    let outcome = run_job(job, &options.work.settings()?, &options.device.open()?, &HEAP)?;
    print(cli.json, &outcome, || {
        let sum = |size: fn(&BlockReport) -> usize| outcome.blocks.iter().map(|b| size(&b.report)).sum::<usize>();
        format!(
            "{} blocks distilled in {:.1} s, peak heap {:.1} MiB, {} -> {} parameters: {student}\n\
             Next: distill recompose {} {student} -o student.onnx",
            outcome.blocks.len(),
            outcome.seconds,
            outcome.peak_bytes as f64 / f64::from(1 << 20),
            sum(|report| report.teacher_parameters),
            sum(|report| report.parameters),
            options.teacher.display(),
            student = options.output.display(),
        )
    })
}
