//! What a gradient step takes from the heap. A program of its own: the counter sees every thread of a process.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

use std::alloc::System;

use distill_core::{
    Block, BlockBuilder, BlockTrainer, Boundary, Cache, Conv, CountingAllocator, Device, Images, Inputs, Op, Purpose,
    Role, Schedule, Shape, Source, Stream, Training, Update, Weight,
};

#[global_allocator]
static HEAP: CountingAllocator<System> = CountingAllocator::new(System);

const INPUT: Shape = Shape::new(4, 8, 8);

/// `relu(conv(relu(conv(x))) + x)`.
fn block() -> Block {
    let stream = &mut Stream::new(1, Purpose::Images, 0);
    let conv = Op::Conv(Conv::square(1, 1));
    let mut weights = |name: &str| {
        let kernel = stream.gaussian(4 * 4 * 9).iter().map(|w| 0.1 * w).collect();
        vec![
            Weight::new(format!("{name}.w"), &[4, 4, 3, 3], kernel),
            Weight::new(format!("{name}.b"), &[4], vec![0.0; 4]),
        ]
    };
    let mut builder = BlockBuilder::new("block", Role::Neighbourhood, INPUT);
    let x = builder.push("conv1", conv.clone(), &[0], weights("conv1")).unwrap();
    let x = builder.push("relu1", Op::RELU, &[x], vec![]).unwrap();
    let x = builder.push("conv2", conv, &[x], weights("conv2")).unwrap();
    let x = builder.push("add", Op::Add, &[x, 0], vec![]).unwrap();
    builder.push("relu2", Op::RELU, &[x], vec![]).unwrap();
    builder.finish().unwrap()
}

/// Steady gradient steps allocate nothing.
fn main() {
    let training = Training {
        steps: 1000,
        batch: 40,
        update: Update::Adam,
        schedule: Schedule::Cosine,
        rate: 1e-3,
        weight_decay: 0.0,
        stop: false,
    };
    let stream = &mut Stream::new(2, Purpose::Images, 0);
    let mut boundary = Boundary::new(Cache::MEMORY, INPUT, [96, 64]);
    boundary.put_noise(96, stream).unwrap();
    let cached = Source::Cached { boundary: &mut boundary, held_out: 32, paired: false };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for source in [cached, Source::Fresh(INPUT)] {
        let rose = pool.install(|| {
            let block = block();
            let mut inputs = Inputs::new(source, 3, 0);
            let mut batches = inputs.epochs();
            let mut trainer = BlockTrainer::new(block, &training, &Device::Cpu);
            let (mut input, mut target) = (Images::zeros(INPUT, 0), Images::zeros(INPUT, 0));
            batches.next_into(training.batch, &mut target).unwrap();
            let mut steps = |count: usize| {
                for _ in 0..count {
                    batches.next_into(training.batch, &mut input).unwrap();
                    trainer.step(&input, &target);
                }
            };
            // Both threads make their queues when they first work, however late that is.
            rayon::broadcast(|_| ());
            steps(4);
            let before = HEAP.in_use_bytes();
            HEAP.reset_peak();
            steps(20);
            HEAP.peak_bytes() - before
        });
        assert_eq!(rose, 0, "bytes that steps took from the heap");
    }
    println!("steady steps took nothing from the heap");
}
