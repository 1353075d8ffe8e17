//! Calibrated noise: how it is made, and kept in a pack.

use std::fs;

use distill_core::{
    Aim, Block, BlockBuilder, Calibration, Calibrator, Conv, Encoding, NoiseImages, Op, Pack, PackError, Pixels, Pull,
    Purpose, Role, Stream, Weight, fold_batch_norms,
};
use distill_host::{
    learn::{Distance, calibrate},
    network::Network,
};
use distill_tests::{manifest, pack, teacher};

use crate::calibrated::{CALIBRATION, calibrated_pack, images, outputs_of, pack_with, task};

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
