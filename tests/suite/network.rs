//! Gradient steps on a whole network, with the statistics of each batch.

use distill_core::{
    Batch, Block, Classes, Engine, Goal, Goals, Learners, Op, Purpose, Schedule, Statistics, Stream, Trainer, Training,
    Update, one_hot,
};

use crate::{
    naive::{self, widen},
    transforms::pre_activation,
};
use distill_tests::{IMAGE, bits, in_parts, residual, teacher};

/// A group of images and part of one.
const COUNT: usize = 21;

fn training(rate: f32) -> Training {
    let update = Update::Momentum { momentum: 0.0 };
    Training {
        steps: 1 << 20,
        batch: COUNT,
        update,
        schedule: Schedule::Step,
        rate,
        warm_up: 0,
        weight_decay: 0.0,
        stop: false,
    }
}

fn labels(count: usize) -> Vec<u16> {
    (0..count).map(|image| (7 * image % 10) as u16).collect()
}

/// A whole network in training, with the statistics of each batch.
fn trainer(blocks: &[Block], rate: f32, engine: &Engine) -> Trainer {
    let learners = Learners { count: blocks.len(), statistics: Statistics::Current };
    Trainer::new(blocks.to_vec(), learners, &training(rate), engine)
}

/// A step towards the labels; the mean cross-entropy before it.
fn step(trainer: &mut Trainer, images: &Batch, labels: &[u16]) -> f32 {
    let classes = Classes { probabilities: &one_hot(labels, 10), temperature: 1.0, weight: 1.0 };
    trainer.step(images, Goals { outputs: &[], classes: &[classes] });
    trainer.cross_entropy()
}

/// Mean cross-entropy of the network's logits, batch norms with the statistics of the batch.
fn cross_entropy(blocks: &[Block], input: &[f64]) -> f64 {
    let through = |x: Vec<f64>, block: &Block| naive::values(block, &x, Statistics::Current).pop().unwrap();
    let logits = blocks.iter().fold(input.to_vec(), through);
    let of = |(logits, label): (&[f64], u16)| {
        logits.iter().map(|logit| logit.exp()).sum::<f64>().ln() - logits[usize::from(label)]
    };
    logits.chunks_exact(10).zip(labels(COUNT)).map(of).sum::<f64>() / COUNT as f64
}

#[test]
fn one_step_moves_every_weight_by_the_gradient() {
    let blocks = teacher();
    let input = Stream::new(2, Purpose::Images, 0).images(COUNT, IMAGE);
    let mut trainer = trainer(&blocks, 1.0, &Engine::default());
    let loss = step(&mut trainer, &Batch::from_values(&input, IMAGE), &labels(COUNT));
    let wide = widen(&input);
    assert!((f64::from(loss) / cross_entropy(&blocks, &wide) - 1.0).abs() <= 1e-5, "{loss}");
    let moved = trainer.finish().unwrap();
    let stream = &mut Stream::new(3, Purpose::Images, 0);
    for (position, block) in blocks.iter().enumerate() {
        for index in (0..block.weights().len()).filter(|&index| block.is_trained(index)) {
            let before = &block.weights()[index];
            let after = &moved[position].weights()[index];
            let direction = stream.gaussian(before.data.len());
            // A step so small that it hardly ever crosses a kink of an activation; the weights moved are f32.
            let at = |step: f32| {
                let mut weights = block.weights().to_vec();
                weights[index].data.iter_mut().zip(&direction).for_each(|(value, d)| *value += step * d);
                let moved = weights[index].data.clone();
                let mut blocks = blocks.clone();
                blocks[position] = block.with_weights(weights).unwrap();
                (cross_entropy(&blocks, &wide), widen(&moved))
            };
            let ((above, high), (below, low)) = (at(4e-6), at(-4e-6));
            let gradient = before.data.iter().zip(&after.data).map(|(before, after)| f64::from(before - after));
            let found: f64 = gradient.zip(high.iter().zip(&low)).map(|(g, (high, low))| g * (high - low)).sum();
            let (found, expected) = (found / 8e-6, (above - below) / 8e-6);
            // What kinks are left; a batch norm that forgets its statistics' share is off by > 0.1.
            assert!((found - expected).abs() <= 2e-2, "{}: {found}, differences give {expected}", before.name);
        }
    }
}

#[test]
fn running_statistics_follow_the_batches_and_the_loss_falls() {
    let blocks = teacher();
    let input = Stream::new(2, Purpose::Images, 0).images(COUNT, IMAGE);
    let images = Batch::from_values(&input, IMAGE);
    let mut trainer = trainer(&blocks, 0.02, &Engine::default());
    let losses: Vec<f32> = (0..30).map(|_| step(&mut trainer, &images, &labels(COUNT))).collect();
    assert!(losses[29] < 0.75 * losses[0], "{losses:?}");
    let moved = trainer.finish().unwrap();
    // The first batch norm sees the same images each time, through a convolution that hardly moves.
    let norm = blocks[0].nodes().iter().position(|node| matches!(node.op, Op::BatchNorm(_))).unwrap();
    let value = naive::values(&moved[0], &widen(&input), Statistics::Running).swap_remove(norm);
    let channels = blocks[0].shape(norm).channels;
    let plane = IMAGE.height * IMAGE.width;
    for channel in 0..channels {
        let of = value.chunks_exact(plane).skip(channel).step_by(channels).flatten();
        let mean = of.clone().sum::<f64>() / (COUNT * plane) as f64;
        let found = f64::from(moved[0].weight(norm, 2).unwrap().data[channel]);
        let before = f64::from(blocks[0].weight(norm, 2).unwrap().data[channel]);
        // 0.9³⁰ of the old mean is left.
        assert!((found - mean).abs() <= 0.1 * (before - mean).abs() + 0.02, "channel {channel}: {found}, {mean}");
    }
}

#[test]
fn a_teacher_that_starts_again_after_every_batch_norm_learns_the_same_bits() {
    let blocks = teacher();
    for count in [COUNT, 40, 150] {
        let images = Batch::from_values(&Stream::new(2, Purpose::Images, 0).images(count, IMAGE), IMAGE);
        let goal = |block: &Block| {
            let values = Stream::new(4, Purpose::Images, 0).images(count, block.output());
            Goal { output: Batch::from_values(&values, block.output()), weight: 1e-4 }
        };
        let goals: Vec<Goal> = blocks.iter().map(goal).collect();
        let trained = |engine: &Engine| {
            let mut trainer = trainer(&blocks, 0.02, engine);
            let losses = [(); 3].map(|()| step(&mut trainer, &images, &labels(count)).to_bits());
            // With a goal for each output as well, each of which counts once, whatever a pass goes through again.
            trainer.step(&images, Goals { outputs: &goals, classes: &[] });
            let distances: Vec<u64> = (0..goals.len()).map(|block| trainer.distance(block).to_bits()).collect();
            (losses, distances, bits(&trainer.finish().unwrap()))
        };
        let whole = trained(&Engine::default());
        // Each batch norm and its running statistics, too: a stop that reads a value of the pass before, or updates twice, differs.
        for engine in in_parts() {
            assert!(trained(&engine) == whole, "{count} images, {:?}", engine.portions);
        }
        assert!(whole.0[2] != whole.0[0] && whole.2 != bits(&blocks), "{count} images: nothing moved");
    }
}

#[test]
fn a_smaller_batch_learns_nothing_of_the_larger_before_it() {
    let [large, small] = [150, COUNT].map(|count| {
        (Batch::from_values(&Stream::new(2, Purpose::Images, 0).images(count, IMAGE), IMAGE), labels(count))
    });
    let after_large = || {
        let mut trainer = trainer(&teacher(), 0.02, &Engine::default());
        step(&mut trainer, &large.0, &large.1);
        trainer
    };
    let mut same = after_large();
    step(&mut same, &small.0, &small.1);
    let mut fresh = trainer(&after_large().finish().unwrap(), 0.02, &Engine::default());
    step(&mut fresh, &small.0, &small.1);
    // Without momentum a step depends on the weights alone; statistics that mix in the batch before differ in the first digits.
    assert!(bits(&same.finish().unwrap()) == bits(&fresh.finish().unwrap()));
}

#[test]
fn a_batch_norm_that_begins_a_block_sees_the_output_of_the_block_before() {
    let stream = &mut Stream::new(6, Purpose::Images, 0);
    let first = pre_activation();
    let second = residual(stream, "block", first.output(), first.output().channels);
    let blocks = [first, second, pre_activation()];
    let input = stream.images(COUNT, blocks[0].input());
    let images = Batch::from_values(&input, blocks[0].input());
    let goal = |block: &Block| {
        let zeros = vec![0.0; COUNT * block.output().elements()];
        Goal { output: Batch::from_values(&zeros, block.output()), weight: 1e-4 }
    };
    let goals: Vec<Goal> = blocks.iter().map(goal).collect();
    let through = |x: &Vec<f64>, block: &Block| naive::values(block, x, Statistics::Current).pop().unwrap();
    let outputs = blocks.iter().scan(widen(&input), |x, block| {
        *x = through(x, block);
        Some(x.iter().map(|value| value * value).sum::<f64>())
    });
    let expected: Vec<f64> = outputs.collect();
    for engine in in_parts().into_iter().chain([Engine::default()]) {
        let mut trainer = trainer(&blocks, 0.0, &engine);
        // The second step finds what the first left in memory.
        for _ in 0..2 {
            trainer.step(&images, Goals { outputs: &goals, classes: &[] });
            let found: Vec<f64> = (0..blocks.len()).map(|block| trainer.distance(block)).collect();
            // Sums in f32; statistics of something else than the block's input are off by > 1e-2.
            let error = naive::relative_error(&found, &expected);
            assert!(error <= 1e-5, "{:?}: {found:?}, by hand {expected:?}", engine.portions);
        }
    }
}
