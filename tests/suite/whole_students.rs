//! Students trained as a whole on noise: fine-tuned, or from random weights.

use std::sync::LazyLock;

use distill_core::{
    Block, Calibration, Calibrator, Course, DistillError, Engine, Lessons, Manifest, NoiseLessons, Pull, Tuning,
    WhiteLessons, Width, finetune, fold_batch_norms, learn,
};
use distill_host::{learn::untaught, network::Network};
use distill_tests::{IMAGE, manifest, teacher};

use crate::{
    calibrated::{CALIBRATION, calibrated_pack, images, outputs, relative, student, task},
    naive,
};

/// A training on the CPU.
fn course<'a>(teacher: &'a [Block], lessons: &'a dyn Lessons, tuning: &'a Tuning) -> Course<'a> {
    static ENGINE: LazyLock<Engine> = LazyLock::new(Engine::default);
    Course { teacher, lessons, tuning, engine: &ENGINE }
}

#[test]
fn a_diverged_student_is_told_at_once() {
    let (blocks, mut tuning, mut steps) = (teacher(), Tuning::new(60), 0);
    tuning.training.rate = 1e30;
    let student = untaught(&blocks, Width::new(0.5).unwrap(), 3).unwrap();
    let found = finetune(course(&blocks, &WhiteLessons(IMAGE), &tuning), &student, None, |_| steps += 1);
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
fn a_whole_student_learns_from_noise() {
    let (images, pixels, blocks) = (images(4).0, manifest().pixels(), teacher());
    let (student, _) = student(&calibrated_pack(&images), &task(0.5, |_| {}));
    let tuning = Tuning::new(60);
    let lessons = &NoiseLessons { images: &images, pixels: &pixels, seen: 192 };
    let tuned = finetune(course(&blocks, lessons, &tuning), &student, None, |_| {}).unwrap();
    let (before, after) = (relative(&student), relative(&tuned));
    assert!(after < 0.95 * before, "{before} became {after}");
    // Most of what it learns from is the outputs of its blocks.
    let of_logits = Tuning { features: 0.0, ..tuning };
    let other = finetune(course(&blocks, lessons, &of_logits), &student, None, |_| {}).unwrap();
    let inner = |network: &[Block]| naive::relative_error(&outputs(&network[..4]), &outputs(&blocks[..4]));
    let (features, logits) = (inner(&tuned), inner(&other));
    assert!(features < 0.97 * logits, "{logits} with logits alone, {features} with the blocks' outputs");
    // Its teacher has nothing to learn.
    let same = finetune(course(&blocks, &WhiteLessons(IMAGE), &tuning), &blocks, None, |_| {}).unwrap();
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
    let lessons = &NoiseLessons { images: &impressions, pixels: &pixels, seen: 32 };
    learn(course(&blocks, lessons, &tuning), student, None, |step| losses.push(step.loss)).unwrap();
    assert!(losses[59] < losses[0], "{losses:?}");
}
