//! Burn's operators and ours are the same functions.

use distill_core::{
    Block, BlockTrainer, Device, DeviceBlock, Images, Purpose, Schedule, Shape, Statistics, Stream, Training, Update,
    Width, fold_batch_norms, shrink,
};

use crate::{
    graphs::random_block,
    kernels::usual_blocks,
    naive::{relative_error, widen},
    transforms::pre_activation,
};
use distill_tests::{residual, teacher};

const COUNT: usize = 21;

fn devices() -> [Device; 2] {
    [Device::Cpu, Device::Burn(burn::tensor::Device::flex())]
}

fn noise(shape: Shape) -> Images {
    Images::from_values(&Stream::new(7, Purpose::Images, 0).images(COUNT, shape), shape)
}

#[test]
fn forward_passes_agree_in_both_statistics() {
    for block in teacher().iter().chain([&pre_activation()]) {
        for statistics in [Statistics::Running, Statistics::Current] {
            let [ours, burns] =
                devices().map(|device| DeviceBlock::new(block, &device).forward(&noise(block.input()), statistics));
            let error = relative_error(&widen(&ours.to_values()), &widen(&burns.to_values()));
            assert!(error <= 1e-5, "{} {statistics:?}: {error}", block.name());
        }
    }
}

#[test]
fn gradient_steps_agree() {
    let training = Training {
        steps: 8,
        batch: COUNT,
        update: Update::Momentum { momentum: 0.9 },
        schedule: Schedule::Cosine,
        rate: 0.05,
        weight_decay: 0.01,
        stop: false,
    };
    for channels in [4, 8] {
        let stream = &mut Stream::new(8, Purpose::Images, 0);
        let teacher = fold_batch_norms(&residual(stream, "block", Shape::new(4, 8, 8), channels)).unwrap();
        let student = shrink(&teacher, Width::new(0.5).unwrap()).unwrap();
        let [ours, burns] = devices().map(|device| {
            let input = noise(teacher.input());
            let target = DeviceBlock::new(&teacher, &device).forward(&input, Statistics::Running);
            let mut trainer = BlockTrainer::new(student.clone(), &training, &device);
            let losses: Vec<f32> = (0..training.steps).map(|_| trainer.step(&input, &target)).collect();
            let weights = trainer.finish().unwrap().weights().iter().flat_map(|w| w.data.clone()).collect::<Vec<f32>>();
            (widen(&losses), widen(&weights))
        });
        // Eight steps in f32.
        assert!(relative_error(&ours.0, &burns.0) <= 1e-4, "losses: {ours:?}, {burns:?}");
        assert!(relative_error(&ours.1, &burns.1) <= 1e-4, "weights");
    }
}

/// Asserts that both devices give a block the same output in both statistics, and the same loss and gradient.
fn check(block: &Block, count: usize, stream: &mut Stream) {
    let images = |shape: Shape, stream: &mut Stream| Images::from_values(&stream.images(count, shape), shape);
    let (input, target) = (images(block.input(), stream), images(block.output(), stream));
    // A step so long that the weights' own rounding hardly shows in how far they moved.
    let training = Training {
        steps: 1,
        batch: count,
        update: Update::Momentum { momentum: 0.0 },
        schedule: Schedule::Step,
        rate: 1e3,
        weight_decay: 0.0,
        stop: false,
    };
    let [ours, burns] = devices().map(|device| {
        let forward = |statistics| DeviceBlock::new(block, &device).forward(&input, statistics).to_values();
        let mut trainer = BlockTrainer::new(block.clone(), &training, &device);
        let loss = trainer.step(&input, &target);
        let moved = trainer.finish().unwrap();
        let pairs = block.weights().iter().zip(moved.weights());
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
