//! Kills at random times.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use distill_core::Stream;

use super::bench::{Case, Desk, KILLED, succeeded};

/// Longest time until a kill: trainings write their state every ten seconds.
const LONGEST: Duration = Duration::from_secs(20);
/// No need to look for more.
const ENOUGH: usize = 5;

#[derive(Default)]
struct Tally {
    wanted: usize,
    starts: usize,
    /// Starts that said that they resume what a killed one had done.
    resumed: usize,
    /// Kills of a command that had not finished.
    hits: usize,
    outputs: usize,
}

/// Kills a command until it was hit `wanted` times, and lets it finish. Returns the number of violations.
pub fn kills(case: &Case<'_>, wanted: usize, stream: &mut Stream) -> usize {
    let (mut tally, mut violations) = (Tally { wanted, ..Tally::default() }, 0);
    while tally.hits < wanted && violations < ENOUGH {
        let desk = case.desk();
        match kill_until_done(case, &desk, &mut tally, stream) {
            Ok(()) => tally.outputs += 1,
            Err(wrong) => {
                violations += 1;
                case.keep(desk, &wrong);
            }
        }
    }
    let Tally { starts, resumed, hits, outputs, .. } = tally;
    println!(
        "  {hits} kills of a living process in {starts} starts, of which {resumed} resumed; \
         {outputs} times the same output, {violations} violations"
    );
    violations
}

/// Kills a command and starts it again, until it finishes or was hit often enough.
fn kill_until_done(case: &Case<'_>, desk: &Desk, tally: &mut Tally, stream: &mut Stream) -> Result<(), String> {
    let longest = LONGEST.min(case.time.mul_f64(1.2)).as_micros() as usize;
    loop {
        let is_last = tally.hits >= tally.wanted;
        let delay = if is_last { Duration::MAX } else { Duration::from_micros(stream.below(longest) as u64) };
        let output = cut(case.command(desk), delay);
        tally.starts += 1;
        tally.resumed += usize::from(String::from_utf8_lossy(&output.stderr).contains("resuming"));
        if output.status.signal() != Some(KILLED) {
            succeeded(&output)?;
            return case.check_end(desk);
        }
        tally.hits += 1;
        case.check_cut(desk)?;
    }
}

/// Runs a command, and kills it after a time if it has not finished.
fn cut(mut command: Command, delay: Duration) -> Output {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        let left = delay.saturating_sub(start.elapsed());
        if left.is_zero() {
            child.kill().unwrap();
            break;
        }
        thread::sleep(left.min(Duration::from_millis(2)));
    }
    child.wait_with_output().unwrap()
}
