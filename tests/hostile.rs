//! Files from outside: whatever their bytes, they cost no more than SECURITY.md promises, end in an error or a usable value, and
//! never in a panic, an abort or a hang.
//!
//! A program of its own: the counter sees every thread of a process. It first reads the files of `fixtures/hostile`, every
//! seed and what is too large to mutate, then mutations of them for `FUZZ_SECONDS` (by default 4) in all. `FUZZ_TARGET` takes one
//! target, `FUZZ_SEED` another stream of mutations. What fails is written to `target/hostile/`.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

#[path = "hostile/large.rs"]
mod large;
#[path = "hostile/mutate.rs"]
mod mutate;
#[path = "hostile/targets.rs"]
mod targets;

use std::{
    alloc::System,
    any::Any,
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{abort, exit},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use distill_core::{CountingAllocator, Purpose, Stream};

use self::targets::Target;

#[global_allocator]
static HEAP: CountingAllocator<System> = CountingAllocator::new(System);

/// "No file costs more than 64 times its size plus 64 MiB before it is accepted, nor more than a second for each 10 MB."
const TIMES: usize = 64;
const PLUS: usize = 64 << 20;
const MOST_TIME: Duration = Duration::from_secs(1);
/// After so much an execution counts as a hang.
const HANG: Duration = Duration::from_secs(20);

/// What is being executed, for the watchdog.
static NOW: Mutex<Option<(Instant, &'static str, Vec<u8>)>> = Mutex::new(None);
static ACCEPTED: AtomicU64 = AtomicU64::new(0);

fn main() {
    let number = |name: &str, usual: u64| env::var(name).ok().map_or(usual, |text| text.parse().unwrap());
    let (seconds, seed) = (number("FUZZ_SECONDS", 4), number("FUZZ_SEED", 0));
    let only = env::var("FUZZ_TARGET").ok();
    thread::spawn(watch);
    let mut targets = targets::all();
    targets.retain(|target| only.as_ref().is_none_or(|only| only == target.name));
    assert!(!targets.is_empty(), "there is no such target");
    let each = Duration::from_secs(seconds) / targets.len() as u32;
    for (index, target) in targets.iter().enumerate() {
        ACCEPTED.store(0, Ordering::Relaxed);
        target.seeds.iter().chain(&target.large).for_each(|seed| execute(target, seed));
        let mut stream = Stream::new(seed, Purpose::Train, index);
        let (start, mut executions) = (Instant::now(), 0);
        while start.elapsed() < each {
            for _ in 0..16 {
                let mutated = (target.seal)(mutate::mutated(&mut stream, &target.seeds));
                execute(target, &mutated);
                executions += 1;
            }
        }
        println!(
            "{}: {} seeds, {executions} executions in {:.0} s, {} accepted",
            target.name,
            target.seeds.len(),
            start.elapsed().as_secs_f64(),
            ACCEPTED.load(Ordering::Relaxed)
        );
    }
}

/// Reads bytes as a target does, and holds it to the promise.
fn execute(target: &Target, bytes: &[u8]) {
    *NOW.lock().unwrap() = Some((Instant::now(), target.name, bytes.to_vec()));
    let before = HEAP.in_use_bytes();
    HEAP.reset_peak();
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.read)(bytes)));
    let (time, peak) = (start.elapsed(), HEAP.peak_bytes().saturating_sub(before));
    *NOW.lock().unwrap() = None;
    match result {
        Err(panic) => fail(target.name, bytes, &format!("it panics: {}", said(&*panic))),
        Ok(Ok(accepted)) => {
            ACCEPTED.fetch_add(1, Ordering::Relaxed);
            // What is accepted may be used, which has a plan of its own.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(accepted)) {
                fail(target.name, bytes, &format!("it panics in use: {}", said(&*panic)));
            }
        }
        Ok(Err(_)) => {}
    }
    if peak > TIMES * bytes.len() + PLUS {
        fail(target.name, bytes, &format!("{} bytes cost {peak}", bytes.len()));
    }
    let most = MOST_TIME + MOST_TIME * (bytes.len() / 10_000_000) as u32;
    // On a busy machine a process may have to wait: what takes long takes it again.
    if time > most && (0..2).all(|_| took(target, bytes) > most) {
        fail(target.name, bytes, &format!("it takes {time:?}"));
    }
}

fn took(target: &Target, bytes: &[u8]) -> Duration {
    let start = Instant::now();
    drop((target.read)(bytes));
    start.elapsed()
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn keep(name: &str, bytes: &[u8]) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile");
    fs::create_dir_all(&folder).unwrap();
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let path = folder.join(format!("{name}-{hash:016x}"));
    fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

fn fail(name: &str, bytes: &[u8], how: &str) -> ! {
    eprintln!("{name}: {how}; the bytes are in {}", keep(name, bytes));
    exit(1);
}

/// Ends the program if an execution does not end.
fn watch() {
    loop {
        thread::sleep(Duration::from_secs(1));
        let now = NOW.lock().unwrap();
        if let Some((start, name, bytes)) = &*now
            && start.elapsed() > HANG
        {
            eprintln!("{name}: it hangs; the bytes are in {}", keep(name, bytes));
            abort();
        }
    }
}
