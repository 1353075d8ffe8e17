//! Time and peak heap of what a run is made of, with fixed seeds. An argument picks the benches whose name holds it.
//!
//! Named work/stage/shape/width/batch/device. Each line is the median over repetitions after one that is not counted.

use std::{alloc::System, time::Instant};

use burn::tensor::{Device, Tensor};
use distill_core::{
    Block, BlockTrainer, CountingAllocator, DeviceBlock, Encoding, MICRO_BATCH, NormalEquations, Pack, PackWriter,
    Purpose, Settings, Shape, Statistics, Stream, Width, fold_batch_norms, images, run, shrink, solvable_node,
};
use distill_host::quickstart::builtin_teacher;

#[global_allocator]
static HEAP: CountingAllocator<System> = CountingAllocator::new(System);

/// Positions of one block of each stage whose shortcut is the identity.
const STAGES: [(&str, usize); 3] = [("stage1", 2), ("stage2", 5), ("stage3", 8)];
const MIB: f64 = (1 << 20) as f64;

fn main() -> anyhow::Result<()> {
    let device = Device::flex();
    let teacher = builtin_teacher()?;
    println!("{:<34} {:>10} {:>10}", "bench", "median ms", "peak MiB");
    for (stage, position) in STAGES {
        let block = fold_batch_norms(&teacher.blocks[position])?;
        for batch in [64, 128] {
            bench_step(stage, &block, batch, &device)?;
        }
    }
    for (stage, position) in STAGES {
        let block = fold_batch_norms(&teacher.blocks[position])?;
        bench_solve(stage, &block, &device)?;
    }
    let mut pack = Vec::new();
    let mut writer = PackWriter::new(&mut pack, &teacher.manifest, teacher.blocks.len())?;
    for (position, block) in teacher.blocks.iter().enumerate() {
        writer.add(position, block, Encoding::F32)?;
    }
    writer.finish()?;
    for (name, k, steps) in [("solve", 0.75, 0), ("solve+20", 0.5, 20)] {
        bench_run(name, &pack, k, steps, &device)?;
    }
    Ok(())
}

/// One gradient step: inputs and targets ready; forward, loss, backward, Adam.
fn bench_step(stage: &str, teacher: &Block, batch: usize, device: &Device) -> anyhow::Result<()> {
    let student = shrink(teacher, Width::new(0.5)?)?;
    let settings = Settings::new(Width::new(0.5)?, 1 << 20);
    let mut trainer = BlockTrainer::new(&student, &settings.recipe.training, device);
    let input = noise(teacher.input(), batch, device);
    let target = DeviceBlock::new(teacher, device).forward(input.clone(), Statistics::Running);
    measure(&format!("step/{stage}/{}/k0.5/b{batch}/flex", teacher.input()), 9, || {
        trainer.step(input.clone(), target.clone());
    });
    Ok(())
}

/// A ridge solve over 512 inputs that are ready: normal equations and factorisation.
fn bench_solve(stage: &str, teacher: &Block, device: &Device) -> anyhow::Result<()> {
    let student = shrink(teacher, Width::new(0.75)?)?;
    let node = solvable_node(&student, teacher).ok_or_else(|| anyhow::anyhow!("nothing to solve"))?;
    let (teacher_on, student_on) = (DeviceBlock::new(teacher, device), DeviceBlock::new(&student, device));
    let input = noise(teacher.input(), MICRO_BATCH, device);
    measure(&format!("solve/{stage}/{}/k0.75/n512/flex", teacher.input()), 3, || {
        let mut equations = NormalEquations::new(&student, node);
        for _ in 0..512 / MICRO_BATCH {
            equations.add(&teacher_on, &student_on, input.clone());
        }
        std::hint::black_box(equations.solve(&student).is_ok());
    });
    Ok(())
}

/// The whole job in memory, propagated noise.
fn bench_run(name: &str, pack: &[u8], k: f32, steps: usize, device: &Device) -> anyhow::Result<()> {
    let settings = Settings::new(Width::new(k)?, steps);
    measure(&format!("run/resnet20/{name}/k{k}/flex"), 3, || {
        let mut student = Vec::new();
        let done = Pack::open(pack)
            .is_ok_and(|mut teacher| run(&mut teacher, &mut student, &settings, device, |_| {}).is_ok());
        assert!(done, "the run failed");
    });
    Ok(())
}

fn noise(shape: Shape, count: usize, device: &Device) -> Tensor<4> {
    images(Stream::new(0, Purpose::Images, 0).images(count, shape), shape, device)
}

fn measure(name: &str, repetitions: usize, mut work: impl FnMut()) {
    if std::env::args().nth(1).is_some_and(|wanted| !name.contains(&wanted)) {
        return;
    }
    work();
    HEAP.reset_peak();
    let mut times: Vec<f64> = (0..repetitions)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{name:<34} {:>10.1} {:>10.1}", times[repetitions / 2], HEAP.peak_bytes() as f64 / MIB);
}
