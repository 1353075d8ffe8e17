//! What goes into a block: propagated noise against plain loops, and who sees which image.

use distill_core::{
    Batch, Batches, Device, DeviceBlock, Inputs, InputsFrom, Purpose, Side, SideBlocks, Statistics, Stream,
};

use crate::naive::{self, widen};
use distill_tests::{IMAGE, teacher};

#[test]
fn noise_is_propagated_with_the_statistics_of_its_batch() {
    let (stem, first) = (&teacher()[0], &teacher()[1]);
    let mut cache = distill_tests::noise_cache(1, IMAGE, [24, 16]);
    for block in [stem, first] {
        let passed = SideBlocks { teacher: DeviceBlock::new(block, &Device::Cpu), student: None };
        cache.advance(passed, Statistics::Current, 4).unwrap();
    }
    let images = Stream::new(1, Purpose::Images, 0).images(16, IMAGE);
    let through = |block, input: &[f64], statistics| naive::values(block, input, statistics).pop().unwrap();
    let expected = |statistics| through(first, &through(stem, &widen(&images), statistics), statistics);
    let mut found = Batch::new(&Device::Cpu);
    cache.gather(Side::Teacher, &Vec::from_iter(0..16), &mut found).unwrap();
    let found = widen(&found.to_values());
    // Half precision rounds by 5e-4; running statistics, or those of all 24 images, give another result.
    let error = naive::relative_error(&found, &expected(Statistics::Current));
    assert!(error <= 2e-3, "{error}");
    let running = naive::relative_error(&found, &expected(Statistics::Running));
    assert!(running > 0.1, "{running}: the test cannot tell the statistics apart");
    assert_eq!((cache.len(), cache.shape()), (24, first.output()));
}

#[test]
fn held_out_images_are_seen_by_the_measurement_only() {
    let noise = || distill_tests::noise_cache(1, IMAGE, [24, 8]);
    let mut cache = noise();
    let mut inputs = Inputs::new(InputsFrom::Cached { cache: &mut cache, held_out: 8 }, 1, 0);
    // An image is known by its first pixel.
    let firsts = |images: &Batch| -> Vec<u32> {
        images.to_values().into_iter().step_by(IMAGE.elements()).map(f32::to_bits).collect()
    };
    let drawn = |mut batches: Batches<'_>, size: usize, most: usize| {
        let mut images = Batch::new(&Device::Cpu);
        let mut next = || batches.next_into(size, &mut images).unwrap().then(|| firsts(&images));
        std::iter::from_fn(&mut next).take(most).flatten().collect::<Vec<u32>>()
    };
    let mut all = Batch::new(&Device::Cpu);
    noise().gather(Side::Teacher, &Vec::from_iter(0..24), &mut all).unwrap();
    let all = firsts(&all);
    assert_eq!(drawn(inputs.pass(Purpose::Solve, 100), 5, 100), all[..16]);
    assert_eq!(drawn(inputs.pass(Purpose::Measure, 100), 5, 100), all[16..]);
    let mut epoch = drawn(inputs.epochs(), 4, 4);
    assert_ne!(epoch, all[..16], "an epoch is shuffled");
    let mut visible = all[..16].to_vec();
    epoch.sort_unstable();
    visible.sort_unstable();
    assert_eq!(epoch, visible, "an epoch holds every image once");
}

#[test]
fn images_that_judge_are_not_measured_on() {
    let mut cache = distill_tests::noise_cache(1, IMAGE, [192, 64]);
    let mut all = Batch::new(&Device::Cpu);
    cache.gather(Side::Teacher, &Vec::from_iter(0..192), &mut all).unwrap();
    let all = all.to_values();
    let mut inputs = Inputs::new(InputsFrom::Cached { cache: &mut cache, held_out: 128 }, 1, 0);
    let mut seen = |purpose| {
        let (mut batches, mut images) = (inputs.pass(purpose, 192), Batch::new(&Device::Cpu));
        batches.next_into(192, &mut images).unwrap();
        images.to_values()
    };
    let images = 64 * IMAGE.elements();
    assert_eq!(seen(Purpose::Solve), all[..images]);
    assert_eq!(seen(Purpose::Validate), all[images..2 * images]);
    // The last, which no fine-tune learns from either.
    assert_eq!(seen(Purpose::Measure), all[2 * images..]);
}

#[test]
fn fresh_noise_is_another_for_each_purpose_and_block() {
    let first = |seed, index, purpose| {
        let (mut inputs, mut images) = (Inputs::new(InputsFrom::Fresh(IMAGE), seed, index), Batch::new(&Device::Cpu));
        assert!(inputs.pass(purpose, 2).next_into(2, &mut images).unwrap());
        images.to_values()
    };
    let base = first(1, 0, Purpose::Solve);
    assert_eq!(base, first(1, 0, Purpose::Solve));
    for other in [first(2, 0, Purpose::Solve), first(1, 1, Purpose::Solve), first(1, 0, Purpose::Measure)] {
        assert_ne!(base, other);
    }
}
