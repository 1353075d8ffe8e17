//! Burn's operators and ours are the same functions, and so is training with either.

use distill_core::{
    Batch, Block, Classes, Device, DeviceBlock, Engine, Goal, Goals, Learners, Pack, Purpose, Run, Schedule, Settings,
    Shape, SourceKind, Statistics, Stream, Trainer, Training, Update, Width, fold_batch_norms, one_hot, run, shrink,
};

use crate::{
    calibrated::{calibrated_pack, images},
    graphs::random_block,
    kernels::usual_blocks,
    naive::{relative_error, widen},
    transforms::pre_activation,
};
use distill_tests::{residual, source, teacher};

const COUNT: usize = 21;

fn devices() -> [Device; 2] {
    [Device::Cpu, Device::Burn(burn::tensor::Device::flex())]
}

fn noise(shape: Shape, device: &Device) -> Batch {
    Batch::from_values(&Stream::new(7, Purpose::Images, 0).images(COUNT, shape), shape).to_device(device)
}

#[test]
fn forward_passes_agree_in_both_statistics() {
    for block in teacher().iter().chain([&pre_activation()]) {
        for statistics in [Statistics::Running, Statistics::Current] {
            let [ours, burns] = devices()
                .map(|device| DeviceBlock::new(block, &device).forward(&noise(block.input(), &device), statistics));
            let error = relative_error(&widen(&ours.to_values()), &widen(&burns.to_values()));
            assert!(error <= 1e-5, "{} {statistics:?}: {error}", block.name());
        }
    }
}

/// Momentum, a rate that falls, and weight decay.
const TRAINING: Training = Training {
    steps: 8,
    batch: COUNT,
    update: Update::Momentum { momentum: 0.9 },
    schedule: Schedule::Cosine,
    rate: 0.05,
    warm_up: 3,
    weight_decay: 0.01,
    stop: false,
};

/// Asserts that eight steps give the same losses, weights and running statistics on both devices. `goals` are what the first blocks'
/// outputs should be, and their weights in the loss; `labels` are added where there are any.
fn check_steps(
    what: &str,
    blocks: &[Block],
    learners: Learners,
    training: &Training,
    goals: &[(Vec<f32>, f32)],
    labels: Option<&[f32]>,
) {
    let [ours, burns] = devices().map(|device| {
        let engine = Engine::new(device.clone());
        let input = noise(blocks[0].input(), &device);
        let goal = |((output, weight), block): (&(Vec<f32>, f32), &Block)| Goal {
            output: Batch::from_values(output, block.output()).to_device(&device),
            weight: *weight,
        };
        let outputs: Vec<Goal> = goals.iter().zip(blocks).map(goal).collect();
        let classes: Vec<Classes<'_>> = labels.into_iter().flat_map(terms).collect();
        let mut trainer = Trainer::new(blocks.to_vec(), learners, training, &engine);
        let mut losses = Vec::new();
        for _ in 0..training.steps {
            trainer.step(&input, Goals { outputs: &outputs, classes: &classes });
            losses.extend((0..outputs.len()).map(|block| trainer.distance(block)));
            losses.extend(labels.map(|_| f64::from(trainer.cross_entropy())));
        }
        let trained = trainer.finish().unwrap();
        assert_eq!(trained.len(), learners.count);
        let values = trained.iter().flat_map(Block::weights).flat_map(|weight| weight.data.clone());
        (losses, widen(&values.collect::<Vec<f32>>()))
    });
    // Eight steps in f32; a wrong momentum, decay or share of a loss is off by > 1e-2.
    let errors = [relative_error(&ours.0, &burns.0), relative_error(&ours.1, &burns.1)];
    assert!(errors.iter().all(|error| *error <= 2e-4), "{what}, losses and weights: {errors:?}");
    let started = blocks[..learners.count].iter().flat_map(Block::weights).flat_map(|weight| widen(&weight.data));
    assert!(relative_error(&started.collect::<Vec<f64>>(), &ours.1) > 1e-2, "{what}: nothing moved");
}

/// Two terms with the classes, as with a teacher and labels.
fn terms(probabilities: &[f32]) -> [Classes<'_>; 2] {
    let of = |temperature, weight| Classes { probabilities, temperature, weight };
    [of(2.0, 0.7), of(1.0, 0.3)]
}

/// Normal values for the outputs of blocks, and the weight of a mean.
fn random_goals(blocks: &[Block]) -> Vec<(Vec<f32>, f32)> {
    let stream = &mut Stream::new(5, Purpose::Images, 0);
    let goal = |block: &Block| (stream.images(COUNT, block.output()), 1.0 / (COUNT * block.output().elements()) as f32);
    blocks.iter().map(goal).collect()
}

fn folded_teacher() -> Vec<Block> {
    teacher().iter().map(|block| fold_batch_norms(block).unwrap()).collect()
}

#[test]
fn training_a_block_agrees() {
    for channels in [4, 8] {
        let stream = &mut Stream::new(8, Purpose::Images, 0);
        let teacher = fold_batch_norms(&residual(stream, "block", Shape::new(4, 8, 8), channels)).unwrap();
        let student = [shrink(&teacher, Width::new(0.5).unwrap()).unwrap()];
        for training in [TRAINING, Training { update: Update::Adam, rate: 1e-2, ..TRAINING }] {
            check_steps("a block", &student, Learners::FIRST, &training, &random_goals(&student), None);
            // A zero of a kernel stays zero on both.
            let mut weights = student[0].weights().to_vec();
            weights[0].data.iter_mut().step_by(2).for_each(|value| *value = 0.0);
            let sparse = [student[0].with_weights(weights).unwrap()];
            check_steps("a sparse block", &sparse, Learners::FIRST, &training, &random_goals(&sparse), None);
        }
    }
}

#[test]
fn training_with_a_look_ahead_agrees() {
    let blocks = &folded_teacher()[1..4];
    check_steps("a look-ahead", blocks, Learners::FIRST, &TRAINING, &random_goals(blocks), None);
}

#[test]
fn fine_tuning_agrees() {
    let (blocks, labels) = (folded_teacher(), one_hot(&(0..COUNT as u16).map(|i| i % 10).collect::<Vec<_>>(), 10));
    let learners = Learners { count: blocks.len(), statistics: Statistics::Current };
    let goals = random_goals(&blocks[..blocks.len() - 1]);
    check_steps("a fine-tune", &blocks, learners, &TRAINING, &goals, Some(&labels));
}

#[test]
fn training_a_teacher_with_the_statistics_of_its_batches_agrees() {
    let (blocks, labels) = (teacher(), one_hot(&(0..COUNT as u16).map(|i| 3 * i % 10).collect::<Vec<_>>(), 10));
    let learners = Learners { count: blocks.len(), statistics: Statistics::Current };
    check_steps("a teacher", &blocks, learners, &TRAINING, &[], Some(&labels));
}

#[test]
fn whole_runs_agree() {
    let bytes = calibrated_pack(&images(2).0);
    // In a sequential run, the students' activations are cached beside the teacher's, and the stem makes both larger.
    let runs = [
        (SourceKind::Standard, false),
        (SourceKind::Propagated, false),
        (SourceKind::Calibrated, false),
        (SourceKind::Calibrated, true),
    ];
    for (kind, sequential) in runs {
        let mut settings = Settings { sequential, ..distill_tests::settings() };
        settings.recipe.training = Training { steps: 3, batch: 40, ..TRAINING };
        let [ours, burns] = devices().map(|device| {
            let (mut teacher, source) = (Pack::open(bytes.as_slice()).unwrap(), &mut *source(kind, &bytes));
            let run_of = Run { teacher: &mut teacher, source, scratch: None, settings: &settings, device: &device };
            let (reports, _) = run(run_of, Vec::new(), |_| {}).unwrap();
            reports.iter().map(|report| report.relative_error).collect::<Vec<f64>>()
        });
        // Activations in half precision round a neighbour up or down; another noise or order of images is off by > 1e-2.
        assert!(relative_error(&ours, &burns) <= 1e-3, "{kind}, sequential {sequential}: {ours:?} and {burns:?}");
    }
}

/// Asserts that both devices give a block the same output in both statistics, and the same loss and gradient.
fn check(block: &Block, count: usize, stream: &mut Stream) {
    let values = |shape: Shape, stream: &mut Stream| stream.images(count, shape);
    let (input, target) = (values(block.input(), stream), values(block.output(), stream));
    // A step so long that the weights' own rounding hardly shows in how far they moved.
    let update = Update::Momentum { momentum: 0.0 };
    let schedule = Schedule::Step;
    let training =
        Training { steps: 1, batch: count, update, schedule, rate: 1e3, warm_up: 0, weight_decay: 0.0, stop: false };
    let [ours, burns] = devices().map(|device| {
        let [input, target] = [(&input, block.input()), (&target, block.output())]
            .map(|(values, shape)| Batch::from_values(values, shape).to_device(&device));
        let forward = |statistics| DeviceBlock::new(block, &device).forward(&input, statistics).to_values();
        let engine = Engine::new(device.clone());
        let mut trainer = Trainer::new(vec![block.clone()], Learners::FIRST, &training, &engine);
        let goal = Goal { output: target, ..Goal::mean_squared(block.output(), count, &engine) };
        trainer.step(&input, Goals { outputs: &[goal], classes: &[] });
        let loss = trainer.distance(0) as f32;
        let moved = trainer.finish().unwrap();
        let pairs = block.weights().iter().zip(moved[0].weights());
        let moved = pairs.flat_map(|(from, to)| from.data.iter().zip(&to.data).map(|(from, to)| from - to)).collect();
        [forward(Statistics::Running), forward(Statistics::Current), vec![loss], moved].map(|values| widen(&values))
    });
    for (what, (ours, burns)) in
        ["output", "output by its statistics", "loss", "gradient"].iter().zip(ours.iter().zip(&burns))
    {
        let error = relative_error(ours, burns);
        // Rounding; a tap, a border or a lane past the last image is off by > 1e-2.
        assert!(error <= 1e-5, "{what} of {block:#?}: {error}");
    }
}

#[test]
fn convolutions_agree() {
    let stream = &mut Stream::new(9, Purpose::Images, 0);
    for (block, count) in usual_blocks(stream) {
        check(&block, count, stream);
    }
}

#[test]
fn random_blocks_agree() {
    let stream = &mut Stream::new(11, Purpose::Images, 0);
    for _ in 0..60 {
        let (block, count) = (random_block(stream), 17 + stream.below(20));
        if (0..block.weights().len()).any(|index| block.is_trained(index)) {
            check(&block, count, stream);
        }
    }
}
