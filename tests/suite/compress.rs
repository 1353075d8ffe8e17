//! `compress` and `compare`: from a file to a smaller one, and how close it is, without labels.

use std::{alloc::System, fs, path::Path};

use distill_core::{Block, CountingAllocator, Manifest, Settings, Width};
use distill_device::parse_share;
use distill_host::{
    compress::{Compressed, Compression, Effort, Target, compress},
    export::export,
    import::ImportOptions,
    measure::{Comparison, Sample, compare},
    network::Network,
    search::Amount,
};
use distill_tests::{manifest, teacher};

static HEAP: CountingAllocator<System> = CountingAllocator::new(System);

fn network(blocks: Vec<Block>) -> Network {
    Network::new(manifest(), blocks).unwrap()
}

/// The small network at a width, not distilled.
fn narrowed(k: f32) -> Network {
    network(teacher()).student(&Settings::new(Width::new(k).unwrap(), 0)).unwrap()
}

fn compress_in(folder: &Path, target: Target, effort: Effort) -> Compressed {
    let model = folder.join("model.safetensors");
    export(&network(teacher()), &model).unwrap();
    let task = Compression {
        model,
        output: folder.join("student.onnx"),
        import: ImportOptions::default(),
        target,
        round_to: 1,
        effort,
        budget: None,
        data: None,
        work: folder.join("work"),
        seed: 0,
    };
    compress(&task, &HEAP).unwrap()
}

fn found(compressed: &Compressed) -> Vec<(&str, bool)> {
    compressed.stages.iter().map(|stage| (stage.name, stage.found)).collect()
}

#[test]
fn a_file_becomes_a_smaller_one_and_the_work_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let half: Amount = "60%".parse().unwrap();
    let first = compress_in(folder.path(), Target::Parameters(half), Effort::Quick);
    let [all, left] = [first.teacher.parameters, first.student.parameters].map(|count| count as f64);
    assert!(left <= 0.6 * all, "{left} of {all} parameters");
    assert!(first.comparison.output_error < 0.5, "{}", first.comparison.line());
    assert_eq!(found(&first), [("import", false), ("calibrate", false), ("distil", false)]);
    let written = fs::read(&first.file).unwrap();
    // The same again: nothing is made, and the file has the same bytes.
    let again = compress_in(folder.path(), Target::Parameters(half), Effort::Quick);
    assert_eq!(found(&again), [("import", true), ("calibrate", true), ("distil", true)]);
    assert_eq!(fs::read(&again.file).unwrap(), written);
    // Another target uses the first one's noise.
    let wider = compress_in(folder.path(), Target::Width(Width::new(0.9).unwrap()), Effort::Quick);
    assert_eq!(found(&wider), [("import", true), ("calibrate", true), ("distil", false)]);
    // A damaged file is made again, to the same bytes.
    for entry in fs::read_dir(folder.path().join("work")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let mended = compress_in(folder.path(), Target::Parameters(half), Effort::Quick);
    assert_eq!(found(&mended), [("import", false), ("calibrate", false), ("distil", false)]);
    assert_eq!(fs::read(&mended.file).unwrap(), written);
}

#[test]
fn a_fine_tune_stays_only_if_it_helps() {
    let folder = tempfile::tempdir().unwrap();
    let width = Target::Width(Width::new(0.5).unwrap());
    let quick = compress_in(folder.path(), width, Effort::Quick);
    let usual = compress_in(folder.path(), width, Effort::Usual);
    let tuned: Vec<&str> = usual.stages.iter().map(|stage| stage.name).collect();
    assert_eq!(tuned, ["import", "calibrate", "distil", "fine-tune"]);
    let agreement = |compressed: &Compressed| compressed.comparison.agreement.unwrap();
    assert!(agreement(&usual) >= agreement(&quick) - 2.0, "{} after {}", agreement(&usual), agreement(&quick));
}

#[test]
fn the_largest_student_that_meets_a_target_is_taken() {
    let network = network(teacher());
    let size = |settings: &Settings| network.student(settings).unwrap().parameters() as u64;
    let at = |k: f32| Settings::new(Width::new(k).unwrap(), 0);
    let [half, wider] = [at(0.5), at(0.75)];
    let between = (size(&half) + size(&wider)) / 2;
    let widths = Target::Parameters(Amount::Count(between)).widths(&network, 1).unwrap();
    let found = widths.apply(at(1.0), 1);
    assert!((size(&half)..=between).contains(&size(&found)), "{} of at most {between}", size(&found));
    // Another block a step wider is too large.
    let names = ["layer1.0", "layer2.0", "layer2.1"].map(str::to_owned);
    for name in names.into_iter().filter(|name| widths.some.iter().all(|(wide, _)| wide != name)) {
        let mut more = found.clone();
        more.widths.push((name.clone(), Width::new(widths.all.k() + 0.001).unwrap()));
        assert!(size(&more) > between, "{name} could be wider");
    }
    let error = Target::Macs("1%".parse().unwrap()).widths(&network, 1).unwrap_err().to_string();
    assert!(error.contains("the smallest has"), "{error}");
}

#[test]
fn amounts_and_shares_are_written_as_people_write_them() {
    let [share, count] = [Amount::Share(0.5), Amount::Count(135_000)];
    for (text, amount) in [("50%", share), ("0.5", share), ("135000", count), ("135k", count), ("0.135M", count)] {
        assert_eq!(text.parse(), Ok(amount), "{text}");
    }
    for text in ["0", "-1", "150%", "1.5", "half", "nan", "k", "0.0001k", "5%k"] {
        assert!(text.parse::<Amount>().is_err(), "{text}");
    }
    assert_eq!(["0.5", "50%", "50 %"].map(|text| parse_share(text).unwrap()), [0.5; 3]);
    assert!(parse_share("half").is_err());
}

/// A fine-tune on white noise took a student from the first figures to the second, and from 85.7 % of test images to 22.1 %.
#[test]
fn agreement_by_chance_makes_no_student_better() {
    let teacher = network(teacher());
    let student = |agreement, chance, output_error| {
        let (agreement, chance) = (Some(agreement), Some(chance));
        Comparison { agreement, chance, output_error, ..compared(&teacher, &teacher) }
    };
    let (before, after) = (student(31.2, 18.6, 1.072), student(45.3, 37.9, 0.749));
    assert!(!after.follows(&before) && before.follows(&after));
    assert!(student(50.0, 18.6, 2.0).follows(&before), "more agreement at the same chance is better");
}

/// A comparison on 1/f noise.
fn compared(teacher: &Network, student: &Network) -> Comparison {
    compare(teacher, student, Sample::Octaves).unwrap()
}

#[test]
fn a_student_that_is_its_teacher_agrees_with_it() {
    let teacher = network(teacher());
    let same = compared(&teacher, &teacher.folded().unwrap());
    assert_eq!(same.agreement, Some(100.0));
    assert!(same.output_error < 1e-5, "{}", same.output_error);
    assert_eq!(same.blocks.len(), 3);
}

#[test]
fn errors_grow_from_block_to_block() {
    let (teacher, student) = (network(teacher()), narrowed(0.5));
    let comparison = compared(&teacher, &student);
    let [first, .., last] = comparison.blocks.as_slice() else { panic!("three blocks") };
    // The first student reads what the teacher's block reads.
    assert_eq!(first.block_error, first.running_error);
    assert!(last.running_error > last.block_error, "{last:?}");
    let mean = comparison.blocks.iter().map(|block| block.block_error).sum::<f64>() / 3.0;
    assert_eq!(comparison.interface_error(), mean);
}

#[test]
fn a_useless_student_is_not_a_quiet_success() {
    let teacher = network(teacher());
    // Its last layer gives every image the same class.
    let mut blocks = teacher.blocks.clone();
    let head = blocks.last_mut().unwrap();
    let mut weights = head.weights().to_vec();
    weights[0].data.fill(0.0);
    weights[1].data.iter_mut().enumerate().for_each(|(class, bias)| *bias = class as f32);
    *head = head.with_weights(weights).unwrap();
    let warning = compared(&teacher, &network(blocks)).warning().unwrap();
    assert!(warning.contains("no closer to its teacher's than zero"), "{warning}");
    assert_eq!(compared(&teacher, &teacher).warning(), None);
    // Percent of the same class, percent by chance, error of the output.
    let check = |[agreement, chance, output_error]: [f64; 3], expected: Option<&str>| {
        let (agreement, chance) = (Some(agreement), Some(chance));
        let warning = Comparison { agreement, chance, output_error, ..compared(&teacher, &teacher) }.warning();
        let fits = warning.as_ref().map_or(expected.is_none(), |text| expected.is_some_and(|part| text.contains(part)));
        assert!(fits, "{agreement:?} {chance:?}: {warning:?}");
    };
    check([60.0, 13.0, 0.5], None);
    check([18.0, 13.0, 0.9], Some("by chance"));
    check([95.0, 80.0, 0.5], Some("one class"));
    check([95.0, 80.0, 1.5], Some("no closer"));
}

#[test]
fn networks_of_other_shapes_are_not_compared() {
    let whole = network(teacher());
    let mut headless = teacher();
    headless.pop();
    let error = compare(&whole, &network(headless), Sample::Octaves).unwrap_err().to_string();
    assert!(error.contains("the student maps"), "{error}");
}

#[test]
fn a_pack_that_is_a_teacher_brings_its_own_noise() {
    let folder = tempfile::tempdir().unwrap();
    let made = compress_in(folder.path(), Target::Width(Width::new(0.5).unwrap()), Effort::Quick);
    let noise = fs::read_dir(folder.path().join("work")).unwrap().map(|entry| entry.unwrap().path());
    let noise = noise.into_iter().find(|path| path.to_string_lossy().contains("noise-")).unwrap();
    let task = Compression {
        model: noise,
        output: folder.path().join("again.onnx"),
        import: ImportOptions::default(),
        target: Target::Width(Width::new(0.5).unwrap()),
        round_to: 1,
        effort: Effort::Quick,
        budget: None,
        data: None,
        work: folder.path().join("other"),
        seed: 0,
    };
    let again = compress(&task, &HEAP).unwrap();
    assert_eq!(found(&again), [("distil", false)]);
    assert_eq!(again.student.parameters, made.student.parameters);
    assert_eq!(again.comparison.output_error, made.comparison.output_error);
}

#[test]
fn the_normalisation_of_a_student_does_not_matter_for_a_comparison() {
    let teacher = network(teacher());
    let other = Manifest { mean: vec![0.0; 3], std: vec![1.0; 3], ..manifest() };
    let student = Network::new(other, teacher.blocks.clone()).unwrap();
    assert_eq!(compared(&teacher, &student).output_error, 0.0);
}
