//! Cuts and faults: whatever stops a command, no file is lost, and the same command started again ends in the same bytes.
//!
//! Commands are killed (SIGKILL) at random times and started again until they finish. Then, under `strace`, each of their
//! system calls on files fails in turn, or is the last before a kill. After each there is the old file or the new one, whole;
//! in the end the folder holds what an undisturbed command leaves, and nothing else.
//!
//! ```text
//! cargo test -p distill-tests --test power
//! TEACHER=builtin KILLS=200 FAULTS=0 POWER=run cargo test -p distill-tests --test power
//! KILLS=0 FAULTS=all POWER=finetune cargo test -p distill-tests --test power
//! ```
//!
//! `POWER` takes one command (`all` for all); `KILLS` and `FAULTS` say how many of them each gets; `POWER_SEED` draws others;
//! `TEACHER=builtin` is a CIFAR-10 ResNet-20 instead of a small network; `PROGRAMS` is a folder with the two programs. What fails
//! stays in its folder, which is named.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

#[path = "power/bench.rs"]
mod bench;
#[path = "power/faults.rs"]
mod faults;
#[path = "power/kills.rs"]
mod kills;

use std::{env, process::exit};

use distill_core::{Purpose, Stream};

use self::bench::{Bench, By, Case, Job};

fn main() {
    let setting = |name: &str| env::var(name).ok();
    let number = |name: &str, usual: usize| match setting(name).as_deref() {
        Some("all") => usize::MAX,
        given => given.map_or(usual, |text| text.parse().unwrap()),
    };
    let (kills, faults, seed) = (number("KILLS", 4), number("FAULTS", 6), number("POWER_SEED", 0));
    let only = setting("POWER").filter(|name| name != "all");
    let bench = Bench::new(setting("TEACHER").is_some_and(|name| name == "builtin"), setting("PROGRAMS"));
    let jobs = bench.jobs();
    let is_asked = |job: &Job| only.as_ref().is_none_or(|only| only == job.name);
    assert!(jobs.iter().any(is_asked), "there is no such command");
    let faults = if faults::possible() { faults } else { 0 };
    let mut violations = 0;
    for (index, job) in jobs.into_iter().enumerate().filter(|(_, job)| is_asked(job)) {
        let stream = &mut Stream::new(seed as u64, Purpose::Train, index);
        let case = Case::new(&bench, job);
        let (Job { name, by, line, .. }, seconds) = (&case.job, case.time.as_secs_f64());
        println!("{name} (seed {seed}): {line}; {seconds:.1} s undisturbed");
        if *by != By::Faults && kills > 0 {
            violations += kills::kills(&case, kills, stream);
        }
        if *by != By::Kills && faults > 0 {
            violations += faults::faults(&case, faults, stream);
        }
    }
    if violations > 0 {
        eprintln!("{violations} violations");
        exit(1);
    }
}
