//! Calibrated noise: how it is made and kept, and what is made with it.

use std::{fs, ops::Range, path::PathBuf};

use distill_core::{
    Batch, Block, BlockBuilder, Calibration, Calibrator, Chain, Conv, Device, Encoding, NoiseImages, Op, Pack,
    PackWriter, PlanError, Purpose, Role, RunError, Selection, Settings, Shape, Slice, SourceKind, Stream, Training,
    Tuning, Width, fold_batch_norms,
};
use distill_device::Advised;
use distill_host::{
    export::{export, recompose},
    import::{ImportOptions, import},
    learn::{FineTune, Keep, LearnFrom, NoiseSource, Watched, finetune_student},
    measure::{Sample, compare},
    network::Network,
};
use distill_tests::{SAME, Task, gaussian, manifest, pack, teacher};

use crate::naive;

pub const CALIBRATION: Calibration = Calibration { batch: 64, ..Calibration::new(40, 7) };

/// Batches of noise images for the teacher, and the mismatch at every step of the last.
pub fn images(batches: usize) -> (NoiseImages, Vec<f32>) {
    let (blocks, pixels) = (teacher(), manifest().pixels());
    let mut calibrator = Calibrator::new(&blocks);
    let mut mismatch = Vec::new();
    let mut all = calibrator.batch(0, &CALIBRATION, &pixels, |m| mismatch.push(m));
    for batch in 1..batches {
        mismatch.clear();
        all.append(calibrator.batch(batch, &CALIBRATION, &pixels, |m| mismatch.push(m)));
    }
    (all, mismatch)
}

/// The teacher's pack with noise images.
pub fn calibrated_pack(images: &NoiseImages) -> Vec<u8> {
    pack_with(&teacher(), images)
}

pub fn pack_with(blocks: &[Block], images: &NoiseImages) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = PackWriter::with_noise(&mut bytes, &manifest(), blocks.len()).unwrap();
    for (position, block) in blocks.iter().enumerate() {
        writer.add(position, block, Encoding::F32).unwrap();
    }
    writer.add_noise(CALIBRATION, images, 0.5).unwrap();
    writer.finish().unwrap();
    bytes
}

/// Students of a run, in the places of their teachers, and the errors of the blocks.
pub fn student(teacher_pack: &[u8], task: &Task) -> (Vec<Block>, Vec<f64>) {
    let (reports, student) = task.run(teacher_pack).unwrap();
    let mut students = Pack::open(student.as_slice()).unwrap();
    let mut network = teacher();
    for index in 0..students.blocks() {
        network[students.position(index)] = students.block(index).unwrap();
    }
    (network, reports.iter().map(|report| report.relative_error).collect())
}

/// A run on calibrated noise.
pub fn task(k: f32, change: impl FnOnce(&mut Settings)) -> Task {
    let mut settings = Settings::calibrated(Width::new(k).unwrap(), 0);
    (settings.recipe.images, settings.recipe.projections) = (256, 0);
    Task { kind: SourceKind::Calibrated, settings }.with(change)
}

/// A run on standard noise that chooses channels by residual.
fn by_residual(k: f32) -> Task {
    let settings = Settings::new(Width::new(k).unwrap(), 0);
    Task { kind: SourceKind::Standard, settings }.with(|settings| settings.recipe.selection = Selection::Residual)
}

#[test]
fn what_was_made_from_noise_says_so_however_far_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let bytes = calibrated_pack(&images(2).0);
    fs::write(path("teacher.ndp"), &bytes).unwrap();
    let kinds = [SourceKind::Standard, SourceKind::Propagated, SourceKind::Calibrated];
    // Each makes another block.
    for (block, kind) in kinds.into_iter().enumerate() {
        let task = Task { kind, ..task(0.5, |_| {}) };
        let change = |s: &mut Settings| (s.blocks, s.sequential, s.recipe.images) = (vec![block], false, 64);
        let (_, student) = task.with(change).run(&bytes).unwrap();
        assert_eq!(Pack::open(student.as_slice()).unwrap().manifest().made_from, Some(kind));
        fs::write(path(&format!("{kind}.ndp")), student).unwrap();
    }
    let recomposed = |kinds: &[SourceKind]| {
        let students: Vec<PathBuf> = kinds.iter().map(|kind| path(&format!("{kind}.ndp"))).collect();
        recompose(&path("teacher.ndp"), &students).unwrap()
    };
    let [standard, propagated, calibrated] = kinds;
    // Of several the one closest to data, in any order; written and read again, too.
    for students in [[standard, propagated], [propagated, standard], [calibrated, standard], [propagated, calibrated]] {
        let network = recomposed(&students);
        assert_eq!(network.manifest.made_from, students.into_iter().max(), "{students:?}");
        for ending in ["ndp", "safetensors"] {
            let path = path(&format!("whole.{ending}"));
            export(&network, &path).unwrap();
            let read = match ending {
                "ndp" => Network::read_pack(&path).unwrap(),
                _ => import(&path, &ImportOptions::default()).unwrap(),
            };
            assert_eq!(read.manifest.made_from, network.manifest.made_from, "{ending}");
        }
    }
    let training = Training { batch: 8, ..Tuning::new(1).training };
    let tuning = Tuning { training, ..Tuning::new(1) };
    for (kind, source, expected) in [
        (propagated, NoiseSource::Standard, propagated),
        (propagated, NoiseSource::Calibrated, calibrated),
        (standard, NoiseSource::Standard, standard),
    ] {
        let (teacher, student, output) = (path("teacher.ndp"), recomposed(&[kind]), path("tuned.ndp"));
        let task = FineTune { teacher: &teacher, student: &student, from: LearnFrom::Noise(source), tuning: &tuning };
        let keep = Keep { output: &output, fresh: false };
        let (tuned, loss) = finetune_student(task, Watched::new("fine-tuning", keep)).unwrap();
        assert!(loss.is_some());
        assert_eq!(tuned.manifest.made_from, Some(expected), "{kind} and {source:?}");
    }
}

#[test]
fn each_means_of_the_solve_lowers_the_error() {
    let bytes = calibrated_pack(&images(4).0);
    // The last block's error is that of all before it, too, where each is fed what those make.
    let last = |change: fn(&mut Settings)| *student(&bytes, &task(0.5, change)).1.last().unwrap();
    let plain = last(|settings| settings.recipe.selection = Selection::Norm);
    let chosen = last(|_| {});
    let projected = last(|settings| settings.recipe.projections = 4);
    assert!(chosen < plain && projected < 0.97 * chosen, "norm {plain}, residual {chosen}, projected {projected}");
    // Students that were fed the teacher's activations do not make good each other's errors.
    let end = |change: fn(&mut Settings)| relative(&student(&bytes, &task(0.25, change)).0);
    let (alone, together) = (end(|settings| settings.sequential = false), end(|_| {}));
    assert!(together < 0.9 * alone, "independent {alone}, sequential {together}");
}

/// A chain of three convolutions, each read through a ReLU by the next: two groups of inner channels.
fn bottleneck() -> Block {
    let stream = &mut Stream::new(5, Purpose::Images, 0);
    let mut builder = BlockBuilder::new("bottleneck", Role::Neighbourhood, Shape::new(8, 6, 6));
    let mut x = BlockBuilder::INPUT;
    for (index, [to, from, extent]) in [[16, 8, 1], [16, 16, 3], [8, 16, 1]].into_iter().enumerate() {
        let name = format!("conv{index}");
        let kernel = gaussian(stream, &format!("{name}.weight"), &[to, from, extent, extent]);
        let conv = Op::Conv(Conv::square(1, (extent / 2) as u16));
        x = builder.push(&name, conv, &[x], vec![kernel, gaussian(stream, &format!("{name}.bias"), &[to])]).unwrap();
        x = builder.push(&format!("relu{index}"), Op::RELU, &[x], Vec::new()).unwrap();
    }
    builder.finish().unwrap()
}

#[test]
fn the_solve_is_of_what_the_student_makes_where_other_channels_are_gone_before_it() {
    let bytes = pack(&[bottleneck()], Encoding::F32);
    let error = |selection| {
        let task = by_residual(0.5).with(|settings| settings.recipe.selection = selection);
        task.run(&bytes).unwrap().0[0].relative_error
    };
    let (norm, residual) = (error(Selection::Norm), error(Selection::Residual));
    // 0.86 of it; with the solution for the teacher's hidden activations 0.95.
    assert!(residual < 0.9 * norm, "norm {norm}, residual {residual}");
}

#[test]
fn a_channel_stays_where_what_is_solved_reads_some_of_a_group() {
    let stream = &mut Stream::new(5, Purpose::Images, 0);
    let mut builder = BlockBuilder::new("sliced", Role::Neighbourhood, Shape::new(4, 6, 6));
    let weights = |stream: &mut Stream, name: &str, [to, from]: [usize; 2]| {
        vec![
            gaussian(stream, &format!("{name}.weight"), &[to, from, 3, 3]),
            gaussian(stream, &format!("{name}.bias"), &[to]),
        ]
    };
    let x = builder.push("conv1", SAME, &[0], weights(stream, "conv1", [8, 4])).unwrap();
    let first = Op::Slice(Slice { end: [4, u32::MAX, u32::MAX], ..Slice::ALL });
    let x = builder.push("half", first, &[x], Vec::new()).unwrap();
    let x = builder.push("relu", Op::RELU, &[x], Vec::new()).unwrap();
    builder.push("conv2", SAME, &[x], weights(stream, "conv2", [4, 4])).unwrap();
    let bytes = pack(&[builder.finish().unwrap()], Encoding::F32);
    let (reports, _) = by_residual(0.5).run(&bytes).unwrap();
    // Nothing reads the four channels that go.
    assert!(reports[0].relative_error < 1e-3, "{}", reports[0].relative_error);
}

#[test]
fn a_channel_stays_in_every_slice_of_a_group() {
    let stream = &mut Stream::new(5, Purpose::Images, 0);
    let mut builder = BlockBuilder::new("split", Role::Neighbourhood, Shape::new(4, 6, 6));
    let weights = |stream: &mut Stream, name: &str| vec![gaussian(stream, name, &[8, 4, 3, 3])];
    let x = builder.push("conv1", SAME, &[0], weights(stream, "conv1")).unwrap();
    let slice = |start, end| Op::Slice(Slice { start: [start, 0, 0], end: [end, u32::MAX, u32::MAX], ..Slice::ALL });
    let one = builder.push("one", slice(0, 4), &[x], Vec::new()).unwrap();
    let other = builder.push("other", slice(4, 8), &[x], Vec::new()).unwrap();
    let other = builder.push("relu", Op::RELU, &[other], Vec::new()).unwrap();
    let x = builder.push("concat", Op::Concat, &[one, other], Vec::new()).unwrap();
    let mut kernel = gaussian(stream, "conv2", &[4, 8, 3, 3]);
    // Hardly anything comes from the second slice: all of its channels are cheaper than any of the first.
    kernel.data.chunks_exact_mut(8 * 9).for_each(|output| output[4 * 9..].iter_mut().for_each(|w| *w *= 1e-3));
    builder.push("conv2", SAME, &[x], vec![kernel]).unwrap();
    let bytes = pack(&[builder.finish().unwrap()], Encoding::F32);
    let (_, student) = by_residual(0.25).run(&bytes).unwrap();
    let student = Pack::open(student.as_slice()).unwrap().block(0).unwrap();
    assert_eq!(student.weights()[0].dims[0], 3, "a quarter of eight, and one of the second slice");
}

#[test]
fn a_shortcut_is_made_good_wherever_it_stands_in_the_graph() {
    let (blocks, images) = (teacher(), images(4).0);
    let mut reordered = blocks.clone();
    reordered[2] = shortcut_first(&blocks[2]);
    let errors = |blocks: &[Block]| student(&pack_with(blocks, &images), &task(0.5, |_| {})).1;
    for (last, first) in errors(&blocks).into_iter().zip(errors(&reordered)) {
        assert!((last - first).abs() <= 1e-4 * last, "{last} with the shortcut behind the layers, {first} before them");
    }
}

/// A block of two layers that changes shape, the nodes of its shortcut before the others.
fn shortcut_first(block: &Block) -> Block {
    let mut builder = BlockBuilder::new(block.name(), block.role(), block.input());
    let mut renamed = [0; 10];
    for node in [5, 6, 0, 1, 2, 3, 4, 7, 8] {
        let weights = block.weights_of(node).into_iter().cloned().collect();
        let found = &block.nodes()[node];
        let inputs: Vec<u8> = found.inputs.iter().map(|&value| renamed[usize::from(value)]).collect();
        renamed[node + 1] = builder.push(&found.name, found.op.clone(), &inputs, weights).unwrap();
    }
    builder.finish().unwrap()
}

#[test]
fn threads_and_a_restart_change_nothing() {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (images, mismatch) = images(4);
            let bytes = calibrated_pack(&images);
            let task = task(0.5, |settings| {
                (settings.recipe.projections, settings.recipe.training.steps) = (2, 3);
            });
            (images, mismatch, student(&bytes, &task))
        })
    };
    let one = on(1);
    assert!(one == on(3), "the number of threads changed something");
    // Each block's student is read again from what an earlier run left, and the others go on from it.
    let bytes = calibrated_pack(&one.0);
    let task = task(0.5, |settings| settings.recipe.projections = 2);
    let (_, whole) = task.run(&bytes).unwrap();
    for left in [whole.len() / 3, 2 * whole.len() / 3] {
        let cut = whole[..left].to_vec();
        let (_, cut) = task.run_on(&mut Pack::open(bytes.as_slice()).unwrap(), &bytes, cut, |_| {}).unwrap();
        assert!(cut == whole, "cut after {left} bytes of {}", whole.len());
    }
}

/// How far a network's logits are from the teacher's on noise that nothing was made with.
pub fn relative(network: &[Block]) -> f64 {
    naive::relative_error(&outputs(network), &outputs(&teacher()))
}

/// What blocks make of noise that nothing was made with.
pub fn outputs(network: &[Block]) -> Vec<f64> {
    let noise = Calibrator::new(&teacher()).batch(99, &CALIBRATION, &manifest().pixels(), |_| {});
    outputs_of(network, &noise, 0..64)
}

pub fn outputs_of(network: &[Block], noise: &NoiseImages, range: Range<usize>) -> Vec<f64> {
    let mut output = Batch::new(&Device::Cpu);
    let folded: Vec<Block> = network.iter().map(|block| fold_batch_norms(block).unwrap()).collect();
    Chain::new(&folded, &Device::Cpu).forward(&noise.images(range, &manifest().pixels()), &mut output);
    naive::widen(&output.to_values())
}

#[test]
fn a_student_of_full_width_is_its_teacher() {
    let bytes = calibrated_pack(&images(4).0);
    let (network, errors) = student(&bytes, &task(1.0, |settings| settings.recipe.training.steps = 5));
    let folded = |block: &Block| fold_batch_norms(block).unwrap();
    assert_eq!(network[1..4].to_vec(), teacher()[1..4].iter().map(folded).collect::<Vec<_>>());
    assert_eq!(errors, [0.0; 3]);
}

#[test]
fn looking_ahead_helps_the_next_block_and_stopping_keeps_the_best() {
    let bytes = calibrated_pack(&images(4).0);
    let trained = |change: fn(&mut Settings)| {
        let task = task(0.25, |settings| {
            settings.sequential = false;
            (settings.recipe.training.steps, settings.recipe.training.batch) = (100, 32);
            change(settings);
        });
        student(&bytes, &task)
    };
    let (plain, ahead) = (trained(|_| {}).0, trained(|settings| settings.look_ahead = 1).0);
    // What the next block of the teacher makes of a student, on noise that none has seen.
    let blocks: Vec<Block> = teacher().iter().map(|block| fold_batch_norms(block).unwrap()).collect();
    let behind_next = |network: &[Block], index: usize| {
        let mut replaced = blocks.clone();
        replaced[index] = network[index].clone();
        let end = index + 2;
        naive::relative_error(&outputs(&replaced[..end]), &outputs(&blocks[..end]))
    };
    for index in [1, 2] {
        let (plain, ahead) = (behind_next(&plain, index), behind_next(&ahead, index));
        assert!(ahead < plain, "block {index}: {plain} without, {ahead} looking ahead");
    }
    // At such a rate every step makes it worse: what is kept is the start, which is solved on fewer images, as more are held out.
    let stopped = trained(|settings| {
        settings.recipe.training.rate = 10.0;
        settings.recipe.training.stop = true;
    });
    let solved = student(&bytes, &task(0.25, |settings| settings.sequential = false)).1;
    let close = |(stopped, solved): (&f64, &f64)| *stopped < 1.2 * solved;
    assert!(stopped.1.iter().zip(&solved).all(close), "{stopped:?}, {solved:?}");
}

#[test]
fn the_interface_error_is_the_mean_over_the_blocks() {
    let images = images(2).0;
    let (blocks, pixels) = (teacher(), manifest().pixels());
    let (student, _) = student(&calibrated_pack(&images), &task(0.5, |_| {}));
    let network = |blocks: &[Block]| Network::new(manifest(), blocks.to_vec()).unwrap();
    let comparison = compare(&network(&blocks), &network(&student), Sample::HeldOut(&images)).unwrap();
    let found = comparison.interface_error();
    let mut input = naive::widen(&images.images(64..128, &pixels).to_values());
    let mut errors = Vec::new();
    for (theirs, ours) in blocks.iter().zip(&student) {
        let target = naive::forward(theirs, &input);
        if theirs.role() == Role::Neighbourhood {
            errors.push(naive::relative_error(&naive::forward(ours, &input), &target));
        }
        input = target;
    }
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    assert!((found - mean).abs() < 1e-4 * mean, "{found}, naively {mean}");
}

#[test]
fn noise_that_is_not_there_is_asked_for() {
    let plain = pack(&teacher(), Encoding::F32);
    let error = task(0.5, |_| {}).run(&plain).unwrap_err();
    let expected = matches!(error, RunError::Plan(PlanError::TooFewImages { images: 0, held_out: 64 }));
    assert!(expected && error.advised().to_string().contains("distill calibrate"));
    let standard = Task { kind: SourceKind::Standard, ..task(0.5, |_| {}) };
    let error = standard.run(&plain).unwrap_err();
    assert!(error.to_string().contains("sequential"), "{error}");
}
