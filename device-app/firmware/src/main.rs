//! Distils `teacher.ndp` into `student.ndp` without an operating system: the same core as on a PC.
//!
//! Arguments are `name=value`, see [`arguments`]. Finished blocks are kept in `student.part`; a restart resumes there.

#![no_std]
#![no_main]

extern crate alloc;

mod board;
mod heap;
mod storage;

use alloc::{boxed::Box, format, string::String};
use core::{ffi::CStr, fmt::Display, str::FromStr};

use distill_core::{
    Budget, Device, Event, Pack, PackError, Pattern, ReadAt, Run, RunError, Settings, Sparsity, Update, VerifyingKey,
    WhiteNoise, Width, WriteAt, run,
};
use semihosting::{eprintln, experimental::env, fs, println, process};

use self::storage::HostFile;

const TEACHER: &CStr = c"teacher.ndp";
const STUDENT: &CStr = c"student.ndp";
/// The student's name until it is complete.
const UNFINISHED: &CStr = c"student.part";
/// Cached activations that do not fit the budget.
const CACHE: &CStr = c"cache.tmp";
/// The counter of the last signed teacher that was accepted: 8 bytes, lowest first.
const COUNTER: &CStr = c"counter";

/// Called by the board's start-up code.
fn main() -> ! {
    heap::start();
    match arguments().and_then(|arguments| distil(&arguments)) {
        Ok(()) => process::exit(0),
        Err(message) => {
            eprintln!("error: {message}");
            process::exit(1)
        }
    }
}

/// The parsed arguments.
struct Arguments {
    settings: Settings,
    noise: WhiteNoise,
    /// Whether to resume an earlier run.
    resume: bool,
    /// Whose signature the teacher must have.
    signer: Option<VerifyingKey>,
}

fn arguments() -> Result<Arguments, String> {
    let mut settings = Settings::new(Width::new(0.5).map_err(text)?, 0);
    (settings.recipe.images, settings.recipe.training.batch) = (64, 16);
    // A first-fit heap fragments: leave an eighth.
    settings.budget = Budget { bytes: (heap::SIZE / 8 * 7) as u64, used: 0 };
    let (mut noise, mut resume, mut rate, mut signer) = (WhiteNoise::Propagated, true, None, None);
    let arguments = env::args::<256>().map_err(text)?;
    // The first is the program's name.
    for argument in (&arguments).skip(1) {
        let argument = argument.map_err(text)?;
        let (name, value) = argument.split_once('=').ok_or_else(|| format!("{argument} is not name=value"))?;
        match (name, value) {
            ("width", value) => settings.recipe.width = Width::new(number(value)?).map_err(text)?,
            ("sparsity", value) => {
                settings.recipe.sparsity = Some(Sparsity::new(number(value)?, Pattern::Weights).map_err(text)?);
            }
            ("images", value) => settings.recipe.images = number(value)?,
            ("steps", value) => settings.recipe.training.steps = number(value)?,
            ("batch", value) => settings.recipe.training.batch = number(value)?,
            ("optimizer", "adam") => settings.recipe.training.update = Update::Adam,
            ("optimizer", "sgd") => settings.recipe.training.update = Update::MOMENTUM,
            ("rate", value) => rate = Some(number(value)?),
            ("seed", value) => settings.seed = number(value)?,
            ("block", value) => settings.blocks.push(number(value)?),
            ("budget", value) => settings.budget.bytes = number(value)?,
            ("noise", "standard") => noise = WhiteNoise::Standard,
            ("noise", "propagated") => noise = WhiteNoise::Propagated,
            ("start", "again") => resume = false,
            ("signed_by", digits) => signer = Some(public_key(digits)?),
            _ => {
                let known = "width=K, sparsity=S, images=N, steps=N, batch=N, optimizer=adam|sgd, rate=RATE, seed=S, \
                             block=I (more than once), budget=BYTES, noise=standard|propagated, start=again, signed_by=KEY";
                return Err(format!("unknown argument {argument} (known: {known})"));
            }
        }
    }
    let training = &mut settings.recipe.training;
    training.rate = rate.unwrap_or(training.update.default_rate());
    Ok(Arguments { settings, noise, resume, signer })
}

fn distil(Arguments { settings, noise, resume, signer }: &Arguments) -> Result<(), String> {
    let mut teacher = Pack::open(HostFile::open(TEACHER).map_err(text)?).map_err(text)?;
    if let Some(signer) = signer {
        accept(&mut teacher, signer)?;
    }
    let student = HostFile::writable(UNFINISHED, *resume).map_err(text)?;
    let scratch = Box::new(HostFile::writable(CACHE, false).map_err(text)?);
    let mut planned = 0;
    let observe = |event: Event<'_>| match event {
        Event::Planned(plan) => planned = plan.bytes,
        Event::Finished(report, _) => {
            let (name, error, loss) = (&report.name, report.relative_error, report.loss);
            println!("block {} {name} relative error {error:.6e} loss {loss:.6e}", report.index);
        }
        _ => {}
    };
    let (source, device) = (&mut noise.clone(), &Device::Cpu);
    let done = run(Run { teacher: &mut teacher, source, scratch: Some(scratch), settings, device }, student, observe);
    let (blocks, student) = done.map_err(|error| match error {
        RunError::Student(PackError::OtherJob) => format!("{error}: use the same ones, or start=again"),
        other => text(other),
    })?;
    drop(student);
    fs::rename(UNFINISHED, STUDENT).map_err(text)?;
    fs::remove_file(CACHE).map_err(text)?;
    println!("{} blocks distilled, peak heap {}, planned {planned} bytes", blocks.len(), heap::peak_bytes());
    Ok(())
}

/// Checks the teacher's signature before anything is read of its blocks, and keeps its counter: no older release comes after it.
fn accept(teacher: &mut Pack<HostFile>, signer: &VerifyingKey) -> Result<(), String> {
    let mut kept = HostFile::writable(COUNTER, true).map_err(text)?;
    let mut bytes = [0; 8];
    match kept.length().map_err(text)? {
        0 => {}
        8 => kept.read_at(0, &mut bytes).map_err(text)?,
        // To begin at 0 again would let old releases in.
        length => return Err(format!("the counter has {length} bytes, not 8: write it again")),
    }
    let accepted = u64::from_le_bytes(bytes);
    let counter = teacher.verify(signer, accepted).map_err(text)?;
    if counter > accepted {
        kept.write_at(0, &counter.to_le_bytes()).map_err(text)?;
    }
    println!("signed, release {counter}");
    Ok(())
}

/// 64 hexadecimal digits, as they stand in the public file of `distill key`.
fn public_key(digits: &str) -> Result<VerifyingKey, String> {
    let wrong = || format!("{digits} is not a public key of 64 hexadecimal digits");
    let mut key = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    for (byte, at) in key.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| wrong())?;
    }
    VerifyingKey::from_bytes(&key).map_err(|_| wrong())
}

fn number<T: FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{value} is not a number in range"))
}

fn text(error: impl Display) -> String {
    format!("{error}")
}
