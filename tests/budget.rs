//! Memory plans against the heap's own count. A program of its own: the counter sees every thread of a process.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

use std::alloc::System;

use distill_core::{
    Activation, BatchNorm, Block, BlockBuilder, Budget, Calibration, Calibrator, Conv, CountingAllocator, Device,
    Encoding, Event, Manifest, Op, Pack, PackWriter, Part, Pattern, PlanError, Purpose, Recipe, Ridge, Role, Run,
    RunError, Selection, Settings, Shape, SourceKind, Sparsity, Stream, Training, Update, Width, run,
};

use distill_tests::{Task, conv_norm, gaussian, norm_weights, pack, residual, source};

#[global_allocator]
static HEAP: CountingAllocator<System> = CountingAllocator::new(System);

/// A run's peak and plan in bytes, and its student.
struct Done {
    peak: u64,
    planned: u64,
    student: Vec<u8>,
}

/// Runs with `bytes`, into storage that holds `student`; the smallest budget where they do not do.
fn attempt(teacher: &[u8], task: &Task, bytes: u64, mut student: Vec<u8>) -> Result<Done, u64> {
    // Room for the student is not the run's.
    student.reserve(teacher.len() + (1 << 20));
    let (mut pack, mut source) = (Pack::open(teacher).unwrap(), source(task.kind, teacher));
    // A storage that takes nothing from this heap.
    let cache = Box::new(distill_device::scratch_file(&std::env::temp_dir().join("cache")).unwrap());
    let before = HEAP.in_use_bytes();
    let settings = &Settings { budget: Budget { bytes, used: 0 }, ..task.settings.clone() };
    let (source, scratch) = (&mut *source, Some(cache as _));
    let run_of = Run { teacher: &mut pack, source, scratch, settings, device: &Device::Cpu };
    HEAP.reset_peak();
    let mut planned = 0;
    let observe = |event: Event<'_>| {
        if let Event::Planned(plan) = event {
            planned = plan.bytes;
        }
    };
    let result = run(run_of, &mut student, observe).map(|_| ());
    let peak = (HEAP.peak_bytes() - before) as u64;
    match result {
        // Of a random block, a student without a solve is of no use, which shows once all its work is done.
        Ok(()) | Err(RunError::Useless(_)) => Ok(Done { peak, planned, student }),
        Err(RunError::Plan(PlanError::Budget { smallest, .. })) => {
            assert!(peak <= smallest, "planning took {peak} bytes, the leanest run {smallest}");
            Err(smallest)
        }
        Err(error) => panic!("{error}"),
    }
}

fn check(what: &str, done: &Done, budget: u64) {
    let Done { peak, planned, .. } = done;
    println!("{what}: peak {peak}, planned {planned} ({:.3}), budget {budget}", *planned as f64 / *peak as f64);
    assert!(peak <= planned, "{what}: took {peak} bytes, {planned} were planned");
    assert!(planned <= &budget, "{what}: planned {planned} bytes of {budget}");
    assert!(4 * planned <= 5 * peak, "{what}: planned {planned} bytes, took {peak}");
}

/// Runs a network in all the memory there is, in half of what that takes, in the least, and once more where all is done.
fn check_budgets(what: &str, teacher: &[u8], task: &Task) {
    let attempt = |bytes, student| attempt(teacher, task, bytes, student);
    let free = attempt(u64::MAX, Vec::new()).unwrap_or_else(|_| panic!("{what}: no limit does not do"));
    check(what, &free, u64::MAX);
    let Err(smallest) = attempt(1, Vec::new()) else { panic!("{what}: a run in one byte") };
    assert!(attempt(smallest - 1, Vec::new()).is_err(), "{what}: {smallest} bytes are not the smallest budget");
    for budget in [smallest, (smallest + free.planned) / 2] {
        let done = attempt(budget, Vec::new()).unwrap_or_else(|least| panic!("{what}: {budget} < {least}"));
        check(what, &done, budget);
        assert!(done.student == free.student, "{what}: the budget changed the student");
    }
    let resumed = attempt(smallest, free.student.clone()).unwrap_or_else(|least| panic!("{what}: {least}"));
    assert!(resumed.peak <= resumed.planned, "{what}: {} bytes of {} to go on", resumed.peak, resumed.planned);
    assert!(resumed.student == free.student, "{what}: going on with a finished run changed it");
}

fn task(k: f32, kind: SourceKind, steps: usize, batch: usize) -> Task {
    Task::new(kind, |settings| {
        settings.recipe.width = Width::new(k).unwrap();
        // With weight decay, a student that is its teacher is trained, too.
        let training = settings.recipe.training;
        settings.recipe.training = Training { steps, batch, weight_decay: 1e-6, ..training };
    })
}

/// Two of the same kind: the cache passes the first.
fn pair(block: Block, next: Block) -> Vec<u8> {
    pack(&[block, next], Encoding::F32)
}

/// The first block of each stage of a CIFAR ResNet, with the stride, and the second of the first.
fn check_grid() {
    for (from, size, to) in [(16, 32, 16), (16, 32, 32), (32, 16, 32), (64, 8, 64)] {
        let stream = &mut Stream::new(3, Purpose::Images, 0);
        let block = residual(stream, "block", Shape::new(from, size, size), to);
        let next = residual(stream, "next", block.output(), to);
        let teacher = pair(block, next);
        for (k, noise, steps, batch) in [
            (0.5, SourceKind::Standard, 0, 64),
            (0.25, SourceKind::Standard, 2, 16),
            (0.5, SourceKind::Standard, 2, 50),
            (1.0, SourceKind::Standard, 2, 128),
            (0.5, SourceKind::Propagated, 0, 64),
            (0.75, SourceKind::Propagated, 2, 64),
        ] {
            let what = format!("{from}x{size}x{size} to {to}, k {k}, {noise:?}, {steps} steps of {batch}");
            check_budgets(&what, &teacher, &task(k, noise, steps, batch));
        }
    }
}

/// Channels that a convolution writes, extent of its kernel, groups.
type Layer = (usize, usize, usize);

/// A chain of convolutions, each with its batch norm and a ReLU.
fn chain(name: &str, input: Shape, convolutions: &[Layer]) -> Block {
    let stream = &mut Stream::new(5, Purpose::Images, 0);
    let mut builder = BlockBuilder::new(name, Role::Neighbourhood, input);
    let (mut x, mut from) = (BlockBuilder::INPUT, input.channels);
    for (index, &(to, extent, groups)) in convolutions.iter().enumerate() {
        let conv = Op::Conv(Conv::square(1, (extent / 2) as u16).grouped(groups as u16));
        let kernel = gaussian(stream, &format!("conv{index}"), &[to, from / groups, extent, extent]);
        x = builder.push(&format!("conv{index}"), conv, &[x], vec![kernel]).unwrap();
        let norm = norm_weights(stream, &format!("norm{index}"), to);
        x = builder.push(&format!("norm{index}"), Op::BatchNorm(BatchNorm { epsilon: 1e-5 }), &[x], norm).unwrap();
        x = builder.push(&format!("relu{index}"), Op::RELU, &[x], Vec::new()).unwrap();
        from = to;
    }
    builder.finish().unwrap()
}

/// Blocks where something else than the images is large: kernels, batch norms, kernels that are shrunk on both sides.
fn check_shapes() {
    let shapes: [(&str, Shape, &[Layer]); 5] = [
        ("bottleneck", Shape::new(64, 2, 2), &[(256, 1, 1), (256, 3, 1), (64, 1, 1)]),
        ("inverted residual", Shape::new(16, 16, 16), &[(64, 1, 1), (64, 3, 64), (16, 1, 1)]),
        ("growing batch norms", Shape::new(16, 2, 2), &[(704, 1, 16), (1408, 1, 704), (16, 1, 16)]),
        ("whole groups", Shape::new(64, 4, 4), &[(128, 1, 1), (128, 3, 32), (64, 1, 1)]),
        ("one convolution", Shape::new(32, 8, 8), &[(32, 3, 1)]),
    ];
    for (name, input, convolutions) in shapes {
        let teacher = pair(chain(name, input, convolutions), chain("next", input, convolutions));
        for noise in [SourceKind::Standard, SourceKind::Propagated] {
            for (solved, steps, batch) in [(true, 0, 64), (false, 0, 64), (true, 2, 1), (false, 1, 200)] {
                let task = task(0.5, noise, steps, batch).with(|s| {
                    (s.recipe.solve, s.recipe.training.update) = (solved, Update::MOMENTUM);
                });
                let what = format!("{name}, {noise:?}, solve {solved}, {steps} steps of {batch}");
                check_budgets(&what, &teacher, &task);
            }
        }
    }
}

/// The fully connected layers of a VGG, whose Gram matrix is large, after a convolution.
fn check_connected() {
    let before = |input| chain("before", input, &[(16, 1, 1), (16, 3, 1)]);
    let stream = &mut Stream::new(5, Purpose::Images, 0);
    let input = Shape::new(16, 4, 4);
    let mut builder = BlockBuilder::new("connected", Role::Neighbourhood, input);
    let mut x = builder.push("flatten", Op::Flatten, &[0], Vec::new()).unwrap();
    for (index, [from, to]) in [[256, 384], [384, 320], [320, 40]].into_iter().enumerate() {
        let name = format!("linear{index}");
        let weights = vec![gaussian(stream, &name, &[to, from]), gaussian(stream, &format!("{name}.bias"), &[to])];
        x = builder.push(&name, Op::Linear, &[x], weights).unwrap();
        if index < 2 {
            x = builder.push(&format!("relu{index}"), Op::RELU, &[x], Vec::new()).unwrap();
        }
    }
    let network = [before(input), builder.finish().unwrap()];
    let (plain, noisy) = (pack(&network, Encoding::F32), calibrated(&network));
    for (noise, steps) in [(SourceKind::Standard, 0), (SourceKind::Propagated, 0), (SourceKind::Standard, 2)] {
        check_budgets(&format!("connected, {noise:?}, {steps} steps"), &plain, &task(0.5, noise, steps, 64));
    }
    for (selection, projections) in [(Selection::Norm, 0), (Selection::Residual, 0), (Selection::Residual, 2)] {
        let task = task(0.5, SourceKind::Calibrated, 0, 64).with(|s| {
            (s.sequential, s.recipe.images, s.recipe.ridge) = (true, 128, Ridge::HeldOut);
            (s.recipe.selection, s.recipe.projections) = (selection, projections);
        });
        check_budgets(&format!("connected, calibrated, {selection:?}, {projections} projections"), &noisy, &task);
    }
}

/// Channels of which several features leave together: whole groups, and those of a convolution before a linear layer.
fn check_together() {
    let stream = &mut Stream::new(5, Purpose::Images, 0);
    let mut builder = BlockBuilder::new("flattened", Role::Neighbourhood, Shape::new(16, 4, 4));
    let x = conv_norm(&mut builder, stream, ("conv", "norm"), 0, [16, 24], 1);
    let x = builder.push("relu", Op::RELU, &[x], Vec::new()).unwrap();
    let x = builder.push("flatten", Op::Flatten, &[x], Vec::new()).unwrap();
    let weights = vec![gaussian(stream, "linear", &[40, 384]), gaussian(stream, "linear.bias", &[40])];
    builder.push("linear", Op::Linear, &[x], weights).unwrap();
    let flattened = calibrated(&[builder.finish().unwrap()]);
    let layers: [Layer; 3] = [(128, 1, 1), (128, 3, 8), (64, 1, 1)];
    let teacher =
        calibrated(&[chain("groups", Shape::new(64, 4, 4), &layers), chain("next", Shape::new(64, 4, 4), &layers)]);
    let task = task(0.5, SourceKind::Calibrated, 0, 64).with(|s| {
        (s.recipe.images, s.recipe.selection) = (128, Selection::Residual);
    });
    check_budgets("whole groups, calibrated, residual", &teacher, &task);
    check_budgets("flattened, calibrated, residual", &flattened, &task);
}

/// The same blocks with all that calibrated noise is used with, each alone and together.
fn check_calibrated() {
    for (from, size, to) in [(16, 32, 16), (16, 32, 32), (32, 16, 32), (64, 8, 64)] {
        let stream = &mut Stream::new(3, Purpose::Images, 0);
        let block = residual(stream, "block", Shape::new(from, size, size), to);
        let next = residual(stream, "next", block.output(), to);
        let teacher = calibrated(&[block, next]);
        // Enough inputs that some choose a ridge.
        let [plain, steps] = [(0.5, 0), (0.75, 2)]
            .map(|(k, steps)| task(k, SourceKind::Calibrated, steps, 64).with(|s| s.recipe.images = 128));
        let with = |task: &Task, change: fn(&mut Settings)| task.clone().with(change);
        let all: fn(&mut Settings) = |s| {
            s.sequential = true;
            (s.recipe.selection, s.recipe.ridge) = (Selection::Residual, Ridge::HeldOut);
        };
        for (what, task) in [
            ("alone", plain.clone()),
            ("sequential", with(&plain, |s| s.sequential = true)),
            ("residual", with(&plain, |s| s.recipe.selection = Selection::Residual)),
            ("ridge", with(&plain, |s| s.recipe.ridge = Ridge::HeldOut)),
            ("projections", with(&plain, |s| s.recipe.projections = 2)),
            ("stop", with(&steps, |s| s.recipe.training.stop = true)),
            ("stop, sequential", with(&steps, |s| (s.sequential, s.recipe.training.stop) = (true, true))),
            ("steps", with(&steps, all)),
            ("sparse", with(&plain, |s| s.recipe.sparsity = Sparsity::new(0.5, Pattern::Weights).ok())),
            (
                "sparse, projections",
                with(&plain, |s| {
                    s.recipe.sparsity = Sparsity::new(0.8, Pattern::Weights).ok();
                    (s.recipe.width, s.recipe.projections) = (Width::FULL, 2);
                }),
            ),
            (
                "sparse by size, steps",
                with(&steps, |s| {
                    (s.recipe.sparsity, s.recipe.solve) = (Sparsity::of_each(2, 4).ok(), false);
                }),
            ),
            (
                "sparse alone",
                with(&plain, |s| {
                    (s.sequential, s.recipe.width) = (true, Width::FULL);
                    s.recipe.sparsity = Sparsity::of_each(2, 4).ok();
                }),
            ),
            ("all", with(&with(&plain, all), |s| s.recipe.projections = 2)),
        ] {
            check_budgets(&format!("{from}x{size}x{size} to {to}, calibrated, {what}"), &teacher, &task);
        }
    }
    // A solve of more outputs than features.
    let wide = |name: &str| chain(name, Shape::new(16, 1, 1), &[(16, 1, 1), (1024, 1, 1)]);
    let task = task(0.5, SourceKind::Propagated, 0, 64);
    let task = task.with(|s| (s.recipe.images, s.recipe.ridge) = (128, Ridge::HeldOut));
    check_budgets("wide outputs, ridge", &pack(&[wide("wide")], Encoding::F32), &task);
}

/// Blocks that look ahead at one and at two of the three; the last has none to look at.
fn check_look_ahead() {
    for (from, size, to) in [(16, 32, 32), (64, 8, 64)] {
        let stream = &mut Stream::new(3, Purpose::Images, 0);
        let mut network = vec![residual(stream, "block", Shape::new(from, size, size), to)];
        for name in ["next", "last"] {
            network.push(residual(stream, name, network[0].output(), to));
        }
        let (plain, noisy) = (pack(&network, Encoding::F32), calibrated(&network));
        for (kind, teacher) in [(SourceKind::Propagated, &plain), (SourceKind::Calibrated, &noisy)] {
            for (look_ahead, stop, batch) in [(1, true, 16), (2, false, 16)] {
                let task = task(0.5, kind, 2, batch);
                let task = task.with(|s| (s.look_ahead, s.recipe.training.stop) = (look_ahead, stop));
                let what =
                    format!("{from}x{size}x{size} to {to}, {kind}, {look_ahead} ahead, stop {stop}, batch {batch}");
                check_budgets(&what, teacher, &task);
            }
        }
    }
}

/// A look-ahead from a small block over large ones, with gradient steps and without, where nothing is looked at.
fn check_look_ahead_over_large_blocks() {
    let input = Shape::new(16, 16, 16);
    let small: [Layer; 2] = [(16, 1, 1), (16, 1, 1)];
    let large: [Layer; 2] = [(256, 3, 1), (16, 3, 1)];
    let network = [chain("small", input, &small), chain("large", input, &large), chain("last", input, &large)];
    let teacher = pack(&network, Encoding::F32);
    for (look_ahead, steps) in [(1, 0), (2, 0), (1, 2), (2, 2)] {
        let task = task(0.5, SourceKind::Standard, steps, 16);
        let task = task.with(|s| (s.look_ahead, s.blocks) = (look_ahead, vec![0]));
        check_budgets(&format!("small before large, {look_ahead} ahead, {steps} steps"), &teacher, &task);
    }
}

/// A pack of a network with more noise images than are held out.
fn calibrated(network: &[Block]) -> Vec<u8> {
    let calibration = Calibration { batch: 64, ..Calibration::new(1, 0) };
    let channels = network[0].input().channels;
    let manifest = Manifest { mean: vec![0.5; channels], std: vec![0.25; channels], ..distill_tests::manifest() };
    let mut calibrator = Calibrator::new(network);
    let mut images = calibrator.batch(0, &calibration, &manifest.pixels(), |_| {});
    (1..3).for_each(|batch| images.append(calibrator.batch(batch, &calibration, &manifest.pixels(), |_| {})));
    let mut bytes = Vec::new();
    let mut writer = PackWriter::with_noise(&mut bytes, &manifest, network.len()).unwrap();
    for (position, block) in network.iter().enumerate() {
        writer.add(position, block, Encoding::F16).unwrap();
    }
    writer.add_noise(calibration, &images, 0.5).unwrap();
    writer.finish().unwrap();
    bytes
}

/// Neighbourhoods inside a block, and students that differ in more than their width.
fn check_recipes() {
    let layers = [(64, 1, 1), (64, 3, 1), (64, 3, 1), (32, 1, 1)];
    let parted = |name: &str| {
        let branch = chain(name, Shape::new(32, 8, 8), &layers);
        let mut builder = BlockBuilder::new(name, Role::Neighbourhood, branch.input());
        for (index, node) in branch.nodes().iter().enumerate() {
            let weights = branch.weights_of(index).into_iter().cloned().collect();
            builder.push(&node.name, node.op.clone(), &node.inputs, weights).unwrap();
        }
        let last = branch.nodes().len() as u8;
        builder.push("add", Op::Add, &[0, last], Vec::new()).unwrap();
        (builder.finish().unwrap(), last)
    };
    let within = |name: &str, parts: fn(u8) -> Vec<[u8; 2]>| {
        let (block, last) = parted(name);
        block.with_parts(parts(last).into_iter().map(Part::from).collect()).unwrap()
    };
    let of_two = |last| vec![[0, 6], [6, last]];
    // Of the second kind only the first part has anything inside.
    let of_one = |last| vec![[0, 6], [6, 9], [9, last]];
    let parts = pair(within("parts", of_two), within("next", of_one));
    let whole = pair(chain("whole", Shape::new(32, 8, 8), &layers), chain("next", Shape::new(32, 8, 8), &layers));
    for noise in [SourceKind::Standard, SourceKind::Propagated] {
        for (steps, batch) in [(0, 64), (2, 50)] {
            let task = task(0.5, noise, steps, batch);
            check_budgets(&format!("parts, {noise:?}, {steps} steps of {batch}"), &parts, &task);
            let changed =
                Recipe { fewer_layers: 1, activation: Some(Activation::Silu), ..task.settings.recipe.clone() };
            let task = task.with(|s| s.recipe = changed);
            check_budgets(&format!("fewer layers, {noise:?}, {steps} steps of {batch}"), &whole, &task);
        }
    }
    let parts = calibrated(&[within("parts", of_two), within("next", of_one)]);
    for (steps, stop) in [(0, false), (2, false), (2, true)] {
        let task = task(0.5, SourceKind::Calibrated, steps, 50);
        let task = task.with(|s| (s.sequential, s.recipe.training.stop) = (true, stop));
        check_budgets(&format!("parts, calibrated, sequential, {steps} steps, stop {stop}"), &parts, &task);
    }
}

/// Hundreds of small blocks: what is kept of each is planned, too.
fn check_many() {
    let blocks: Vec<Block> = (0..400)
        .map(|index| chain(&format!("layer{index}.block"), Shape::new(8, 4, 4), &[(8, 1, 1), (8, 1, 1)]))
        .collect();
    let teacher = pack(&blocks, Encoding::F16);
    drop(blocks);
    for noise in [SourceKind::Standard, SourceKind::Propagated] {
        let task = task(0.5, noise, 1, 2048);
        let Err(smallest) = attempt(&teacher, &task, 1, Vec::new()) else { panic!("a run in one byte") };
        for budget in [u64::MAX, smallest] {
            let done = attempt(&teacher, &task, budget, Vec::new()).unwrap_or_else(|least| panic!("{least}"));
            println!("400 blocks, {noise:?}: peak {}, planned {}", done.peak, done.planned);
            assert!(done.peak <= done.planned, "400 blocks, {noise:?}: {} bytes of {}", done.peak, done.planned);
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
        let done = attempt(&teacher, &Task::new(SourceKind::Propagated, |_| {}), 8 << 20, Vec::new());
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
        pool.install(check_shapes);
        pool.install(check_connected);
        pool.install(check_together);
        pool.install(check_recipes);
        pool.install(check_calibrated);
        pool.install(check_look_ahead);
        pool.install(check_look_ahead_over_large_blocks);
    }
    check_many();
    check_depth();
    println!("every run stayed inside its plan");
}
