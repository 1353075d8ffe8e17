//! The commands that are disturbed, the folders that they run in, and what an undisturbed one leaves there.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use distill_core::{Block, BlockBuilder, Encoding, Op, Purpose, Role, Shape, Stream};
use distill_host::{network::Network, quickstart::builtin_teacher};
use distill_tests::{built_programs, conv_norm, gaussian, manifest, residual};
use serde_json::Value;
use tempfile::TempDir;

/// The signal of a kill.
pub const KILLED: i32 = 9;
/// What was at the output's place before a command.
const OLD: &[u8] = b"NDP, what was there before";

/// What disturbs a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    Kills,
    Faults,
    Both,
}

/// A command.
pub struct Job {
    pub name: &'static str,
    pub by: By,
    /// Program and arguments, which hold no spaces.
    pub line: String,
    /// A file that it replaces, besides its inputs.
    replaces: Option<&'static str>,
}

/// Files by their names.
type Files = BTreeMap<String, Vec<u8>>;

/// The programs, and the files that their commands read.
pub struct Bench {
    programs: PathBuf,
    inputs: Files,
    is_builtin: bool,
}

impl Bench {
    pub fn new(is_builtin: bool, programs: Option<String>) -> Self {
        let programs = programs.map_or_else(built_programs, PathBuf::from);
        let desk = Desk(tempfile::tempdir().unwrap());
        let teacher = if is_builtin { builtin_teacher().unwrap() } else { small_teacher() };
        teacher.write_pack(&desk.path().join("teacher.ndp"), Encoding::F32).unwrap();
        for line in [
            "distill calibrate teacher.ndp -o noisy.ndp --images 384 --batch 64 --steps 1",
            "distill-device run teacher.ndp -o blocks.ndp --noise standard --images 16",
        ] {
            succeeded(&command(&programs, &desk, line).output().unwrap()).unwrap();
        }
        Self { programs, inputs: desk.files(), is_builtin }
    }

    /// Every command that keeps unfinished work, and those that only write.
    pub fn jobs(&self) -> Vec<Job> {
        // The larger teacher is for cuts of trainings that write their state, every ten seconds.
        let (budget, images, steps) = if self.is_builtin { ("9MiB", 768, 400) } else { ("900KiB", 320, 100) };
        let run = format!("distill-device run teacher.ndp --images 64 --steps 8 --batch 16 --budget {budget}");
        let calibrate = format!("distill calibrate teacher.ndp --images {images} --batch 64 --steps 2");
        let finetune = format!("distill finetune noisy.ndp blocks.ndp --steps {steps} --batch 16");
        let report = "distill report data-free teacher.ndp --data builtin --work work --effort 0.01 --limit 100 \
                      --widths 0.5 --seeds 1";
        let recompose = "distill recompose teacher.ndp blocks.ndp";
        let jobs = [
            ("run", By::Both, &*run, "student.ndp"),
            // In the place of its input.
            ("calibrate", By::Both, &calibrate, "teacher.ndp"),
            ("finetune", By::Both, &finetune, "student.ndp"),
            ("baseline", By::Kills, "distill baseline gn-kd teacher.ndp", "student.onnx"),
            ("report", By::Kills, report, "out"),
            ("recompose", By::Faults, recompose, "student.ndp"),
            ("recompose", By::Faults, recompose, "student.onnx"),
            ("recompose", By::Faults, recompose, "student.safetensors"),
        ];
        let job = |(name, by, line, output): (_, _, &str, &'static str)| Job {
            name,
            by,
            line: format!("{line} -o {output}"),
            replaces: output.starts_with("student").then_some(output),
        };
        jobs.map(job).into()
    }
}

/// A command to disturb, and what it takes and leaves undisturbed.
pub struct Case<'a> {
    bench: &'a Bench,
    pub job: Job,
    /// How long it takes.
    pub time: Duration,
    before: Files,
    after: Files,
}

impl<'a> Case<'a> {
    /// Runs a command undisturbed.
    pub fn new(bench: &'a Bench, job: Job) -> Self {
        let old = job.replaces.map(|name| (name.to_owned(), OLD.to_vec()));
        let before = bench.inputs.clone().into_iter().chain(old).collect();
        let mut case = Self { bench, job, time: Duration::ZERO, before, after: Files::new() };
        let (desk, start) = (case.desk(), Instant::now());
        case.run(&desk).unwrap();
        case.time = start.elapsed();
        case.after = desk.files();
        case
    }

    /// A new folder for the command.
    pub fn desk(&self) -> Desk {
        let desk = Desk(tempfile::tempdir().unwrap());
        for (name, bytes) in &self.before {
            fs::write(desk.path().join(name), bytes).unwrap();
        }
        desk
    }

    pub fn command(&self, desk: &Desk) -> Command {
        command(&self.bench.programs, desk, &self.job.line)
    }

    /// Runs the command, which must succeed.
    pub fn run(&self, desk: &Desk) -> Result<(), String> {
        succeeded(&self.command(desk).output().unwrap())
    }

    /// Checks that a command that was stopped has lost nothing: each file is the old or the new one.
    pub fn check_cut(&self, desk: &Desk) -> Result<(), String> {
        let now = desk.files();
        let is_whole = |name: &String| {
            now.contains_key(name) && [&self.before, &self.after].iter().any(|files| files.get(name) == now.get(name))
        };
        match self.before.keys().find(|name| !is_whole(name)) {
            Some(name) => Err(format!("{name} is neither the old file nor the new one")),
            None => Ok(()),
        }
    }

    /// Checks that a folder holds what an undisturbed command leaves, and nothing else.
    pub fn check_end(&self, desk: &Desk) -> Result<(), String> {
        let now = desk.files();
        let mut names = now.keys().chain(self.after.keys());
        match names.find(|&name| now.get(name) != self.after.get(name)) {
            Some(name) if !self.after.contains_key(name) => Err(format!("{name} is left")),
            Some(name) => Err(format!("{name} has other bytes, or is missing")),
            None => Ok(()),
        }
    }

    /// Says what is wrong with a folder, which stays.
    pub fn keep(&self, desk: Desk, wrong: &str) {
        eprintln!("VIOLATION in {}: {}: {wrong}", desk.0.keep().display(), self.job.line);
    }
}

/// A folder in which a command runs.
pub struct Desk(TempDir);

impl Desk {
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Every file below, but for the time that a report says it took.
    fn files(&self) -> Files {
        let (mut files, mut folders) = (Files::new(), vec![self.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(self.path()).unwrap().display().to_string();
                let bytes = fs::read(&path).unwrap();
                files.insert(name, timeless(&path, bytes));
            }
        }
        files
    }
}

/// The content of a file without times. What is not JSON in a `.json` stays as it is, and is no report.
fn timeless(path: &Path, bytes: Vec<u8>) -> Vec<u8> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("json") => serde_json::from_slice(&bytes).map_or(bytes, |mut value| {
            remove_seconds(&mut value);
            value.to_string().into_bytes()
        }),
        // Its numbers are those of the `.json`.
        Some("md") => Vec::new(),
        _ => bytes,
    }
}

fn remove_seconds(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.ends_with("seconds"));
            fields.values_mut().for_each(remove_seconds);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_seconds),
        _ => {}
    }
}

fn command(programs: &Path, desk: &Desk, line: &str) -> Command {
    let mut words = line.split(' ');
    let mut command = Command::new(programs.join(words.next().unwrap()));
    command.args(words).current_dir(desk.path());
    command
}

/// Checks that a command has finished.
pub fn succeeded(output: &Output) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{}: {said}", output.status)) }
}

/// A classifier of CIFAR-10's images with two residual blocks, of random weights.
fn small_teacher() -> Network {
    let stream = &mut Stream::new(20, Purpose::Images, 0);
    let mut stem = BlockBuilder::new("stem", Role::Stem, Shape::new(3, 32, 32));
    conv_norm(&mut stem, stream, ("conv1", "bn1"), 0, [3, 4], 4);
    let mut head = BlockBuilder::new("head", Role::Head, Shape::new(8, 4, 4));
    let x = head.push("pool", Op::GlobalAveragePool, &[0], Vec::new()).unwrap();
    let weights = vec![gaussian(stream, "linear.weight", &[10, 8]), gaussian(stream, "linear.bias", &[10])];
    head.push("linear", Op::Linear, &[x], weights).unwrap();
    let blocks: [Block; 4] = [
        stem.finish().unwrap(),
        residual(stream, "layer1.0", Shape::new(4, 8, 8), 4),
        residual(stream, "layer2.0", Shape::new(4, 8, 8), 8),
        head.finish().unwrap(),
    ];
    Network::new(manifest(), blocks.to_vec()).unwrap()
}
