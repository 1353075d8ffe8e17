//! The commands of `distill`: their arguments, and what they print. The work is in the library.

mod allocate;
mod calibrate;
mod compare;
mod compress;
mod files;
mod finetune;
mod key;
mod lookup;
mod measure;
mod networks;
mod scratch;
mod search;
mod training;

use std::{alloc::System, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use distill_core::{CountingAllocator, Device};
use distill_device::{RunOptions, VERSION, end_at_interrupt, exit_code, parse, print, run_command, start_log};
use distill_host::{learn::open_recorded, quickstart::quickstart};

use self::{
    allocate::{AllocateArgs, allocate_sparsities},
    calibrate::{CalibrateArgs, calibrate_teacher},
    compare::{CompareArgs, compare_files},
    compress::{CompressArgs, compress_model},
    finetune::{FinetuneArgs, finetune_student},
    key::{KeyArgs, make_or_use_key},
    measure::{DataCommand, EvaluateArgs, ReportCommand, evaluate_file, fetch_data, make_report},
    networks::{ImportArgs, InspectArgs, RecomposeArgs, import_file, inspect_file, recompose_files},
    scratch::{BaselineArgs, TrainArgs, baseline_student, train_teacher},
    search::{CandidatesArgs, SearchArgs, make_candidates, search_student},
};

/// Make a trained network smaller, block by block, without data
#[derive(Parser)]
#[command(name = "distill", version = VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object on stdout, also for errors; progress stays on stderr
    #[arg(long, global = true)]
    json: bool,
    /// Log more (-v: information, -vv: details)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Make a trained model's file smaller, in one command and without data
    #[command(
        after_help = "Examples:\n  distill compress resnet20.th -o student.onnx --params 50%\n  distill compress model.onnx -o student.onnx --width 0.75 --effort quick"
    )]
    Compress(Box<CompressArgs>),
    /// Distil a built-in ResNet-20 at three widths and compare the students
    #[command(after_help = "Example:\n  distill quickstart --dir demo")]
    Quickstart {
        /// Folder to write to
        #[arg(long, default_value = "distill-quickstart", value_name = "D")]
        dir: PathBuf,
    },
    /// Data sets
    Data {
        #[command(subcommand)]
        command: DataCommand,
    },
    /// Turn a trained model into a teacher pack
    #[command(after_help = "Example:\n  distill import resnet20.th -o teacher.ndp")]
    Import(ImportArgs),
    /// Show the blocks of a network
    #[command(
        after_help = "Examples:\n  distill inspect teacher.ndp\n  distill inspect teacher.ndp --width 0.75 --round-to 8\n  distill inspect teacher.ndp --budget 10MiB --width 0.5 --steps 150\n  distill inspect teacher.ndp --draw teacher.svg"
    )]
    Inspect(Box<InspectArgs>),
    /// Add noise images that match the teacher's batch-norm statistics to its pack, for --noise calibrated; no data is used
    #[command(after_help = "Example:\n  distill calibrate teacher.ndp -o teacher.ndp")]
    Calibrate(CalibrateArgs),
    /// Distil students of several widths for every block, each on its own, so that any combination of them is a student
    #[command(after_help = "Example:\n  distill candidates teacher.ndp -o candidates")]
    Candidates(CandidatesArgs),
    /// Find the combination of candidates that follows the teacher best under a bound; no data is used
    #[command(
        after_help = "Example:\n  distill candidates teacher.ndp -o candidates\n  distill search candidates teacher.ndp --params 50% -o student.ndp --widths widths.json\n  distill run teacher.ndp -o blocks.ndp --widths widths.json"
    )]
    Search(SearchArgs),
    /// Choose the share of its weights that each convolution loses: more where the network's output bears it; no data is used
    #[command(
        after_help = "Example:\n  distill allocate teacher.ndp --sparsity 0.8 -o sparsities.json\n  distill run teacher.ndp -o blocks.ndp --sparsities sparsities.json"
    )]
    Allocate(AllocateArgs),
    /// Distil the blocks of a teacher pack into a student pack, as distill-device run does
    #[command(after_help = "Example:\n  distill run teacher.ndp -o student.ndp --width 0.5")]
    Run(Box<RunOptions>),
    /// Measure accuracy on labelled images
    #[command(
        after_help = "Examples:\n  distill evaluate student.ndp --data cifar10\n  distill evaluate student.ndp --data imagenet/val --crop-fraction 0.875 --filter bicubic"
    )]
    Evaluate(EvaluateArgs),
    /// Compare a student with its teacher, without labels
    #[command(
        after_help = "Examples:\n  distill compare teacher.ndp student.onnx\n  distill compare teacher.ndp student.onnx --images photos/"
    )]
    Compare(CompareArgs),
    /// Insert distilled blocks into the teacher
    #[command(after_help = "Example:\n  distill recompose teacher.ndp student.ndp -o student.onnx")]
    Recompose(RecomposeArgs),
    /// Fine-tune the whole student, on noise or on images and their classes
    #[command(
        after_help = "Examples:\n  distill finetune teacher.ndp blocks.ndp -o student.ndp --noise calibrated\n  distill finetune teacher.ndp blocks.ndp -o student.onnx --data cifar10"
    )]
    Finetune(Box<FinetuneArgs>),
    /// Train a network from random weights, on images and their classes
    #[command(
        after_help = "Examples:\n  distill train resnet20 -o teacher.ndp --data cifar10\n  distill train model.onnx -o teacher.ndp --data photos/ --activation-noise 0.1"
    )]
    Train(Box<TrainArgs>),
    /// Train a student end to end, by a method that neighbourhood distillation is compared with
    #[command(
        after_help = "Examples:\n  distill baseline kd teacher.ndp -o student.ndp --width 0.5 --data cifar10\n  distill baseline zskd teacher.ndp -o student.ndp --width 0.5"
    )]
    Baseline(Box<BaselineArgs>),
    /// Measure every method and write a table, or complete a table
    Report {
        #[command(subcommand)]
        command: ReportCommand,
    },
    /// Make a pair of keys, or sign packs with one
    #[command(
        after_help = "Example:\n  distill key -o release.key\n  distill key --sign release.key --counter 3 teacher.ndp\n  distill run teacher.ndp -o student.ndp --require-signed-by release.key.pub"
    )]
    Key(KeyArgs),
    /// Print a script that completes the commands in a shell
    #[command(after_help = "Example:\n  distill completions bash > ~/.local/share/bash-completion/completions/distill")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write one for each command
    #[command(after_help = "Example:\n  distill man --dir ~/.local/share/man/man1")]
    Man {
        /// Folder to write the pages to
        #[arg(long, value_name = "D")]
        dir: Option<PathBuf>,
    },
}

/// Parses the arguments and runs the command.
pub fn run(heap: &CountingAllocator<System>) -> ExitCode {
    let Cli { command, json, verbose } = parse();
    start_log(verbose);
    end_at_interrupt();
    exit_code(json, execute(command, json, heap))
}

fn execute(command: Command, json: bool, heap: &CountingAllocator<System>) -> Result<()> {
    match command {
        Command::Quickstart { dir } => {
            let outcome = quickstart(&dir, &Device::Cpu, heap)?;
            print(json, &outcome, || outcome.table())
        }
        Command::Compress(args) => compress_model(json, &args, heap),
        Command::Data { command: DataCommand::Fetch(args) } => fetch_data(json, &args),
        Command::Import(args) => import_file(json, &args),
        Command::Inspect(args) => inspect_file(json, &args),
        Command::Candidates(args) => make_candidates(json, &args),
        Command::Search(args) => search_student(json, &args),
        Command::Allocate(args) => allocate_sparsities(json, &args),
        Command::Calibrate(args) => calibrate_teacher(json, &args),
        Command::Run(options) => run_command(json, &options, Some(open_recorded), heap),
        Command::Evaluate(args) => evaluate_file(json, &args),
        Command::Compare(args) => compare_files(json, &args),
        Command::Recompose(args) => recompose_files(json, &args),
        Command::Finetune(args) => finetune_student(json, &args),
        Command::Train(args) => train_teacher(json, &args),
        Command::Baseline(args) => baseline_student(json, &args),
        Command::Report { command } => make_report(json, &command, heap),
        Command::Key(args) => make_or_use_key(json, &args),
        Command::Completions { shell } => lookup::completions(json, shell, &mut Cli::command()),
        Command::Man { dir } => lookup::manual(json, dir.as_deref(), Cli::command()),
    }
}
