//! A whole run in memory: what follows from the seed, what a subset gives, and how it fails.

use std::{convert::Infallible, io};

use distill_core::{
    Block, BlockBuilder, BlockReport, Budget, Contents, Conv, Device, Encoding, Event, Op, Pack, PackError, PlanError,
    ReadAt, Role, Run, RunError, Settings, Shape, SourceKind, Training, Update, VERSION, Weight, Width, WriteAt,
    fold_batch_norms, run,
};

use distill_tests::{Task, pack, source, teacher};

const SOURCES: [SourceKind; 2] = [SourceKind::Standard, SourceKind::Propagated];

type Failure = RunError<Infallible, Infallible>;

/// Reports and student pack of a run on the small teacher.
fn distilled(task: &Task) -> (Vec<BlockReport>, Vec<u8>) {
    task.run(&pack(&teacher(), Encoding::F32)).unwrap()
}

/// Position and block of everything in a pack.
fn blocks(bytes: &[u8]) -> Vec<(usize, Block)> {
    let mut pack = Pack::open(bytes).unwrap();
    (0..pack.blocks()).map(|index| (pack.position(index), pack.block(index).unwrap())).collect()
}

/// The usual run.
fn usual(kind: SourceKind) -> Task {
    Task::new(kind, |_| {})
}

fn with_steps(kind: SourceKind, steps: usize) -> Task {
    Task::new(kind, |s| s.recipe.training.steps = steps)
}

#[test]
fn same_seed_gives_the_same_bytes_and_another_seed_others() {
    for noise in SOURCES {
        let seeded = |seed: u64| distilled(&Task::new(noise, |s| s.seed = seed)).1;
        assert_eq!(seeded(3), seeded(3), "{noise:?}");
        assert_ne!(seeded(3), seeded(4), "{noise:?}");
    }
    let trained = |noise| distilled(&with_steps(noise, 2)).1;
    SOURCES.into_iter().for_each(|noise| assert_eq!(trained(noise), trained(noise), "{noise:?}"));
}

#[test]
fn threads_do_not_change_a_byte() {
    for noise in SOURCES {
        // Batches of three groups of images, the last not full.
        let task = Task::new(noise, |s| s.recipe.training = Training { steps: 3, batch: 40, ..s.recipe.training });
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| distilled(&task))
        };
        let one = on(1);
        assert_eq!((&one, &one), (&on(2), &on(8)), "{noise:?}");
    }
}

#[test]
fn students_keep_names_places_and_boundaries() {
    let (reports, bytes) = distilled(&usual(SourceKind::Standard));
    let teacher_bytes = pack(&teacher(), Encoding::F32);
    let fingerprint = Pack::open(teacher_bytes.as_slice()).unwrap().fingerprint();
    let contents = Pack::open(bytes.as_slice()).unwrap().manifest().contents;
    assert_eq!(contents, Contents::Neighbourhoods { teacher: fingerprint });
    let blocks = blocks(&bytes);
    assert_eq!(blocks.iter().map(|(position, _)| *position).collect::<Vec<_>>(), [1, 2, 3]);
    for (report, (position, student)) in reports.iter().zip(&blocks) {
        let original = &teacher()[*position];
        assert_eq!(report.index, position - 1);
        assert_eq!((student.name(), student.role()), (original.name(), original.role()));
        assert_eq!((student.input(), student.output()), (original.input(), original.output()));
        assert_eq!((report.parameters, report.macs), (student.parameters(), student.macs()));
        assert_eq!((report.teacher_parameters, report.teacher_macs), (original.parameters(), original.macs()));
        assert!(student.macs() < original.macs());
    }
}

#[test]
fn students_say_what_they_were_made_from() {
    for kind in SOURCES {
        let (_, bytes) = distilled(&usual(kind));
        assert_eq!(Pack::open(bytes.as_slice()).unwrap().manifest().made_from, Some(kind));
    }
}

/// Asserts that distilling only neighbourhood `index` gives the same student as distilling all.
fn check_subset(task: &Task, index: usize) {
    let (all_reports, all) = distilled(task);
    let (reports, one) = distilled(&task.clone().with(|s| s.blocks = vec![index]));
    assert_eq!(reports, [all_reports[index].clone()], "{:?}", task.kind);
    assert_eq!(blocks(&one), [blocks(&all)[index].clone()], "{:?}", task.kind);
}

#[test]
fn subset_gives_the_students_of_the_full_run() {
    for noise in SOURCES {
        check_subset(&with_steps(noise, 2), 0);
        check_subset(&with_steps(noise, 2), 2); // for propagated noise, the blocks before must still be passed
    }
    let task = Task::new(SourceKind::Standard, |s| s.blocks = vec![2, 0, 2]);
    let positions: Vec<usize> = blocks(&distilled(&task).1).into_iter().map(|(position, _)| position).collect();
    assert_eq!(positions, [1, 3], "in network order, each once");
}

#[test]
fn full_width_without_solve_is_the_folded_teacher() {
    let task = Task::new(SourceKind::Propagated, |s| {
        s.recipe.width = Width::FULL;
        s.recipe.solve = false;
    });
    let (reports, bytes) = distilled(&task);
    for (position, student) in blocks(&bytes) {
        assert_eq!(student, fold_batch_norms(&teacher()[position]).unwrap());
    }
    assert!(reports.iter().all(|report| report.relative_error == 0.0 && report.loss == 0.0), "{reports:?}");
}

fn errors(task: &Task) -> Vec<f64> {
    distilled(task).0.iter().map(|report| report.relative_error).collect()
}

/// Asserts that `better` has the smaller held-out error in every block.
fn check_better(worse: &Task, better: &Task) {
    let (before, after) = (errors(worse), errors(better));
    // A stage that does nothing, or something to another block, leaves at least one error as it was.
    assert!(before.iter().zip(&after).all(|(b, a)| *a < 0.97 * b && *a > 0.0), "{before:?} became {after:?}");
}

#[test]
fn solve_lowers_the_error_on_inputs_it_did_not_see() {
    for noise in SOURCES {
        let solved = Task::new(noise, |s| s.recipe.images = 256);
        check_better(&solved.clone().with(|s| s.recipe.solve = false), &solved);
    }
}

#[test]
fn training_lowers_the_error_on_inputs_it_did_not_see() {
    for noise in SOURCES {
        let steps = |steps| with_steps(noise, steps).with(|s| (s.recipe.solve, s.recipe.images) = (false, 128));
        check_better(&steps(0), &steps(60));
    }
}

#[test]
fn events_come_in_order() {
    let teacher = pack(&teacher(), Encoding::F32);
    let mut pack = Pack::open(teacher.as_slice()).unwrap();
    let mut seen = Vec::new();
    let observe = |event: Event<'_>| {
        seen.push(match event {
            Event::Planned(plan) => format!("plan {}", plan.blocks.len()),
            Event::Started { index, total, name } => format!("start {index}/{total} {name}"),
            Event::Stepped { step, loss } => format!("step {step} {}", loss.is_finite()),
            Event::Finished(report, _) => format!("end {}", report.index),
            other => format!("{other:?}"),
        });
    };
    let task = with_steps(SourceKind::Standard, 2).with(|s| s.blocks = vec![1, 2]);
    task.run_on(&mut pack, &teacher, Vec::new(), observe).unwrap();
    let one = |start: &str, end: &str| [start, "step 1 true", "step 2 true", end].map(String::from);
    let blocks = [one("start 1/2 layer2.0", "end 1"), one("start 2/2 layer2.1", "end 2")].concat();
    assert_eq!(seen, [vec!["plan 2".into()], blocks].concat());
}

/// Asserts that a run on `teacher` fails as expected.
fn check_fails(teacher: &[u8], task: &Task, expected: impl Fn(&Failure) -> bool) {
    let error = task.run(teacher).expect_err("the run succeeded");
    assert!(expected(&error), "{error:?}");
}

#[test]
fn block_that_is_not_there_is_told() {
    let task = Task::new(SourceKind::Standard, |s| s.blocks = vec![0, 3]);
    let expected = |e: &Failure| matches!(e, RunError::Plan(PlanError::NoSuchBlock { index: 3, blocks: 3 }));
    check_fails(&pack(&teacher(), Encoding::F32), &task, expected);
}

#[test]
fn teacher_without_statistics_cannot_have_propagated_noise() {
    let folded: Vec<Block> = teacher().iter().map(|block| fold_batch_norms(block).unwrap()).collect();
    let folded = pack(&folded, Encoding::F32);
    let expected = |e: &Failure| matches!(e, RunError::Plan(PlanError::NoStatistics { block }) if block == "layer1.0");
    check_fails(&folded, &usual(SourceKind::Propagated), expected);
    usual(SourceKind::Standard).run(&folded).unwrap();
    // One neighbourhood without is enough: a recomposed network has some of each.
    let mut mixed = teacher();
    mixed[2] = fold_batch_norms(&mixed[2]).unwrap();
    let expected = |e: &Failure| matches!(e, RunError::Plan(PlanError::NoStatistics { block }) if block == "layer2.0");
    check_fails(&pack(&mixed, Encoding::F32), &usual(SourceKind::Propagated), expected);
}

#[test]
fn settings_outside_their_range_are_told() {
    let teacher = pack(&teacher(), Encoding::F32);
    let refused = |setting: &str, change: fn(&mut Settings)| {
        check_fails(
            &teacher,
            &Task::new(SourceKind::Propagated, change),
            |e| matches!(e, RunError::Plan(PlanError::Settings(error)) if error.setting == setting),
        );
    };
    refused("number of images", |s| s.recipe.images = 0);
    refused("number of images", |s| s.recipe.images = usize::MAX);
    refused("number of blocks to look ahead at", |s| s.look_ahead = 65);
    refused("source of a sequential run", |s| s.sequential = true);
    refused("batch", |s| s.recipe.training.batch = 0);
    refused("batch", |s| s.recipe.training.batch = usize::MAX);
    refused("number of steps", |s| s.recipe.training.steps = usize::MAX);
    refused("learning rate", |s| s.recipe.training.rate = f32::NAN);
    refused("weight decay", |s| s.recipe.training.weight_decay = -1.0);
}

#[test]
fn gradient_steps_that_make_a_student_worse_are_undone() {
    // Adam ends at weights of 1e6, momentum at ones that are not finite.
    for update in [Update::Adam, Update::MOMENTUM] {
        for kind in SOURCES {
            let solved = distilled(&usual(kind));
            let training = |s: &mut Settings| Training { steps: 30, rate: 1e6, update, ..s.recipe.training };
            let (reports, worse) = distilled(&Task::new(kind, |s| s.recipe.training = training(s)));
            assert_eq!((reports, blocks(&worse)), (solved.0, blocks(&solved.1)), "{update:?}, {kind:?}");
        }
    }
}

#[test]
fn training_ends_at_the_first_loss_that_is_not_finite() {
    let training = Training { steps: 300, rate: 1e30, update: Update::MOMENTUM, ..Training::adam(0, 16) };
    let task = Task::new(SourceKind::Standard, |s| (s.recipe.training, s.blocks) = (training, vec![0]));
    let bytes = pack(&teacher(), Encoding::F32);
    let mut losses = Vec::new();
    let observe = |event: Event<'_>| {
        if let Event::Stepped { loss, .. } = event {
            losses.push(loss);
        }
    };
    task.run_on(&mut Pack::open(&bytes[..]).unwrap(), &bytes, Vec::new(), observe).unwrap();
    assert!(losses.iter().filter(|loss| !loss.is_finite()).count() <= 1, "{losses:?}");
}

#[test]
fn a_student_no_better_than_zeros_is_an_error() {
    // Two channels that nearly cancel each other: without a solve, nothing makes up for the one that goes.
    let mut builder = BlockBuilder::new("layer1.0", Role::Neighbourhood, Shape::new(4, 8, 8));
    let one = Op::Conv(Conv::square(1, 0));
    let equal = Weight::new("in", &[2, 4, 1, 1], vec![1.0; 8]);
    let x = builder.push("conv1", one.clone(), &[0], vec![equal]).unwrap();
    let x = builder.push("relu", Op::RELU, &[x], Vec::new()).unwrap();
    let opposite = Weight::new("out", &[4, 2, 1, 1], [1.0, -0.9].repeat(4));
    builder.push("conv2", one, &[x], vec![opposite]).unwrap();
    let mut blocks = teacher();
    blocks[1] = builder.finish().unwrap();
    let task = Task::new(SourceKind::Standard, |s| (s.recipe.solve, s.blocks) = (false, vec![0]));
    let error = task.run(&pack(&blocks, Encoding::F32)).unwrap_err();
    assert!(matches!(&error, RunError::Useless(_)) && error.to_string().contains("than zeros would be"), "{error}");
}

#[test]
fn a_block_whose_outputs_are_almost_zero_does_not_diverge() {
    let mut blocks = teacher();
    for block in &mut blocks[1..4] {
        let weights = block.weights().iter().map(|weight| {
            let gives = weight.name.contains("bn2.weight") || weight.name.contains("bn2.bias");
            let data = weight.data.iter().map(|value| if gives { 1e-30 * value } else { *value }).collect();
            Weight { data, ..weight.clone() }
        });
        *block = block.with_weights(weights.collect()).unwrap();
    }
    // Without the shortcut, what is left is zeros.
    let alone = distill_core::Part { from: 0, to: 5 };
    blocks[1] = blocks[1].part(alone).unwrap();
    let task = Task::new(SourceKind::Standard, |s| s.blocks = vec![0]);
    let (reports, _) = task.run(&pack(&blocks, Encoding::F32)).unwrap();
    assert!(reports[0].relative_error < 1e-6, "{reports:?}");
}

#[test]
fn student_pack_is_no_teacher() {
    let (_, student) = distilled(&usual(SourceKind::Standard));
    let expected = |e: &Failure| matches!(e, RunError::Plan(PlanError::Teacher(PackError::WrongContents)));
    check_fails(&student, &usual(SourceKind::Standard), expected);
}

#[test]
fn damaged_or_truncated_teacher_is_told() {
    let mut bytes = pack(&teacher(), Encoding::F32);
    let expected = |e: &Failure| matches!(e, RunError::Teacher(PackError::Length { .. }));
    check_fails(&bytes[..bytes.len() - 1], &usual(SourceKind::Standard), expected);
    let task = usual(SourceKind::Propagated);
    // Six sections; the head's is the last, and a run has no use for its weights.
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    task.run(&bytes).unwrap();
    let kernel = teacher()[3].weights()[0].data[0].to_le_bytes();
    let at = bytes.windows(4).position(|window| window == kernel).unwrap();
    bytes[at] ^= 1;
    check_fails(&bytes, &task, |e| {
        matches!(e, RunError::Plan(PlanError::Teacher(PackError::Checksum { section: Some(4) })))
    });
}

#[test]
fn teacher_whose_blocks_do_not_fit_together_is_told() {
    let mut blocks = teacher();
    blocks.remove(2);
    let bytes = pack(&blocks, Encoding::F32);
    check_fails(
        &bytes,
        &usual(SourceKind::Propagated),
        |e| matches!(e, RunError::Plan(PlanError::Misfit { block, .. }) if block == "layer2.1"),
    );
}

/// Storage that fails after a number of operations, a write after half of its bytes: an unplugged card, or a full one.
#[derive(Debug)]
struct Failing<S> {
    storage: S,
    remaining: usize,
}

impl<S> Failing<S> {
    fn operate(&mut self) -> io::Result<()> {
        self.remaining = self.remaining.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        Ok(())
    }
}

impl ReadAt for Failing<&[u8]> {
    type Error = io::Error;

    fn length(&mut self) -> io::Result<u64> {
        Ok(self.storage.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.operate()?;
        self.storage.read_at(offset, buffer).map_err(io::Error::other)
    }
}

impl ReadAt for Failing<Vec<u8>> {
    type Error = io::Error;

    fn length(&mut self) -> io::Result<u64> {
        Ok(self.storage.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.storage.read_at(offset, buffer).map_err(io::Error::other)
    }
}

impl WriteAt for Failing<Vec<u8>> {
    fn clear(&mut self) -> io::Result<()> {
        self.operate()?;
        self.storage.clear();
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let result = self.operate();
        let written = if result.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        self.storage.write_at(offset, written).map_err(io::Error::other)?;
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        self.operate()
    }
}

type DiskError = RunError<io::Error, io::Error>;

/// Runs with storage that fails after `reads` and `writes`: the result, what was written, and the writes used.
fn run_failing(reads: usize, writes: usize) -> (Result<(), DiskError>, Vec<u8>, usize) {
    let teacher = pack(&teacher(), Encoding::F32);
    let mut student = Failing { storage: Vec::new(), remaining: writes };
    let mut attempt = || {
        let mut pack =
            Pack::open(Failing { storage: teacher.as_slice(), remaining: reads }).map_err(RunError::Teacher)?;
        usual(SourceKind::Standard).run_on(&mut pack, &teacher, &mut student, |_| {}).map(|_| ())
    };
    let result = attempt();
    let used = writes - student.remaining;
    (result, student.storage, used)
}

#[test]
fn storage_that_fails_at_any_operation_fails_the_run_and_leaves_no_pack() {
    let (result, _, writes) = run_failing(usize::MAX, usize::MAX);
    result.unwrap();
    for reads in [0, 1, 2, 4, 8, 12] {
        let (result, student, _) = run_failing(reads, usize::MAX);
        assert!(
            matches!(result, Err(RunError::Teacher(_) | RunError::Plan(PlanError::Teacher(PackError::Storage(_))))),
            "read {reads}: {result:?}"
        );
        assert!(Pack::open(student.as_slice()).is_err(), "read {reads}");
    }
    for allowed in 0..writes - 1 {
        let (result, student, _) = run_failing(usize::MAX, allowed);
        assert!(matches!(result, Err(RunError::Student(PackError::Storage(_)))), "write {allowed}: {result:?}");
        assert!(Pack::open(student.as_slice()).is_err(), "write {allowed}");
    }
}

#[test]
fn run_that_was_cut_off_at_any_write_ends_in_the_same_bytes() {
    for noise in SOURCES {
        let task = with_steps(noise, 2);
        let teacher = pack(&teacher(), Encoding::F32);
        let (reports, whole) = distilled(&task);
        // Blocks that are distilled, not read: each tells its steps.
        let resumed = |student: &mut Failing<Vec<u8>>| {
            let (mut pack, mut trained) = (Pack::open(teacher.as_slice()).unwrap(), 0);
            let observe = |event: Event<'_>| trained += usize::from(matches!(event, Event::Stepped { step: 1, .. }));
            let result = task.run_on(&mut pack, &teacher, &mut *student, observe);
            (result.map(|(reports, _)| reports), trained)
        };
        let mut seen = Vec::new();
        for allowed in 0.. {
            let mut student = Failing { storage: Vec::new(), remaining: allowed };
            let (result, first) = resumed(&mut student);
            if result.is_ok() {
                break;
            }
            student.remaining = usize::MAX;
            let (result, second) = resumed(&mut student);
            assert_eq!(result.unwrap(), reports, "{noise:?}, write {allowed}");
            assert!(student.storage == whole, "{noise:?}, write {allowed}");
            assert!(first + second <= 4, "{noise:?}, write {allowed}: a block that was kept is distilled again");
            seen.push(second);
        }
        // From all three blocks to none, and never more than before.
        assert!(seen.is_sorted_by(|a, b| a >= b) && seen[0] == 3 && seen.ends_with(&[0]), "{seen:?}");
    }
}

#[test]
fn unfinished_pack_of_another_run_is_not_gone_on_with() {
    let task = usual(SourceKind::Standard);
    let (_, student, _) = run_failing(usize::MAX, 12);
    assert!(matches!(Pack::open(student.as_slice()), Err(PackError::Unfinished)));
    let teacher = pack(&teacher(), Encoding::F32);
    let half = pack(&self::teacher(), Encoding::F16);
    let go_on = |student: &[u8], teacher: &[u8], task: &Task| {
        let result = task.run_on(&mut Pack::open(teacher).unwrap(), teacher, student.to_vec(), |_| {});
        let refused = matches!(result, Err(RunError::Student(PackError::OtherJob)));
        assert!(result.is_ok() != refused);
        refused
    };
    let attempt = |teacher: &[u8], task: &Task| go_on(&student, teacher, task);
    assert!(!attempt(&teacher, &task));
    let mut older = student.clone();
    older[4] = VERSION as u8 - 1;
    assert!(go_on(&older, &teacher, &task), "another version");
    assert!(attempt(&half, &task), "another teacher");
    assert!(attempt(&teacher, &usual(SourceKind::Propagated)), "another source");
    let changed = |change: fn(&mut Settings)| attempt(&teacher, &task.clone().with(change));
    assert!(changed(|s| s.seed = 4), "another seed");
    assert!(changed(|s| s.blocks = vec![0, 1]), "other blocks");
    assert!(!changed(|s| s.budget = Budget { bytes: 1 << 20, used: 0 }), "a budget changes no result");
}

#[test]
fn budget_does_not_change_the_student() {
    for (noise, batch) in [(SourceKind::Standard, 40), (SourceKind::Propagated, 200)] {
        let task = Task::new(noise, |s| {
            s.recipe.training = Training { steps: 3, batch, ..s.recipe.training };
            s.recipe.images = 100;
        });
        let (reports, whole) = distilled(&task);
        let teacher = pack(&teacher(), Encoding::F32);
        let attempt = |bytes: u64| {
            let settings = &Settings { budget: Budget { bytes, used: 0 }, ..task.settings.clone() };
            let (mut pack, mut source) = (Pack::open(teacher.as_slice()).unwrap(), source(task.kind, &teacher));
            let (source, scratch) = (&mut *source, Some(Box::new(Vec::new()) as _));
            run(Run { teacher: &mut pack, source, scratch, settings, device: &Device::Cpu }, Vec::new(), |_| {})
        };
        let Err(RunError::Plan(PlanError::Budget { budget: 1, smallest, .. })) = attempt(1) else { panic!("one byte") };
        for bytes in [smallest, smallest + smallest / 8, smallest + smallest / 2, 2 * smallest, 4 * smallest] {
            let (found, student) = attempt(bytes).unwrap();
            assert_eq!(found, reports, "{noise:?}, {bytes} bytes");
            assert!(student == whole, "{noise:?}, {bytes} bytes");
        }
    }
}
