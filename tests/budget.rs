//! Memory plans against the heap's own count. A program of its own: the counter sees every thread of a process.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

#[path = "suite/small_network.rs"]
#[allow(dead_code, reason = "the suite uses all of it")]
mod small_network;

use std::alloc::System;

use distill_core::{
    Block, Budget, CountingAllocator, Device, Encoding, Event, Noise, Pack, PlanError, Purpose, RunError, Settings,
    Shape, Stream, Training, Width, run,
};

use crate::small_network::{pack, residual};

#[global_allocator]
static HEAP: CountingAllocator<System> = CountingAllocator::new(System);

/// A run's peak and plan in bytes, and its student.
struct Done {
    peak: usize,
    planned: usize,
    student: Vec<u8>,
}

/// Runs with `bytes`; the smallest budget where they do not do.
fn attempt(teacher: &[u8], settings: &Settings, bytes: usize) -> Result<Done, usize> {
    // Room for the student is not the run's.
    let mut student = Vec::with_capacity(teacher.len());
    let mut pack = Pack::open(teacher).unwrap();
    // A storage that takes nothing from this heap.
    let cache = Box::new(distill_device::scratch_file(&std::env::temp_dir().join("cache")).unwrap());
    let before = HEAP.in_use_bytes();
    let settings = Settings { budget: Budget { bytes, used: 0 }, ..settings.clone() };
    HEAP.reset_peak();
    let mut planned = 0;
    let observe = |event: Event<'_>| {
        if let Event::Planned(plan) = event {
            planned = plan.bytes;
        }
    };
    let result = run(&mut pack, &mut student, Some(cache), &settings, &Device::Cpu, observe).map(|_| ());
    let peak = HEAP.peak_bytes() - before;
    match result {
        Ok(()) => Ok(Done { peak, planned, student }),
        Err(RunError::Plan(PlanError::Budget { smallest, .. })) => Err(smallest),
        Err(error) => panic!("{error}"),
    }
}

fn check(what: &str, done: &Done, budget: usize) {
    let Done { peak, planned, .. } = done;
    println!("{what}: peak {peak}, planned {planned} ({:.3}), budget {budget}", *planned as f64 / *peak as f64);
    assert!(peak <= planned, "{what}: took {peak} bytes, {planned} were planned");
    assert!(planned <= &budget, "{what}: planned {planned} bytes of {budget}");
    assert!(4 * planned <= 5 * peak, "{what}: planned {planned} bytes, took {peak}");
}

/// Runs a network in all the memory there is, in half of what that takes, and in the least.
fn check_budgets(what: &str, teacher: &[u8], settings: &Settings) {
    let free = attempt(teacher, settings, usize::MAX).unwrap_or_else(|_| panic!("{what}: no limit does not do"));
    check(what, &free, usize::MAX);
    let Err(smallest) = attempt(teacher, settings, 1) else { panic!("{what}: a run in one byte") };
    assert!(attempt(teacher, settings, smallest - 1).is_err(), "{what}: {smallest} bytes are not the smallest budget");
    for budget in [smallest, (smallest + free.planned) / 2] {
        let done = attempt(teacher, settings, budget).unwrap_or_else(|least| panic!("{what}: {budget} < {least}"));
        check(what, &done, budget);
        assert_eq!(done.student, free.student, "{what}: the budget changed the student");
    }
}

/// The first block of each stage of a CIFAR ResNet, with the stride, and the second of the first.
fn blocks() -> [Block; 4] {
    let stream = &mut Stream::new(3, Purpose::Images, 0);
    [(16, 32, 16), (16, 32, 32), (32, 16, 32), (64, 8, 64)]
        .map(|(from, size, to)| residual(stream, "block", Shape::new(from, size, size), to))
}

fn check_grid() {
    for (index, block) in blocks().into_iter().enumerate() {
        // Two of them: the cache passes the first.
        let next = residual(&mut Stream::new(4, Purpose::Images, 0), "next", block.output(), block.output().channels);
        let teacher = pack(&[block, next], Encoding::F32);
        for (k, noise, steps, batch) in [
            (0.5, Noise::Standard, 0, 64),
            (0.25, Noise::Standard, 2, 16),
            (0.5, Noise::Standard, 2, 50),
            (1.0, Noise::Standard, 2, 128),
            (0.5, Noise::Propagated, 0, 64),
            (0.75, Noise::Propagated, 2, 64),
        ] {
            let mut settings = small_network::settings(noise);
            settings.recipe.width = Width::new(k).unwrap();
            settings.recipe.training = Training { steps, batch, ..settings.recipe.training };
            check_budgets(&format!("block {index}, k {k}, {noise:?}, {steps} steps of {batch}"), &teacher, &settings);
        }
    }
}

/// A CIFAR ResNet of depth `6n + 2` takes as much as any other.
fn check_depth() {
    let mut peaks = Vec::new();
    for n in [3, 5, 7, 9, 18] {
        let stream = &mut Stream::new(3, Purpose::Images, 0);
        let mut shape = Shape::new(16, 32, 32);
        let channels = (0..3 * n).map(|index| 16 << (index / n));
        let network: Vec<Block> = channels
            .map(|channels| {
                let block = residual(stream, "block", shape, channels);
                shape = block.output();
                block
            })
            .collect();
        let teacher = pack(&network, Encoding::F16);
        drop(network);
        let done = attempt(&teacher, &small_network::settings(Noise::Propagated), 8 << 20);
        let done = done.unwrap_or_else(|smallest| panic!("{smallest} bytes"));
        println!("ResNet-{}: peak {}, pack {} bytes", 6 * n + 2, done.peak, teacher.len());
        peaks.push(done.peak);
    }
    let (least, most) = (peaks.iter().min().unwrap(), peaks.iter().max().unwrap());
    assert!(100 * most <= 103 * least, "{peaks:?}");
}

fn main() {
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        // Threads make their queues when they first work, however late that is.
        pool.broadcast(|_| ());
        pool.install(check_grid);
    }
    check_depth();
    println!("every run stayed inside its plan");
}
