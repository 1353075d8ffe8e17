//! Gradient steps: update rules against hand-computed sequences, gradients against finite differences.

use distill_core::{
    Batch, Block, BlockBuilder, BlockTraining, Calibration, Calibrator, Course, Device, DeviceBlock, Disturbance,
    Engine, Goal, Goals, Inputs, InputsFrom, Learners, Lessons, LookAhead, NoiseImages, NoiseLessons, Op, Optimizer,
    Purpose, Role, Schedule, Shape, Statistics, Stream, Trainer, Training, Tuning, Update, WhiteLessons, Width,
    fold_batch_norms, learn, shrink, train,
};

use crate::{
    naive::{self, mean_squared_error, widen},
    transforms::pre_activation,
};
use distill_tests::{BlockTrainer, IMAGE, bits, in_parts, residual};

const INPUT: Shape = Shape::new(2, 4, 4);

/// One weight's values after each gradient, from the optimiser.
fn steps(update: Update, weight_decay: f32, rate: f32, start: f32, gradients: &[f32]) -> Vec<f32> {
    let mut optimizer = Optimizer::new(update, weight_decay, [1].into_iter());
    let mut weights = vec![start];
    let step = |&gradient: &f32| {
        optimizer.step([(&mut weights, &vec![gradient])].into_iter(), rate);
        weights[0]
    };
    gradients.iter().map(step).collect()
}

fn check_steps(found: &[f32], expected: &[f64]) {
    for (step, (&found, expected)) in found.iter().zip(expected).enumerate() {
        // f32 rounding of numbers near 1.
        assert!((f64::from(found) - expected).abs() <= 1e-6, "step {}: {found}, by hand {expected}", step + 1);
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn momentum_matches_its_closed_form() {
    // v: 0.5, -0.55, 1.505; w: 1 - 0.1·v each. Dampening, Nesterov or v ← μv + (1-μ)g differ from step 1 or 2 on.
    let found = steps(Update::Momentum { momentum: 0.9 }, 0.0, 0.1, 1.0, &[0.5, -1.0, 2.0]);
    check_steps(&found, &[0.95, 1.005, 0.8545]);
}

#[test]
fn weight_decay_is_added_to_the_gradient() {
    // g = 0.5 + 0.2·1 = 0.7, w = 0.93; g = -1 + 0.186 = -0.814, v = -0.184, w = 0.9484. Decoupled decay is equal at
    // step 1 and not at step 2.
    let found = steps(Update::Momentum { momentum: 0.9 }, 0.2, 0.1, 1.0, &[0.5, -1.0]);
    check_steps(&found, &[0.93, 0.9484]);
}

/// Kingma & Ba 2015, algorithm 1, in f64.
fn adam(rate: f64, start: f64, gradients: &[f64]) -> Vec<f64> {
    let (mut weight, mut first, mut second) = (start, 0.0, 0.0);
    let step = |(index, &gradient): (usize, &f64)| {
        first = 0.9 * first + 0.1 * gradient;
        second = 0.999 * second + 0.001 * gradient * gradient;
        let t = index as i32 + 1;
        let (unbiased_first, unbiased_second) = (first / (1.0 - 0.9f64.powi(t)), second / (1.0 - 0.999f64.powi(t)));
        weight -= rate * unbiased_first / (f64::sqrt(unbiased_second) + 1e-8);
        weight
    };
    gradients.iter().enumerate().map(step).collect()
}

#[test]
fn adam_matches_its_closed_form() {
    // Without the bias corrections the first step would be 0.0316, not 0.1.
    let expected = adam(0.1, 1.0, &[0.5, -1.0, 2.0]);
    assert!((expected[0] - 0.9).abs() < 1e-8, "the first step is the rate, whatever the gradient");
    check_steps(&steps(Update::Adam, 0.0, 0.1, 1.0, &[0.5, -1.0, 2.0]), &expected);
    // At the size of ε the step is half the rate; with ε inside the root it would be 1e-5 of it.
    check_steps(&steps(Update::Adam, 0.0, 0.1, 1.0, &[1e-8]), &[0.95]);
}

fn check_rate(schedule: Schedule, step: usize, expected: f32) {
    let found = schedule.rate(0.2, step, 96);
    // Relative f32 rounding; one step earlier or later differs by more at the steep places.
    assert!((found - expected).abs() <= 1e-6, "{schedule:?} at {step}: {found}, expected {expected}");
}

#[test]
fn schedules_start_at_the_peak_and_fall() {
    check_rate(Schedule::Cosine, 0, 0.2);
    check_rate(Schedule::Cosine, 32, 0.15); // cos 60° = 1/2
    check_rate(Schedule::Cosine, 48, 0.1);
    check_rate(Schedule::Cosine, 96, 0.0);
    for (step, expected) in [(0, 0.2), (31, 0.2), (32, 0.02), (63, 0.02), (64, 0.002), (95, 0.002)] {
        check_rate(Schedule::Step, step, expected);
        check_rate(Schedule::Constant, step, 0.2);
    }
    let warmed = Training { warm_up: 4, rate: 0.2, schedule: Schedule::Constant, ..Training::adam(96, 1) };
    let rates = [0, 1, 2, 3, 4, 5].map(|step| (warmed.rate_of(step) * 1e4).round());
    assert_eq!(rates, [200.0, 650.0, 1100.0, 1550.0, 2000.0, 2000.0]);
}

/// A folded teacher, and its student at half the width with weights moved away from the teacher's.
fn teacher_and_student(channels: usize) -> (Block, Block) {
    let stream = &mut Stream::new(4, Purpose::Images, 0);
    let teacher = fold_batch_norms(&residual(stream, "block", INPUT, channels)).unwrap();
    let student = shrink(&teacher, Width::new(0.5).unwrap()).unwrap();
    let mut weights = student.weights().to_vec();
    for weight in &mut weights {
        let count = weight.data.len();
        weight.data.iter_mut().zip(stream.gaussian(count)).for_each(|(value, noise)| *value += 0.3 * noise);
    }
    (teacher, student.with_weights(weights).unwrap())
}

fn fresh_noise() -> Inputs<'static> {
    Inputs::new(InputsFrom::Fresh(INPUT), 11, 0)
}

/// The student after training on noise of its own, and the loss before each step.
fn trained(teacher: &Block, student: &Block, training: &Training) -> (Block, Vec<f32>) {
    let mut losses = Vec::new();
    let target = DeviceBlock::new(teacher, &Device::Cpu);
    let progress = |step, loss| {
        losses.push(loss);
        assert_eq!(step, losses.len());
    };
    let how =
        BlockTraining { teacher: &target, ahead: LookAhead::NONE, training, ramp: None, engine: &Engine::default() };
    let block = train(student.clone(), how, &mut fresh_noise(), progress).unwrap();
    (block, losses)
}

fn one_step(rate: f32) -> Training {
    let update = Update::Momentum { momentum: 0.9 };
    Training {
        steps: 1,
        batch: 3,
        update,
        schedule: Schedule::Cosine,
        rate,
        warm_up: 0,
        weight_decay: 0.0,
        stop: false,
    }
}

/// Asserts that one step of momentum SGD at rate 1 moves every weight by minus the finite difference.
fn check_gradient(channels: usize) {
    let (teacher, student) = teacher_and_student(channels);
    let (moved, losses) = trained(&teacher, &student, &one_step(1.0));
    let mut batch = Batch::new(&Device::Cpu);
    fresh_noise().epochs().next_into(3, &mut batch).unwrap();
    let batch = widen(&batch.to_values());
    let target = naive::forward(&teacher, &batch);
    let loss = |student: &Block| mean_squared_error(&naive::forward(student, &batch), &target);
    // Mean per element, not sum or half of it; f32 rounding of the loss.
    assert!((f64::from(losses[0]) / loss(&student) - 1.0).abs() <= 1e-5, "{losses:?}, loops give {}", loss(&student));
    let (mut differences, mut updates) = (Vec::new(), Vec::new());
    for (index, weight) in student.weights().iter().enumerate() {
        for position in 0..weight.data.len() {
            let at = |offset: f32| {
                let mut weights = student.weights().to_vec();
                weights[index].data[position] += offset;
                (f64::from(weights[index].data[position]), loss(&student.with_weights(weights).unwrap()))
            };
            let ((high, above), (low, below)) = (at(1e-3), at(-1e-3));
            differences.push((above - below) / (high - low));
            updates.push(f64::from(weight.data[position]) - f64::from(moved.weights()[index].data[position]));
        }
    }
    let error = naive::relative_error(&updates, &differences);
    // Central differences over 2e-3 (kinks of the activations included); a wrong sign, a factor of 2, a gradient of
    // another weight or a frozen layer is off by > 0.1.
    assert!(error <= 5e-3, "gradient off by {error}");
    assert!(differences.iter().any(|d| d.abs() > 1e-2), "the gradient is not trivially small");
}

#[test]
fn one_step_moves_weights_by_the_gradient() {
    check_gradient(2); // identity shortcut
    check_gradient(4); // stride 2, padded shortcut
}

#[test]
fn loss_is_told_where_nothing_is_trained() {
    let mut builder = BlockBuilder::new("relu", Role::Neighbourhood, INPUT);
    builder.push("relu", Op::RELU, &[0], vec![]).unwrap();
    let block = builder.finish().unwrap();
    let (input, target) = (Batch::from_values(&[-1.0; 64], INPUT), Batch::from_values(&[3.0; 64], INPUT));
    let training = one_step(1.0);
    assert_eq!(BlockTrainer::new(block.clone(), &training).step(&input, &target), 9.0);
}

#[test]
fn no_steps_leave_the_student_as_it_is() {
    let (teacher, student) = teacher_and_student(4);
    let (block, losses) = trained(&teacher, &student, &Training { steps: 0, ..one_step(1.0) });
    assert_eq!((block, losses.len()), (student, 0));
}

#[test]
fn steps_lower_the_loss() {
    let (teacher, student) = teacher_and_student(4);
    for (update, rate) in [(Update::Adam, 1e-2), (Update::Momentum { momentum: 0.9 }, 3e-2)] {
        let training = Training {
            steps: 60,
            batch: 16,
            update,
            schedule: Schedule::Cosine,
            rate,
            warm_up: 0,
            weight_decay: 0.0,
            stop: false,
        };
        let (_, losses) = trained(&teacher, &student, &training);
        let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
        let (first, last) = (mean(&losses[..5]), mean(&losses[55..]));
        // Batches differ by about a tenth; a third less is beyond their noise.
        assert!(last < 0.67 * first, "{update:?}: {first} became {last}");
    }
}

#[test]
fn running_statistics_stay_as_they_are() {
    let student = pre_activation();
    let mut inputs = Inputs::new(InputsFrom::Fresh(student.input()), 11, 0);
    let teacher =
        fold_batch_norms(&residual(&mut Stream::new(4, Purpose::Images, 0), "block", student.input(), 4)).unwrap();
    let training = Training { steps: 3, weight_decay: 0.1, ..one_step(0.1) };
    let (teacher, engine) = (DeviceBlock::new(&teacher, &Device::Cpu), Engine::default());
    let how =
        BlockTraining { teacher: &teacher, ahead: LookAhead::NONE, training: &training, ramp: None, engine: &engine };
    let moved = train(student.clone(), how, &mut inputs, |_, _| {}).unwrap();
    let unchanged: Vec<&str> = (0..student.weights().len())
        .filter(|&index| moved.weights()[index] == student.weights()[index])
        .map(|index| student.weights()[index].name.as_str())
        .collect();
    assert_eq!(unchanged, ["bn.running_mean", "bn.running_var"]);
}

#[test]
fn same_seed_trains_the_same_weights() {
    let (teacher, student) = teacher_and_student(2);
    let train = || trained(&teacher, &student, &Training { steps: 3, ..one_step(0.1) });
    assert_eq!(train(), train());
}

/// A group of images and part of one; three groups; more groups than the pieces whose gradients are summed apart.
const BATCHES: [usize; 3] = [21, 40, 150];

/// Asserts that `work` gives the same with its batches whole and in parts, and not what it started from.
fn check_parts(what: &str, start: &[Block], work: impl Fn(&Engine) -> (Vec<Block>, Vec<f32>)) {
    let on = |engine: &Engine| {
        let (blocks, losses) = work(engine);
        (bits(&blocks), losses.iter().map(|loss| loss.to_bits()).collect::<Vec<u32>>())
    };
    let whole = on(&Engine::default());
    assert!(whole.0 != bits(start) && whole.1.len() == 3, "{what}: nothing moved");
    // To the bit: sums of a part added in another order, or divided by the part's size, differ in the last place at least.
    for engine in in_parts() {
        assert!(on(&engine) == whole, "{what}: {:?} changed the result", engine.portions);
    }
}

#[test]
fn a_batch_in_parts_trains_a_block_and_one_that_looks_ahead_to_the_same_bits() {
    let (teacher, student) = teacher_and_student(4);
    let stream = &mut Stream::new(5, Purpose::Images, 0);
    let next = residual(stream, "next", teacher.output(), 4);
    let last = residual(stream, "last", next.output(), 8);
    let next = [next, last].map(|block| fold_batch_norms(&block).unwrap());
    for (ahead, batch) in [&next[..0], &next].into_iter().flat_map(|ahead| BATCHES.map(|batch| (ahead, batch))) {
        let training = Training { steps: 3, batch, ..one_step(0.05) };
        let what = format!("{} ahead, batch {batch}", ahead.len());
        check_parts(&what, std::slice::from_ref(&student), |engine| {
            let target = DeviceBlock::new(&teacher, &engine.device);
            let how = BlockTraining {
                teacher: &target,
                ahead: LookAhead { blocks: ahead, alpha: &[] },
                training: &training,
                ramp: None,
                engine,
            };
            let mut losses = Vec::new();
            let block = train(student.clone(), how, &mut fresh_noise(), |_, loss| losses.push(loss)).unwrap();
            (vec![block], losses)
        });
    }
}

#[test]
fn a_weight_of_a_block_ahead_scales_its_term() {
    let (teacher, student) = teacher_and_student(4);
    let next =
        [fold_batch_norms(&residual(&mut Stream::new(5, Purpose::Images, 0), "next", teacher.output(), 4)).unwrap()];
    let engine = Engine::default();
    let target = DeviceBlock::new(&teacher, &Device::Cpu);
    let training = Training { steps: 3, ..one_step(0.05) };
    let trained = |blocks, alpha| {
        let ahead = LookAhead { blocks, alpha };
        let how = BlockTraining { teacher: &target, ahead, training: &training, ramp: None, engine: &engine };
        bits(&[train(student.clone(), how, &mut fresh_noise(), |_, _| {}).unwrap()])
    };
    let (alone, full) = (trained(&[], &[]), trained(&next, &[]));
    assert!(trained(&next, &[1.0]) == full && trained(&next, &[0.0]) == alone, "1 is the default, 0 nothing");
    let half = trained(&next, &[0.5]);
    assert!(half != full && half != alone);
}

#[test]
fn noise_on_activations_has_the_deviation_that_was_asked_for() {
    let shape = Shape::new(4, 8, 8);
    let same = |name, role| {
        let mut block = BlockBuilder::new(name, role, shape);
        block.push("relu", Op::RELU, &[0], Vec::new()).unwrap();
        block.finish().unwrap()
    };
    // Far above 0, where a ReLU passes everything on. Neither the stem's output nor the last is disturbed.
    let values = vec![100.0; 40 * shape.elements()];
    let goal = Goal { output: Batch::from_values(&values, shape), weight: 1.0 };
    let goals: Vec<Goal> = (0..4).map(|_| goal.clone()).collect();
    let blocks =
        [("stem", Role::Stem), ("one", Role::Neighbourhood), ("two", Role::Neighbourhood), ("head", Role::Head)];
    let blocks: Vec<Block> = blocks.into_iter().map(|(name, role)| same(name, role)).collect();
    let learners = Learners { count: 4, statistics: Statistics::Running };
    let mut trainer = Trainer::new(blocks, learners, &Training::adam(1, 40), &Engine::default());
    trainer.disturb(Disturbance { deviation: 0.5, seed: 1 });
    let mut step = || {
        trainer.step(&goal.output, Goals { outputs: &goals, classes: &[] });
        [0, 1, 2, 3].map(|block| trainer.distance(block) / values.len() as f64)
    };
    let first = step();
    // 10,240 values: the sample's variance is within 5 % of σ² = 0.25, or of the sum of two.
    for (found, expected) in first.into_iter().zip([0.0, 0.0, 0.25, 0.5]) {
        assert!((found - expected).abs() <= 0.05 * expected, "{first:?}");
    }
    assert!(step() != first, "every step has the same noise");
}

#[test]
fn a_batch_in_parts_fine_tunes_to_the_same_bits() {
    let teacher = distill_tests::teacher();
    let half = |block: &Block| shrink(block, Width::new(0.5).unwrap()).unwrap();
    let folded: Vec<Block> = teacher.iter().map(|block| half(&fold_batch_norms(block).unwrap())).collect();
    // With batch norms, those of each batch.
    let unfolded: Vec<Block> = teacher.iter().map(half).collect();
    for (what, student) in [("folded", folded), ("unfolded", unfolded)] {
        for batch in BATCHES {
            let training = Training { batch, ..Tuning::new(3).training };
            let tuning = Tuning { training, disturbance: 0.1, ..Tuning::new(3) };
            check_parts(&format!("{what}, batch {batch}"), &student, |engine| {
                let mut losses = Vec::new();
                let course = Course { teacher: &teacher, lessons: &WhiteLessons(IMAGE), tuning: &tuning, engine };
                let tuned = learn(course, student.clone(), None, |step| losses.push(step.loss)).unwrap();
                (tuned, losses)
            });
        }
    }
}

#[test]
fn a_training_resumed_between_any_two_steps_ends_in_the_same_bits() {
    let teacher = distill_tests::teacher();
    let half = |block: &Block| shrink(block, Width::new(0.5).unwrap()).unwrap();
    let student: Vec<Block> = teacher.iter().map(half).collect();
    let (pixels, mut images) = (distill_tests::manifest().pixels(), None::<NoiseImages>);
    let calibration = Calibration { batch: 16, ..Calibration::new(1, 0) };
    for batch in 0..2 {
        let made = Calibrator::new(&teacher).batch(batch, &calibration, &pixels, |_| {});
        match &mut images {
            Some(images) => images.append(made),
            None => images = Some(made),
        }
    }
    let images = images.unwrap();
    // Epochs of 29 images end inside batches of 16.
    let calibrated = NoiseLessons { images: &images, pixels: &pixels, seen: 29 };
    let white: (&dyn Lessons, _) = (&WhiteLessons(IMAGE), Update::MOMENTUM);
    for (lessons, update) in [white, (&calibrated, Update::Adam)] {
        let training = Training { batch: 16, update, warm_up: 3, ..Tuning::new(6).training };
        let (tuning, engine) = (Tuning { training, disturbance: 0.1, ..Tuning::new(6) }, Engine::default());
        let course = Course { teacher: &teacher, lessons, tuning: &tuning, engine: &engine };
        let mut left = Vec::new();
        let whole = learn(course, student.clone(), None, |step| left.push(step.snapshot().unwrap())).unwrap();
        for (index, snapshot) in left.into_iter().enumerate() {
            assert_eq!(snapshot.steps(), index + 1);
            let mut steps = Vec::new();
            let resumed = learn(course, student.clone(), Some(snapshot), |step| steps.push(step.number)).unwrap();
            assert_eq!(bits(&resumed), bits(&whole), "resumed after step {}", index + 1);
            assert_eq!(steps, (index + 2..=6).collect::<Vec<_>>());
        }
    }
}
