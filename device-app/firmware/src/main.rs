//! Distils `teacher.ndp` into `student.ndp` on a Cortex-M7 without an operating system: the same core as on a PC.
//!
//! Arguments are `name=value`: `width=0.5`, `images=64` (inputs of each solve), `steps=0`, `seed=0`.

#![no_std]
#![no_main]

extern crate alloc;

mod heap;
mod storage;

use alloc::{format, string::String};
use core::{ffi::CStr, fmt::Display, str::FromStr};

// The critical sections of the allocator.
use cortex_m as _;
use cortex_m_rt::entry;
use distill_core::{Device, Event, Noise, Pack, Settings, Width, run};
use semihosting::{eprintln, experimental::env, fs, println, process};

use self::storage::HostFile;

const TEACHER: &CStr = c"teacher.ndp";
const STUDENT: &CStr = c"student.ndp";
/// The student's name until it is whole.
const UNFINISHED: &CStr = c"student.part";

#[entry]
fn main() -> ! {
    heap::start();
    match settings().and_then(|settings| distil(&settings)) {
        Ok(()) => process::exit(0),
        Err(message) => {
            eprintln!("error: {message}");
            process::exit(1)
        }
    }
}

/// Standard noise: what is drawn for a batch is gone with it, so no cache grows with the number of images.
fn settings() -> Result<Settings, String> {
    let mut settings = Settings::new(Width::new(0.5).map_err(text)?, 0);
    settings.noise = Noise::Standard;
    (settings.images, settings.recipe.solve_inputs, settings.recipe.training.batch) = (64, 64, 16);
    let arguments = env::args::<256>().map_err(text)?;
    // The first is the program's name.
    for argument in (&arguments).skip(1) {
        let argument = argument.map_err(text)?;
        let (name, value) = argument.split_once('=').ok_or_else(|| format!("{argument} is not name=value"))?;
        match name {
            "width" => settings.recipe.width = Width::new(number(value)?).map_err(text)?,
            "images" => settings.recipe.solve_inputs = number(value)?,
            "steps" => settings.recipe.training.steps = number(value)?,
            "seed" => settings.seed = number(value)?,
            _ => return Err(format!("unknown argument {name} (known: width, images, steps, seed)")),
        }
    }
    Ok(settings)
}

fn distil(settings: &Settings) -> Result<(), String> {
    let mut teacher = Pack::open(HostFile::open(TEACHER).map_err(text)?).map_err(text)?;
    let student = HostFile::create(UNFINISHED).map_err(text)?;
    let observe = |event: Event<'_>| {
        if let Event::Finished(report) = event {
            let (name, error, loss) = (&report.name, report.relative_error, report.loss);
            println!("block {} {name} relative error {error:.6e} loss {loss:.6e}", report.index);
        }
    };
    let (blocks, student) = run(&mut teacher, student, settings, &Device::Cpu, observe).map_err(text)?;
    drop(student);
    fs::rename(UNFINISHED, STUDENT).map_err(text)?;
    println!("{} blocks distilled, peak heap {} of {} bytes", blocks.len(), heap::peak_bytes(), heap::SIZE);
    Ok(())
}

fn number<T: FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{value} is not a number that fits"))
}

fn text(error: impl Display) -> String {
    format!("{error}")
}
