//! `distill-device`: the program that runs where the memory is small.

use std::{alloc::System, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use distill_core::CountingAllocator;
use distill_device::{RunOptions, run_job};

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
    /// Say more (-v: information, -vv: every step's loss)
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
    let level = ["warn", "info", "debug"][usize::from(cli.verbose).min(2)];
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
    match execute(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: &Cli) -> Result<()> {
    let Command::Run(options) = &cli.command;
    let outcome = run_job(&options.teacher, &options.output, &options.settings()?, &options.device.open()?, &HEAP)?;
    if cli.json {
        println!("{}", serde_json::to_string(&outcome)?);
        return Ok(());
    }
    let (before, after) = outcome
        .blocks
        .iter()
        .fold((0, 0), |(before, after), b| (before + b.report.teacher_parameters, after + b.report.parameters));
    println!(
        "{} blocks distilled in {:.1} s, peak heap {:.1} MiB, {before} -> {after} parameters: {}",
        outcome.blocks.len(),
        outcome.seconds,
        outcome.peak_bytes as f64 / f64::from(1 << 20),
        options.output.display()
    );
    println!(
        "Next: distill recompose {} {} -o student.onnx",
        options.teacher.display(),
        options.output.display()
    );
    Ok(())
}
