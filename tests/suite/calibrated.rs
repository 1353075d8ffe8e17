//! Calibrated noise: how it is made and kept, and what is made with it.

use std::{fs, ops::Range, path::PathBuf};

use distill_core::{
    Aim, Batch, Block, BlockBuilder, Calibration, Calibrator, Chain, Conv, Device, DistillError, Encoding, Engine,
    Lessons, Manifest, NoiseImages, Op, Pack, PackError, PackWriter, Pixels, PlanError, Pull, Purpose, Role, RunError,
    Selection, Settings, Shape, Slice, SourceKind, Stream, Training, Tuning, Weight, Width, finetune, fold_batch_norms,
    learn,
};
use distill_device::Advised;
use distill_host::{
    export::{export, recompose},
    import::{ImportOptions, import},
    learn::{Distance, NoiseSource, calibrate, finetune_on_noise, untaught},
    measure::{Sample, compare},
    network::Network,
};
use distill_tests::{SAME, Task, gaussian, manifest, pack, teacher};

use crate::naive;

const CALIBRATION: Calibration = Calibration { batch: 64, ..Calibration::new(40, 7) };

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

fn pack_with(blocks: &[Block], images: &NoiseImages) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = PackWriter::with_noise(&mut bytes, &manifest(), blocks.len()).unwrap();
    for (position, block) in blocks.iter().enumerate() {
        writer.add(position, block, Encoding::F32).unwrap();
    }
    writer.add_noise(CALIBRATION, images, 0.5).unwrap();
    writer.finish().unwrap();
    bytes
}

#[test]
fn images_come_to_match_the_statistics() {
    let (images, mismatch) = images(1);
    assert_eq!((images.len(), mismatch.len()), (64, 41));
    // Random statistics leave some, and pixels have their range; a gradient of the wrong sign or scale somewhere does not lower it
    // at every step.
    assert!(mismatch.is_sorted_by(|before, after| after < before), "{mismatch:?}");
    assert!(mismatch[40] < 0.6 * mismatch[0], "{mismatch:?}");
}

#[test]
fn images_are_kept_to_the_bit_and_do_not_change_who_the_teacher_is() {
    let (images, _) = images(2);
    let bytes = calibrated_pack(&images);
    let mut with = Pack::open(bytes.as_slice()).unwrap();
    let plain = pack(&teacher(), Encoding::F32);
    let without = Pack::open(plain.as_slice()).unwrap();
    assert_eq!(with.noise_images().unwrap().as_ref(), Some(&images));
    let stored = with.calibrated().unwrap();
    assert_eq!((stored.images, stored.calibration, stored.mismatch), (128, CALIBRATION, 0.5));
    assert_eq!((with.blocks(), with.fingerprint()), (without.blocks(), without.fingerprint()));
    assert!(without.calibrated().is_none());
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let found = Pack::open(damaged.as_slice()).unwrap().noise_images();
    assert!(matches!(found, Err(PackError::Checksum { section: Some(6) })), "{found:?}");
}

#[test]
fn images_of_another_shape_are_told() {
    let bytes = pack_with(&teacher()[1..], &images(1).0);
    let found = Pack::open(bytes.as_slice());
    assert!(matches!(found, Err(PackError::Malformed { section: 5 })), "{found:?}");
}

/// Students of a run, in the places of their teachers, and the errors of the blocks.
fn student(teacher_pack: &[u8], task: &Task) -> (Vec<Block>, Vec<f64>) {
    let (reports, student) = task.run(teacher_pack).unwrap();
    let mut students = Pack::open(student.as_slice()).unwrap();
    let mut network = teacher();
    for index in 0..students.blocks() {
        network[students.position(index)] = students.block(index).unwrap();
    }
    (network, reports.iter().map(|report| report.relative_error).collect())
}

/// A run on calibrated noise.
fn task(k: f32, change: impl FnOnce(&mut Settings)) -> Task {
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
        let (tuned, loss) = finetune_on_noise(&path("teacher.ndp"), &recomposed(&[kind]), source, &tuning).unwrap();
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
fn relative(network: &[Block]) -> f64 {
    naive::relative_error(&outputs(network), &outputs(&teacher()))
}

/// What blocks make of noise that nothing was made with.
fn outputs(network: &[Block]) -> Vec<f64> {
    let noise = Calibrator::new(&teacher()).batch(99, &CALIBRATION, &manifest().pixels(), |_| {});
    outputs_of(network, &noise, 0..64)
}

fn outputs_of(network: &[Block], noise: &NoiseImages, range: Range<usize>) -> Vec<f64> {
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
fn images_are_smooth_and_of_a_class_as_far_as_is_asked() {
    let (blocks, pixels) = (teacher(), manifest().pixels());
    let made = |smoothness: f32, classes: f32| {
        let calibration = Calibration { pull: Pull { smoothness, classes, ..CALIBRATION.pull }, ..CALIBRATION };
        Calibrator::new(&blocks).batch(0, &calibration, &pixels, |_| {})
    };
    let (plain, smooth, classed) = (made(0.0, 0.0), made(20.0, 0.0), made(0.0, 100.0));
    let roughness = |images: &NoiseImages| {
        let rows = images.pixels().chunks_exact(images.shape().width);
        rows.flat_map(|row| row.windows(2)).map(|pair| (f64::from(pair[0]) - f64::from(pair[1])).powi(2)).sum::<f64>()
    };
    let (rough, smooth) = (roughness(&plain), roughness(&smooth));
    assert!(smooth < 0.8 * rough, "{rough} became {smooth}");
    // The classes are drawn after the images they begin as.
    let mut stream = Stream::new(CALIBRATION.seed, Purpose::Calibrate, 0);
    stream.octaves(CALIBRATION.batch, blocks[0].input());
    let drawn: Vec<usize> = (0..CALIBRATION.batch).map(|_| stream.below(10)).collect();
    let cross_entropy = |images: &NoiseImages| {
        let logits = outputs_of(&blocks, images, 0..CALIBRATION.batch);
        let of_image =
            |(image, &class): (&[f64], &usize)| image.iter().map(|l| l.exp()).sum::<f64>().ln() - image[class];
        logits.chunks_exact(10).zip(&drawn).map(of_image).sum::<f64>() / CALIBRATION.batch as f64
    };
    let (without, with) = (cross_entropy(&plain), cross_entropy(&classed));
    assert!(with < 0.85 * without, "{without} became {with}");
}

/// The small teacher without batch norms, as exporters leave it, and as sure of its classes as a trained one.
fn folded() -> Vec<Block> {
    let mut blocks: Vec<Block> = teacher().iter().map(|block| fold_batch_norms(block).unwrap()).collect();
    let mut head = BlockBuilder::new("head", Role::Head, blocks[4].input());
    let x = head.push("pool", Op::GlobalAveragePool, &[0], Vec::new()).unwrap();
    let sure = |weight: &Weight| Weight { data: weight.data.iter().map(|w| 30.0 * w).collect(), ..weight.clone() };
    head.push("linear", Op::Linear, &[x], blocks[4].weights().iter().map(sure).collect()).unwrap();
    blocks[4] = head.finish().unwrap();
    blocks
}

/// A batch of the usual images for a network, and what is left of their aim at every step.
fn usual(blocks: &[Block], pixels: &Pixels) -> (Pull, NoiseImages, Vec<f32>) {
    let mut calibrator = Calibrator::new(blocks);
    let (pull, mut left) = (calibrator.usual_pull(40), Vec::new());
    let images = calibrator.batch(0, &Calibration { pull, ..CALIBRATION }, pixels, |distance| left.push(distance));
    (pull, images, left)
}

#[test]
fn images_match_what_the_teacher_has() {
    let pixels = manifest().pixels();
    let check = |blocks: &[Block], aim: Aim, share: f32| {
        let (pull, _, left) = usual(blocks, &pixels);
        assert_eq!((pull.aim(), left.len()), (aim, 41));
        assert!(left[40] <= share * left[0], "{aim:?}: {left:?}");
    };
    check(&teacher(), Aim::Statistics, 0.6);
    // Without a head they have no class, so neither is asked for.
    check(&teacher()[..4], Aim::Statistics, 0.6);
    check(&folded(), Aim::Classes, 0.95);
    check(&folded()[..4], Aim::Nothing, 0.0);
}

#[test]
fn images_for_a_folded_teacher_are_smooth() {
    let pixels = manifest().pixels();
    let roughness = |images: &NoiseImages| {
        let rows = images.pixels().chunks_exact(images.shape().width);
        rows.flat_map(|row| row.windows(2)).map(|pair| (f64::from(pair[0]) - f64::from(pair[1])).powi(2)).sum::<f64>()
    };
    let (classes, drawn) = (usual(&folded(), &pixels).1, usual(&folded()[..4], &pixels).1);
    let (smooth, rough) = (roughness(&classes), roughness(&drawn));
    assert!(smooth < 0.8 * rough, "{rough} became {smooth}");
}

#[test]
fn a_network_that_takes_pixels_from_0_to_255_gets_the_same_images() {
    // Its first layer scales pixels itself: 255 times what the other takes.
    let scaled = |by: f32| {
        let mut builder = BlockBuilder::new("scale", Role::Stem, teacher()[0].input());
        let weight = Weight::new("scale", &[3, 1, 1, 1], vec![by; 3]);
        builder.push("scale", Op::Conv(Conv::square(1, 0).grouped(3)), &[0], vec![weight]).unwrap();
        let blocks: Vec<Block> = [builder.finish().unwrap()].into_iter().chain(teacher()).collect();
        blocks
    };
    let (plain, inside) = (Pixels::new(vec![0.0; 3], vec![1.0; 3]), Pixels::new(vec![0.0; 3], vec![1.0 / 255.0; 3]));
    let distance = |blocks: &[Block], pixels: &Pixels| {
        let (pull, _, left) = usual(blocks, pixels);
        Distance::new(&pull, Some(left[0]), left[40])
    };
    let (right, wrong) = (distance(&scaled(1.0 / 255.0), &inside), distance(&scaled(1.0 / 255.0), &plain));
    let (expected, right) = (distance(&scaled(1.0), &plain).mismatch().unwrap(), right.mismatch().unwrap());
    assert!((right - expected).abs() < 0.05 * expected, "{right} instead of {expected}");
    assert!(wrong.is_high(), "{wrong} is no warning");
}

#[test]
fn images_of_another_calibration_stay_until_the_new_ones_are_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    Network::new(manifest(), teacher()).unwrap().write_pack(&path("teacher.ndp"), Encoding::F32).unwrap();
    let of_seed = |seed: u64| Calibration { batch: 32, seed, pull: Pull::calibration(2), ..CALIBRATION };
    let made = |output: &str, seed: u64, images: usize| {
        let outcome = calibrate(&path("teacher.ndp"), &path(output), &of_seed(seed), images).unwrap();
        (outcome.images, outcome.found)
    };
    assert_eq!(made("noisy.ndp", 1, 96), (96, 0));
    // As a run of seed 2 leaves it that was cut off after three batches.
    assert_eq!(made("begun.ndp", 2, 96), (96, 0));
    fs::copy(path("begun.ndp"), path("noisy.ndp.part")).unwrap();
    assert_eq!(made("noisy.ndp", 2, 128), (128, 96));
    assert_eq!(made("at_once.ndp", 2, 128), (128, 0));
    assert!(fs::read(path("noisy.ndp")).unwrap() == fs::read(path("at_once.ndp")).unwrap());
    assert!(!path("noisy.ndp.part").exists());
    // What was cut off before its last step is only moved.
    fs::copy(path("noisy.ndp"), path("begun.ndp.part")).unwrap();
    assert_eq!(made("begun.ndp", 2, 128), (128, 128));
    assert!(fs::read(path("begun.ndp")).unwrap() == fs::read(path("at_once.ndp")).unwrap());
    assert!(!path("begun.ndp.part").exists());
}

#[test]
fn what_cannot_end_well_is_refused_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    Network::new(manifest(), teacher()).unwrap().write_pack(&path("teacher.ndp"), Encoding::F32).unwrap();
    Network::new(manifest(), teacher()[..4].to_vec()).unwrap().write_pack(&path("map.ndp"), Encoding::F32).unwrap();
    // It would take hours.
    let usual = Calibration { batch: 32, pull: Pull::calibration(1 << 20), ..CALIBRATION };
    let check = |teacher: &str, output: &str, images: usize, says: &str| {
        let error = calibrate(&path(teacher), &path(output), &usual, images).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    check("teacher.ndp", "noisy.ndp", 64, "take --images 65 or more");
    check("teacher.ndp", "noisy.onnx", 128, "packs (.ndp)");
    check("teacher.ndp", "nowhere/noisy.ndp", 128, "cannot write");
    check("map.ndp", "noisy.ndp", 128, "take --classes 0");
    // A run accepts what is told, though all but one image are for measuring.
    let few = Calibration { batch: 13, pull: Pull::calibration(1), ..CALIBRATION };
    calibrate(&path("teacher.ndp"), &path("teacher.ndp"), &few, 65).unwrap();
    task(0.5, |_| {}).run(&fs::read(path("teacher.ndp")).unwrap()).unwrap();
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
fn a_diverged_student_is_told_at_once() {
    let (blocks, mut tuning, mut steps) = (teacher(), Tuning::new(60), 0);
    tuning.training.rate = 1e30;
    let student = untaught(&blocks, Width::new(0.5).unwrap(), 3).unwrap();
    let found = finetune(&blocks, &student, Lessons::White, &tuning, |_| steps += 1);
    assert!(matches!(found, Err(DistillError::Diverged { .. })) && steps < 10, "{steps} steps, {found:?}");
}

#[test]
fn networks_that_noise_cannot_ask_are_refused() {
    assert!(Network::new(manifest(), teacher()).unwrap().check_classifies().is_ok());
    // Without its head it gives a map of features.
    let error = Network::new(manifest(), teacher()[..4].to_vec()).unwrap().check_classifies().unwrap_err();
    assert!(error.to_string().contains("train its blocks instead"), "{error}");
    let nowhere = Manifest { mean: vec![0.5, f32::NAN, 0.3], ..manifest() };
    let error = Network::new(nowhere, teacher()).unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");
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

#[test]
fn a_whole_student_learns_from_noise() {
    let (images, pixels, blocks) = (images(4).0, manifest().pixels(), teacher());
    let (student, _) = student(&calibrated_pack(&images), &task(0.5, |_| {}));
    let tuning = Tuning::new(60);
    let lessons = Lessons::Images { images: &images, pixels: &pixels, seen: 192 };
    let tuned = finetune(&blocks, &student, lessons, &tuning, |_| {}).unwrap();
    let (before, after) = (relative(&student), relative(&tuned));
    assert!(after < 0.95 * before, "{before} became {after}");
    // Most of what it learns from is the outputs of its blocks.
    let of_logits = Tuning { features: 0.0, ..tuning };
    let other = finetune(&blocks, &student, lessons, &of_logits, |_| {}).unwrap();
    let inner = |network: &[Block]| naive::relative_error(&outputs(&network[..4]), &outputs(&blocks[..4]));
    let (features, logits) = (inner(&tuned), inner(&other));
    assert!(features < 0.97 * logits, "{logits} with logits alone, {features} with the blocks' outputs");
    // Its teacher has nothing to learn.
    let same = finetune(&blocks, &blocks, Lessons::White, &tuning, |_| {}).unwrap();
    assert_eq!(same, blocks.iter().map(|block| fold_batch_norms(block).unwrap()).collect::<Vec<_>>());
}

#[test]
fn baselines_begin_with_nothing_of_the_teacher_and_learn() {
    let (blocks, pixels) = (teacher(), manifest().pixels());
    let student = untaught(&blocks, Width::new(0.5).unwrap(), 3).unwrap();
    for (ours, theirs) in student.iter().zip(&blocks) {
        assert_eq!((ours.input(), ours.output()), (theirs.input(), theirs.output()));
        let shared = ours.weights().iter().filter(|weight| theirs.weights().contains(weight)).count();
        assert_eq!(shared, 0, "{} holds weights of the teacher", ours.name());
    }
    let calibration = Calibration { batch: 32, pull: Pull { rate: 0.1, ..Pull::impressions(20) }, ..CALIBRATION };
    let mut losses = Vec::new();
    let impressions = Calibrator::new(&blocks).impressions(0, &calibration, 1.0, &pixels, |_| {}).unwrap();
    let tuning = Tuning { features: 0.0, ..Tuning::new(60) };
    let lessons = Lessons::Images { images: &impressions, pixels: &pixels, seen: 32 };
    learn(&blocks, student, lessons, &tuning, &Engine::default(), |loss| losses.push(loss)).unwrap();
    assert!(losses[59] < losses[0], "{losses:?}");
}
