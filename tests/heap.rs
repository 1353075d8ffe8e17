//! What a gradient step takes from the heap. A program of its own: the counter sees every thread of a process.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

use std::alloc::System;

use distill_core::{
    Batch, Block, BlockBuilder, BlockTraining, Classes, Conv, CountingAllocator, Device, DeviceBlock, Disturbance,
    Engine, Goal, Goals, Inputs, InputsFrom, Learners, LookAhead, Op, Portions, Purpose, Role, Shape, Statistics,
    Stream, Trainer, Training, Weight, Width, one_hot, shrink, train,
};
use distill_tests::{noise_cache, teacher};

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

const BATCH: usize = 40;

/// Bytes that later steps take from the heap.
fn rise(mut step: impl FnMut()) -> usize {
    // Both threads make their queues when they first work, however late that is.
    rayon::broadcast(|_| ());
    (0..4).for_each(|_| step());
    let before = HEAP.in_use_bytes();
    HEAP.reset_peak();
    (0..20).for_each(|_| step());
    HEAP.peak_bytes() - before
}

fn noise(shape: Shape) -> Batch {
    Batch::from_values(&Stream::new(4, Purpose::Images, 0).images(BATCH, shape), shape)
}

fn goals(blocks: &[Block]) -> Vec<Goal> {
    blocks.iter().map(|block| Goal { output: noise(block.output()), weight: 1e-4 }).collect()
}

/// A block alone, its inputs drawn for every step.
fn block_alone(from: InputsFrom<'_>, training: &Training) -> usize {
    let engine = Engine::default();
    let mut inputs = Inputs::new(from, 3, 0);
    let mut batches = inputs.epochs();
    let mut trainer = Trainer::new(vec![block()], Learners::FIRST, training, &engine);
    let (mut input, mut goal) = (Batch::new(&engine.device), Goal::mean_squared(INPUT, BATCH, &engine));
    batches.next_into(BATCH, &mut goal.output).unwrap();
    rise(|| {
        batches.next_into(BATCH, &mut input).unwrap();
        trainer.step(&input, Goals { outputs: std::slice::from_ref(&goal), classes: &[] });
    })
}

/// Blocks with goals for so many outputs, and labels where they end in logits.
fn several(blocks: Vec<Block>, learners: Learners, outputs: usize, engine: &Engine, training: &Training) -> usize {
    let (input, goals) = (noise(blocks[0].input()), goals(&blocks[..outputs]));
    let labels: Vec<u16> = (0..BATCH).map(|image| (image % 10) as u16).collect();
    let probabilities = one_hot(&labels, 10);
    let of = |temperature| Classes { probabilities: &probabilities, temperature, weight: 1.0 };
    let terms = [of(2.0), of(1.0)];
    let classifies = blocks.last().is_some_and(|last| last.output() == Shape::new(10, 1, 1));
    let classes = if classifies { &terms[..] } else { &[] };
    let mut trainer = Trainer::new(blocks, learners, training, engine);
    trainer.disturb(Disturbance { deviation: 0.1, seed: 0 });
    rise(|| trainer.step(&input, Goals { outputs: &goals, classes }))
}

/// A block that looks ahead at two, as a run trains it: from one step to the next everything is there.
fn whole_training(from: InputsFrom<'_>, engine: &Engine, training: &Training) -> usize {
    let (teacher, ahead) = (DeviceBlock::new(&block(), &engine.device), [block(), block()]);
    let (mut before, mut rose) = (0, usize::MAX);
    let training = &Training { steps: 24, ..*training };
    rayon::broadcast(|_| ());
    let how = BlockTraining {
        teacher: &teacher,
        ahead: LookAhead { blocks: &ahead, alpha: &[] },
        training,
        ramp: None,
        engine,
    };
    let student = shrink(&block(), Width::new(0.5).unwrap()).unwrap();
    train(student, how, &mut Inputs::new(from, 3, 0), |step, _| match step {
        4 => {
            before = HEAP.in_use_bytes();
            HEAP.reset_peak();
        }
        24 => rose = HEAP.peak_bytes() - before,
        _ => {}
    })
    .unwrap();
    rose
}

/// Steady gradient steps allocate nothing.
fn main() {
    let training = Training::adam(1000, BATCH);
    let mut cache = noise_cache(2, INPUT, [96, 64]);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    // All of a batch at once, and a group at a time.
    let parts = Portions { training: 16, ..Portions::default() };
    let engines = [Portions::default(), parts].map(|portions| Engine { device: Device::Cpu, portions });
    let check = |what: &str, work: &mut (dyn FnMut() -> usize + Send)| {
        assert_eq!(pool.install(work), 0, "bytes that steps of {what} took from the heap");
    };
    check("a block", &mut || block_alone(InputsFrom::Cached { cache: &mut cache, held_out: 32 }, &training));
    check("a block on fresh noise", &mut || block_alone(InputsFrom::Fresh(INPUT), &training));
    for engine in &engines {
        let several = |blocks, learners, outputs| several(blocks, learners, outputs, engine, &training);
        let all = |statistics| Learners { count: teacher().len(), statistics };
        check("a look-ahead", &mut || several(vec![block(); 3], Learners::FIRST, 3));
        check("a fine-tune", &mut || several(teacher(), all(Statistics::Running), 4));
        check("a teacher", &mut || several(teacher(), all(Statistics::Current), 0));
        check("a training", &mut || whole_training(InputsFrom::Fresh(INPUT), engine, &training));
        check("a training on a cache", &mut || {
            whole_training(InputsFrom::Cached { cache: &mut cache, held_out: 32 }, engine, &training)
        });
    }
    println!("steady steps took nothing from the heap");
}
