//! Whole networks that learn from images and their classes: `train`, `finetune --data` and two baselines.

use std::{fs, path::Path};

use distill_core::{Purpose, Stream};

use super::desk::{Desk, failed};

/// Writes `count` pictures of each of ten classes into folders: each class has a colour, beside noise.
pub fn classes(folder: &Path, count: usize) {
    let mut stream = Stream::new(1, Purpose::Images, 0);
    for class in 0..10 {
        let class_folder = folder.join(class.to_string());
        fs::create_dir_all(&class_folder).unwrap();
        for index in 0..count {
            let pixel = |channel: usize| (class * (20 + 31 * channel) % 200) as u8;
            let pixels: Vec<u8> = (0..32 * 32 * 3).map(|at| pixel(at % 3) + stream.below(56) as u8).collect();
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, 32, 32);
            encoder.set_color(png::ColorType::Rgb);
            encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
            fs::write(class_folder.join(format!("{index}.png")), bytes).unwrap();
        }
    }
}

/// A folder with ten pictures of each class in `data`.
fn desk() -> Desk {
    let desk = Desk::new();
    classes(&desk.path("data"), 10);
    desk
}

const TRAIN: &str = "distill train resnet8 -o trained.ndp --data data --batch 16";

/// Rows of a CSV file of metrics, without its header.
fn rows(desk: &Desk, name: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(desk.path(name)).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("step,seconds,rate,loss,accuracy %"));
    lines.map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

#[test]
fn a_teacher_learns_colours_and_writes_down_how() {
    let desk = desk();
    let line = format!("{TRAIN} --steps 60 --rate 0.02 --metrics m.csv --tensorboard board");
    let trained = desk.json(&line);
    assert!(trained["accuracy"].as_f64() > Some(50.0), "{trained}");
    let inspection = desk.json("distill inspect trained.ndp");
    assert_eq!((&inspection["architecture"], &inspection["made_from"]), (&"resnet8-cifar".into(), &().into()));
    assert_eq!(desk.json("distill evaluate trained.ndp --data data")["total"], 100);
    // The same images as were held out of the training.
    let held_out = desk.json("distill evaluate trained.ndp --data data --held-out");
    assert_eq!((&held_out["total"], &held_out["accuracy"]), (&10.into(), &trained["accuracy"]));
    let rows = rows(&desk, "m.csv");
    assert_eq!(rows.len(), 60);
    assert_eq!((rows[59][0].as_str(), rows[59][4].parse().ok()), ("60", trained["accuracy"].as_f64()));
    assert!(rows[59][3].parse::<f64>().unwrap() < rows[0][3].parse::<f64>().unwrap() / 2.0);
    // What TensorBoard reads: records with their lengths and checksums, whose first names the version.
    let name = fs::read_dir(desk.path("board")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(name).unwrap();
    let mut records = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8).to_le_bytes();
        assert_eq!(
            (masked(&rest[..8]), masked(&rest[12..12 + length])),
            (rest[8..12].try_into().unwrap(), rest[12 + length..16 + length].try_into().unwrap())
        );
        records.push(&rest[12..12 + length]);
        rest = &rest[16 + length..];
    }
    let holds = |record: &[u8], text: &str| record.windows(text.len()).any(|window| window == text.as_bytes());
    assert_eq!(records.len(), 61);
    assert!(holds(records[0], "brain.Event:2") && holds(records[60], "accuracy"));
    // Other metrics are not written over.
    fs::write(desk.path("notes.csv"), "mine").unwrap();
    let error = desk.failure(&format!("{TRAIN} --steps 1 --metrics notes.csv --fresh"), 1);
    assert!(error.contains("notes.csv holds something else than metrics"), "{error}");
}

#[test]
fn a_named_network_has_the_classes_of_its_data() {
    let desk = desk();
    for class in 3..10 {
        fs::remove_dir_all(desk.path(&format!("data/{class}"))).unwrap();
    }
    for (class, name) in ["ant", "bee", "cow"].into_iter().enumerate() {
        fs::rename(desk.path(&format!("data/{class}")), desk.path(&format!("data/{name}"))).unwrap();
    }
    desk.json(&format!("{TRAIN} --steps 1"));
    let network = distill_host::network::Network::read_pack(&desk.path("trained.ndp")).unwrap();
    assert_eq!(
        (network.logits(), network.manifest.classes.as_slice()),
        (3, &["ant", "bee", "cow"].map(str::to_owned)[..])
    );
    assert_eq!(desk.json("distill evaluate trained.ndp --data data")["total"], 30);
}

#[test]
fn noise_on_activations_makes_another_teacher() {
    let desk = desk();
    let trained = |more: &str| {
        desk.json(&format!("{TRAIN} --steps 3 {more}"));
        fs::read(desk.path("trained.ndp")).unwrap()
    };
    let plain = trained("");
    assert!(trained("") == plain && trained("--activation-noise 0.1") != plain);
    assert!(trained("--train-split 50%") != plain);
}

#[test]
fn a_student_that_learned_from_data_says_so() {
    let desk = desk();
    desk.json("distill run teacher.ndp -o blocks.ndp --width 0.5 --images 64");
    let tune = "distill finetune teacher.ndp blocks.ndp -o student.ndp --data data --steps 2 --batch 8 --rate 1e-6";
    let tuned = desk.json(tune);
    assert!(tuned["before"]["accuracy"].is_number() && tuned["before"]["images"] == 10, "{tuned}");
    for line in [
        tune.to_owned(),
        format!("{tune} --lambda 0"),
        format!("{tune} --preset paper"),
        "distill baseline kd teacher.ndp -o student.ndp --data data --steps 2".to_owned(),
        "distill baseline ce teacher.ndp -o student.ndp --data data --steps 2".to_owned(),
    ] {
        desk.json(&line);
        assert_eq!(desk.json("distill inspect student.ndp")["made_from"], "recorded", "{line}");
    }
    // Without labels the names of the folders say nothing, and may be anything.
    desk.json(&format!("{tune} --lambda 0"));
    let student = fs::read(desk.path("student.ndp")).unwrap();
    for class in 0..10 {
        fs::rename(desk.path(&format!("data/{class}")), desk.path(&format!("data/x{class}y"))).unwrap();
    }
    desk.json(&format!("{tune} --lambda 0"));
    assert!(
        fs::read(desk.path("student.ndp")).unwrap() == student,
        "labels reached a student that was to learn without"
    );
}

#[test]
fn labels_decide_what_a_student_learns_from_them() {
    let desk = desk();
    desk.json("distill run teacher.ndp -o blocks.ndp --width 0.5 --images 64");
    let tuned = || {
        desk.json(
            "distill finetune teacher.ndp blocks.ndp -o student.ndp --data data --steps 2 --batch 8 --rate 1e-6 --train-split 1",
        );
        fs::read(desk.path("student.ndp")).unwrap()
    };
    let before = tuned();
    for (from, to) in [("0", "x"), ("1", "0"), ("x", "1")] {
        fs::rename(desk.path(&format!("data/{from}")), desk.path(&format!("data/{to}"))).unwrap();
    }
    assert!(tuned() != before);
}

#[test]
fn data_that_cannot_be_learned_from_is_refused_before_work() {
    let desk = desk();
    let lines = [
        format!("{TRAIN} --steps 1"),
        "distill baseline kd teacher.ndp -o student.ndp --data data --steps 1".to_owned(),
        "distill finetune teacher.ndp teacher.ndp -o student.ndp --data data --steps 1".to_owned(),
    ];
    let refused = |lines: &[String], why: &str| {
        for line in lines {
            let error = desk.failure(line, 1);
            assert!(error.contains(why) && !error.contains("training:"), "{line}: {error}");
        }
    };
    let picture = desk.path("data/3/4.png");
    let whole = fs::read(&picture).unwrap();
    fs::write(&picture, &whole[..whole.len() / 2]).unwrap();
    refused(&lines, "4.png");
    fs::write(&picture, whole).unwrap();
    fs::rename(desk.path("data/7"), desk.path("seven")).unwrap();
    refused(&lines, "no image to learn from is of class 7");
    fs::rename(desk.path("seven"), desk.path("data/12")).unwrap();
    // A network that is known by its name has as many classes as the folders.
    refused(&lines[1..], "is of class 12, but the network's are 0 to 9");
    fs::rename(desk.path("data/12"), desk.path("data/7")).unwrap();
    for (line, why) in [
        ("distill baseline kd teacher.ndp -o student.ndp", "name them with --data"),
        ("distill baseline gn-kd teacher.ndp -o student.ndp --data data", "takes no data"),
        ("distill baseline ce teacher.ndp -o student.ndp --data data --lambda 0", "--lambda is for kd alone"),
        ("distill train resnet20 -o trained.ndp", "name them with --data"),
        ("distill train resnet21 -o trained.ndp --data data", "neither a file nor a network"),
        ("distill train resnet20 -o trained.ndp --data builtin", "nothing learns from them"),
        ("distill train resnet20 -o trained.ndp --data data --train-split 0", "above 0 and at most 1"),
        ("distill run teacher.ndp -o blocks.ndp --look-ahead 1 --alpha 1,1", "at most one for each"),
    ] {
        let error = desk.failure(line, 1);
        assert!(error.contains(why), "{line}: {error}");
    }
    let both = "distill finetune teacher.ndp teacher.ndp -o student.ndp --data data --noise standard";
    failed(&desk.run(both), both, 2);
}

#[test]
fn a_label_that_is_no_class_is_named() {
    let desk = Desk::new();
    fs::create_dir(desk.path("cifar")).unwrap();
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        let mut bytes = vec![0; 10_000 * 3073];
        if name == "data_batch_2" {
            bytes[17 * 3073] = 10;
        }
        fs::write(desk.path(&format!("cifar/{name}.bin")), bytes).unwrap();
    }
    let error = desk.failure("distill train resnet20 -o trained.ndp --data cifar", 1);
    assert!(error.contains("image 17 of") && error.contains("data_batch_2.bin has label 10"), "{error}");
}

#[test]
fn reports_with_data_share_their_students() {
    let desk = desk();
    let options = "teacher.ndp -o report --data builtin --training data --limit 20 --effort 0.001 --widths 0.5";
    let line = format!("distill report parameter-reduction {options} --only nd,nd-ft,kd,ce");
    let first = desk.json(&line);
    let methods: Vec<&str> =
        first["cells"].as_array().unwrap().iter().map(|cell| cell["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["nd", "nd-ft", "kd", "ce"]);
    let [nd, tuned, kd, _] = [0, 1, 2, 3].map(|index| &first["cells"][index]);
    assert!(nd["unit_seconds"].is_number() && nd["interface_error"].is_number() && kd["interface_error"].is_null());
    assert_eq!(tuned["curve"].as_array().unwrap().last().unwrap()["accuracy"], tuned["accuracy"]);
    let table = fs::read_to_string(desk.path("report/parameter-reduction.md")).unwrap();
    assert!(table.contains("| 0.5 | ND+FT |") && table.contains("parameter-reduction-minutes.svg"), "{table}");
    assert_eq!(desk.json(&line), first, "nothing is made again");
    // Seconds are part of a student: one that was made again has others.
    let timing = desk.json(&format!("distill report timing {options}"));
    assert_eq!(timing["cells"], first["cells"]);
    let ahead = desk.json(&format!("distill report look-ahead {options}"));
    assert_eq!((&ahead["cells"][0], &ahead["cells"][2]), (nd, tuned));
    let error = desk.failure(&format!("distill report timing {}", options.replace("--data builtin", "--data data")), 1);
    assert!(error.contains("must not learn from the test images"), "{error}");
}

#[test]
fn a_report_of_sparse_students_has_their_bytes() {
    let desk = desk();
    let options = "teacher.ndp -o report --data builtin --training data --limit 20 --effort 0.001";
    let line = format!("distill report sparsity {options} --sparsities 0.5,0.8 --only magnitude,ramp,magnitude-ft");
    let first = desk.json(&line);
    let cells = first["cells"].as_array().unwrap();
    let made: Vec<(&str, f64)> =
        cells.iter().map(|cell| (cell["method"].as_str().unwrap(), cell["sparsity"].as_f64().unwrap())).collect();
    let methods = ["magnitude", "ramp", "magnitude-ft"];
    assert_eq!(made, [0.5, 0.8].map(|share| methods.map(|method| (method, share))).concat());
    for (half, fifth) in cells[..3].iter().zip(&cells[3..]) {
        let ratio = fifth["bytes"].as_f64().unwrap() / half["bytes"].as_f64().unwrap();
        assert!((0.4..0.5).contains(&ratio), "{ratio}");
    }
    let table = fs::read_to_string(desk.path("report/sparsity.md")).unwrap();
    assert!(table.contains("| sparsity | bytes | paper, ND |") && table.contains("--sparsities 0.8,0.5"), "{table}");
    assert_eq!(desk.json(&line), first, "nothing is made again");
    for (wrong, why) in [("--widths 0.5", "no --widths"), ("--sparsities 1", "above 0 and below 1")] {
        let error = desk.failure(&format!("distill report sparsity {options} {wrong}"), 1);
        assert!(error.contains(why), "{wrong}: {error}");
    }
}
