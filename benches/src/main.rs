//! Time, arithmetic rate and peak heap of what a run is made of, with fixed seeds. Arguments pick the benches whose
//! names contain one of them.
//!
//! Named work/what/…/threads. Each line is the median over repetitions after one that is not counted. The rate counts the
//! multiply-adds of the convolutions, padding included, as everybody does; its share is of the processor's peak, measured
//! first.

mod peak;

use std::{alloc::System, hint::black_box, time::Instant};

use anyhow::{Context, Result};
use clap::Parser;
use distill_core::{
    Batch, Block, Chain, Classes, CountingAllocator, Device, DeviceBlock, Encoding, Engine, Goal, Goals, Learners,
    NormalEquations, Op, Pack, PackWriter, Purpose, Ridge, Run, Schedule, Settings, Shape, Statistics, Stream, Trainer,
    Training, Update, WhiteNoise, Width, fold_batch_norms, one_hot, run, shrink, solvable,
};
use distill_host::{network::Network, quickstart::builtin_teacher};

#[global_allocator]
static HEAP: CountingAllocator<System> = CountingAllocator::new(System);

/// Positions of one block of each stage whose shortcut is the identity.
const STAGES: [(&str, usize); 3] = [("stage1", 2), ("stage2", 5), ("stage3", 8)];
const MIB: f64 = (1 << 20) as f64;

/// One number of threads, and what they can do.
struct Bench {
    threads: usize,
    /// Floating-point operations a second.
    peak: f64,
    /// Parts of the names of the benches to run; empty for all.
    wanted: Vec<String>,
}

/// Time what a run is made of
#[derive(Parser)]
struct Arguments {
    /// Run only benches whose name contains one of these
    names: Vec<String>,
    /// Numbers of threads
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2], value_name = "N,N")]
    threads: Vec<usize>,
}

fn main() -> Result<()> {
    let Arguments { names: wanted, threads } = Arguments::parse();
    let teacher = builtin_teacher()?;
    println!("{:<34} {:>10} {:>9} {:>7} {:>9}", "bench", "median ms", "GFLOP/s", "% peak", "peak MiB");
    for threads in threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| -> Result<()> {
            let peak = peak::measure();
            println!("{:<34} {:>10} {:>9.0}", format!("peak/multiply-adds/t{threads}"), "", peak / 1e9);
            Bench { threads, peak, wanted: wanted.clone() }.all(&teacher)
        })?;
    }
    Ok(())
}

impl Bench {
    fn all(&self, teacher: &Network) -> Result<()> {
        for (stage, position) in STAGES {
            let block = fold_batch_norms(&teacher.blocks[position])?;
            for k in [0.5, 1.0] {
                for batch in [16, 64, 128] {
                    self.step(stage, &block, k, batch)?;
                }
            }
            self.teacher(stage, &block);
            self.solve(stage, &block)?;
        }
        self.noise();
        self.evaluation(teacher)?;
        self.network_step(teacher);
        self.run(teacher)
    }

    /// One gradient step: inputs and targets ready; forward, loss, backward, Adam.
    fn step(&self, stage: &str, teacher: &Block, k: f32, batch: usize) -> Result<()> {
        let student = shrink(teacher, Width::new(k)?)?;
        let (engine, training) = (Engine::default(), Training::adam(1 << 20, batch));
        let mut trainer = Trainer::new(vec![student.clone()], Learners::FIRST, &training, &engine);
        let input = noise(teacher.input(), batch);
        let output = DeviceBlock::new(teacher, &engine.device).forward(&input, Statistics::Running);
        let goals = [Goal { output, ..Goal::mean_squared(teacher.output(), batch, &engine) }];
        // Forward, by weights and by input, which the first convolution has no use for.
        let macs = 3 * student.macs() - first_macs(&student);
        self.measure(&format!("step/{stage}/k{k}/b{batch}"), 25, Some(macs * batch as u64), || {
            trainer.step(&input, Goals { outputs: &goals, classes: &[] });
        });
        Ok(())
    }

    /// Targets of a batch.
    fn teacher(&self, stage: &str, teacher: &Block) {
        let (block, input) = (DeviceBlock::new(teacher, &Device::Cpu), noise(teacher.input(), 64));
        self.measure(&format!("teacher/{stage}/b64"), 15, Some(64 * teacher.macs()), || {
            black_box(block.forward(&input, Statistics::Running));
        });
    }

    /// The sums of a ridge solve over 512 inputs, hidden activations and targets ready, and its factorisation.
    fn solve(&self, stage: &str, teacher: &Block) -> Result<()> {
        let student = shrink(teacher, Width::new(0.75)?)?;
        let node = solvable(&student, teacher).context("nothing to solve")?.student;
        let read = usize::from(student.nodes()[node].inputs[0]);
        let input = noise(teacher.input(), 64);
        let hidden = DeviceBlock::up_to(&student, read, &Device::Cpu).forward(&input, Statistics::Running);
        let target = DeviceBlock::up_to(teacher, node + 1, &Device::Cpu).forward(&input, Statistics::Running);
        let features = student.weight(node, 0).map_or(0, |kernel| kernel.data.len()) / target.shape().channels + 1;
        let positions = 512 * target.shape().height * target.shape().width;
        // Half of the Gram matrix, which is symmetric, and the cross products.
        let macs = positions * (features * (features + 1) / 2 + features * target.shape().channels);
        self.measure(&format!("gram/{stage}/k0.75/n512"), 5, Some(macs as u64), || {
            let mut equations = NormalEquations::new(&student, node, Ridge::USUAL, usize::MAX);
            (0..8).for_each(|_| equations.add(&hidden, &target));
            black_box(equations);
        });
        let factorisation = (features * features * features / 6) as u64;
        self.measure(&format!("factorise/{stage}/k0.75"), 5, Some(factorisation), || {
            let mut equations = NormalEquations::new(&student, node, Ridge::USUAL, usize::MAX);
            equations.add(&noise(hidden.shape(), 1), &noise(target.shape(), 1));
            black_box(equations.solve(student.clone()).is_ok());
        });
        Ok(())
    }

    /// A million Gaussian samples.
    fn noise(&self) {
        let (mut stream, mut values) = (Stream::new(0, Purpose::Images, 0), vec![0.0; 1 << 20]);
        self.measure("noise/1Mi samples", 15, None, || stream.fill(&mut values));
    }

    /// Logits of 10,000 images, 128 at a time.
    fn evaluation(&self, teacher: &Network) -> Result<()> {
        let folded = teacher.folded()?;
        let mut chain = Chain::new(&folded.blocks, &Device::Cpu);
        let (input, mut output) = (noise(teacher.input(), 128), Batch::new(&Device::Cpu));
        let batches = 10_000 / 128;
        self.measure("evaluate/resnet20/n10000", 3, Some(10_000 * teacher.macs()), || {
            (0..batches).for_each(|_| chain.forward(&input, &mut output));
            chain.forward(&noise(teacher.input(), 10_000 % 128), &mut output);
        });
        Ok(())
    }

    /// One step of the whole network: forward, cross-entropy, backward, momentum.
    fn network_step(&self, teacher: &Network) {
        let training = Training {
            steps: 1 << 20,
            batch: 128,
            update: Update::Momentum { momentum: 0.9 },
            schedule: Schedule::Cosine,
            rate: 1e-3,
            warm_up: 0,
            weight_decay: 0.0,
            stop: false,
        };
        let input = noise(teacher.input(), training.batch);
        let labels: Vec<u16> = (0..training.batch).map(|image| (image % 10) as u16).collect();
        let macs = 3 * teacher.macs() - first_macs(&teacher.blocks[0]);
        let probabilities = one_hot(&labels, 10);
        let goals = Goals {
            outputs: &[],
            classes: &[Classes { probabilities: &probabilities, temperature: 1.0, weight: 1.0 }],
        };
        let learners = Learners { count: teacher.blocks.len(), statistics: Statistics::Current };
        let mut trainer = Trainer::new(teacher.blocks.clone(), learners, &training, &Engine::default());
        self.measure("network/resnet20/b128", 9, Some(macs * training.batch as u64), || {
            trainer.step(&input, goals);
        });
    }

    /// The whole job in memory, propagated noise.
    fn run(&self, teacher: &Network) -> Result<()> {
        let mut pack = Vec::new();
        let mut writer = PackWriter::new(&mut pack, &teacher.manifest, teacher.blocks.len())?;
        for (position, block) in teacher.blocks.iter().enumerate() {
            writer.add(position, block, Encoding::F32)?;
        }
        writer.finish()?;
        for (name, k, steps) in [("solve", 0.75, 0), ("solve+20", 0.5, 20)] {
            let settings = Settings::new(Width::new(k)?, steps);
            self.measure(&format!("run/resnet20/{name}/k{k}"), 5, None, || {
                let mut student = Vec::new();
                let done = Pack::open(pack.as_slice()).is_ok_and(|mut teacher| {
                    let (teacher, source) = (&mut teacher, &mut WhiteNoise::Propagated);
                    let run_of = Run { teacher, source, scratch: None, settings: &settings, device: &Device::Cpu };
                    run(run_of, &mut student, |_| {}).is_ok()
                });
                assert!(done, "the run failed");
            });
        }
        Ok(())
    }

    fn measure(&self, name: &str, repetitions: usize, macs: Option<u64>, mut work: impl FnMut()) {
        let name = format!("{name}/t{}", self.threads);
        if !self.wanted.is_empty() && !self.wanted.iter().any(|wanted| name.contains(wanted)) {
            return;
        }
        work();
        HEAP.reset_peak();
        let mut times: Vec<f64> = (0..repetitions)
            .map(|_| {
                let start = Instant::now();
                work();
                start.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let median = times[repetitions / 2];
        let rate = macs.map(|macs| 2.0 * macs as f64 / median);
        let (gflops, share) = match rate {
            Some(rate) => (format!("{:.0}", rate / 1e9), format!("{:.0}", 100.0 * rate / self.peak)),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let peak = HEAP.peak_bytes() as f64 / MIB;
        println!("{name:<34} {:>10.2} {gflops:>9} {share:>7} {peak:>9.1}", median * 1e3);
    }
}

/// Multiply-adds of a block's first convolution for one image.
fn first_macs(block: &Block) -> u64 {
    let first = block.nodes().iter().position(|node| matches!(node.op, Op::Conv(_))).unwrap_or(0);
    let Shape { height, width, .. } = block.shape(first + 1);
    block.weight(first, 0).map_or(0, |kernel| (kernel.data.len() * height * width) as u64)
}

fn noise(shape: Shape, count: usize) -> Batch {
    Batch::from_values(&Stream::new(0, Purpose::Images, 0).images(count, shape), shape)
}
