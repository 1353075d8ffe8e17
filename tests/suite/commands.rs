//! The two programs as a script sees them: exit codes, JSON, one clear sentence, and no half-written file.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use distill_core::Encoding;
use distill_host::{export::export, network::Network, quickstart::builtin_teacher};
use distill_tests::{manifest, teacher};
use serde_json::Value;

use super::{
    desk::{Desk, failed, fixture, program},
    image_folders::folder_of,
    json,
};

/// Every command of `distill`, such as `data fetch`, as its help lists them.
pub fn all_commands() -> Vec<String> {
    let listed = |command: &str| -> Vec<String> {
        let output = Command::new(program("distill")).args(command.split_whitespace()).arg("--help").output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let names = lines.filter(|line| !line.starts_with("    ")).filter_map(|line| line.split_whitespace().next());
        names.filter(|&name| name != "help").map(|name| format!("{command} {name}").trim().to_owned()).collect()
    };
    let within = |command: String| match listed(&command) {
        inner if inner.is_empty() => vec![command],
        inner => inner,
    };
    listed("").into_iter().flat_map(within).collect()
}

#[test]
fn from_teacher_to_student_file() {
    let desk = Desk::new();
    let report = desk.json("distill-device run teacher.ndp -o blocks.ndp --width 0.75 --images 64 --blocks 0-1,8");
    let indices: Vec<u64> = report["blocks"].as_array().unwrap().iter().map(|b| b["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 1, 8]);
    for block in report["blocks"].as_array().unwrap() {
        assert!(block["parameters"].as_u64() < block["teacher_parameters"].as_u64());
        assert!(block["relative_error"].as_f64().unwrap() < 1.0 && block["seconds"].as_f64().unwrap() > 0.0);
        assert!(block["peak_bytes"].as_u64().unwrap() > 0);
    }
    // The cache alone: 128 images of 16×32×32 in half precision.
    let peak = report["peak_bytes"].as_u64().unwrap();
    assert!((4 << 20..=64 << 20).contains(&peak), "{peak}");
    let planned = report["planned_bytes"].as_u64().unwrap();
    assert!((peak..=peak + peak / 4).contains(&planned), "{peak} of {planned}");
    for ending in ["ndp", "safetensors", "onnx"] {
        desk.json(&format!("distill recompose teacher.ndp blocks.ndp -o student.{ending}"));
    }
    let mut accuracies = Vec::new();
    for file in ["student.ndp", "student.safetensors"] {
        let evaluation = desk.json(&format!("distill evaluate {file} --data builtin --limit 100"));
        assert_eq!(evaluation["total"], 100);
        assert_eq!(evaluation["accuracy"].as_f64(), evaluation["correct"].as_f64());
        assert_eq!(evaluation["top5"].as_f64(), evaluation["top5_correct"].as_f64());
        accuracies.push(evaluation);
    }
    assert_eq!(accuracies[0], accuracies[1]);
    assert!(accuracies[0]["correct"].as_u64().unwrap() >= 70, "{}", accuracies[0]);
    let other = desk.json("distill evaluate student.ndp --data builtin --limit 100 --normalise 5,5,5/1,1,1");
    assert!(other["correct"].as_u64() < accuracies[0]["correct"].as_u64(), "{other}");
    desk.json("distill import student.onnx -o again.ndp");
    let mut inspection = desk.json("distill inspect teacher.ndp");
    assert_eq!(inspection.as_object_mut().unwrap().remove("fingerprint").unwrap().as_str().unwrap().len(), 64);
    assert_eq!(inspection["noise"], serde_json::json!(["standard", "propagated"]));
    assert_eq!(inspection["blocks"].as_array().unwrap().len(), 11);
    let mut drawn = desk.json("distill inspect student.onnx --draw student.svg");
    assert_eq!(drawn.as_object_mut().unwrap().remove("picture").unwrap(), "student.svg");
    // What its students were made from is in every format.
    assert_eq!(drawn.as_object_mut().unwrap().remove("made_from").unwrap(), "propagated");
    assert_eq!(
        drawn.as_object().unwrap().keys().collect::<Vec<_>>(),
        inspection.as_object().unwrap().keys().collect::<Vec<_>>()
    );
    assert!(fs::read_to_string(desk.path("student.svg")).unwrap().ends_with("</svg>\n"));
    assert!(inspection["parameters"].as_u64() > accuracies[0]["parameters"].as_u64());
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_one_and_two_threads() {
    let desk = Desk::new();
    let run = |threads: &str, seed: u64| {
        let options = format!("--width 0.5 --images 64 --steps 2 --batch 16 --blocks 0,6 --seed {seed}");
        let line = format!("run teacher.ndp -o student.ndp {options}");
        let mut command = Command::new(program("distill-device"));
        command.args(line.split(' ')).env("RAYON_NUM_THREADS", threads).current_dir(desk.0.path());
        assert!(command.output().unwrap().status.success());
        fs::read(desk.path("student.ndp")).unwrap()
    };
    let first = run("1", 5);
    assert!(first == run("1", 5), "twice the same");
    assert!(first == run("2", 5), "one thread and two");
    assert!(first != run("1", 6), "another seed");
}

#[test]
fn wrong_usage_exits_with_2() {
    let desk = Desk::new();
    assert!(desk.failure("distill-device run teacher.ndp", 2).contains("--output"));
    assert!(desk.failure("distill-device run teacher.ndp -o s.ndp --noise pink", 2).contains("standard, propagated"));
    desk.failure("distill evaluate teacher.ndp --data builtin --limit 0", 2);
    desk.failure("distill frobnicate", 2);
    for (line, expected) in [
        ("distill-device run teacher.ndp --json", "arguments were not provided: --output <FILE>"),
        ("distill frobnicate --json", "unrecognized subcommand 'frobnicate'"),
        ("distill evaluate teacher.ndp --data builtin --limit 0 --json", "invalid value '0'"),
    ] {
        let output = desk.run(line);
        assert_eq!(output.status.code(), Some(2), "{line}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        json::check_error(line, &object);
        assert!(object["error"].as_str().unwrap().contains(expected), "{object}");
    }
    for help in ["distill --help", "distill import --help", "distill-device run --help"] {
        let output = desk.run(help);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(help == "distill --help" || text.contains("Example:"), "{help} shows no example");
    }
}

#[test]
fn bad_input_is_one_clear_sentence_and_exit_1() {
    let desk = Desk::new();
    let teacher = fs::read(desk.path("teacher.ndp")).unwrap();
    fs::write(desk.path("cut.ndp"), &teacher[..teacher.len() / 2]).unwrap();
    fs::write(desk.path("foreign.ndp"), "no pack at all, but long enough for a header").unwrap();
    let mut future = teacher;
    future[4] = 99;
    fs::write(desk.path("future.ndp"), future).unwrap();
    fs::write(desk.path("cut.th"), &fs::read(fixture("tiny-legacy.th")).unwrap()[..300]).unwrap();
    fs::copy(fixture("tiny-zip.pth"), desk.path("tiny.pth")).unwrap();
    fs::write(desk.path("model.onnx"), "a model that is no pack, but long enough").unwrap();
    for (line, expected) in [
        ("distill-device run missing.ndp -o s.ndp", "cannot open missing.ndp"),
        ("distill-device run cut.ndp -o s.ndp", "it was truncated"),
        ("distill-device run foreign.ndp -o s.ndp", "not a distill pack"),
        ("distill-device run future.ndp -o s.ndp", "update distill"),
        ("distill-device run teacher.ndp -o s.ndp --width 0", "width"),
        ("distill-device run teacher.ndp -o s.ndp --width NaN", "width"),
        ("distill-device run teacher.ndp -o s.ndp --width 1.5", "width"),
        ("distill-device run teacher.ndp -o s.ndp --blocks 9", "there is no block 9: the teacher has 9"),
        ("distill-device run teacher.ndp -o s.ndp --blocks 3-1", "not a list like 0-3,7"),
        ("distill-device run teacher.ndp -o s.ndp --batch 0 --steps 1", "the batch must be from 1 to 65536"),
        ("distill-device run teacher.ndp -o s.ndp --images 1000000000000", "images must be from 1 to 65536"),
        ("distill-device run teacher.ndp -o s.ndp --rate 0", "the learning rate must be a number above 0"),
        ("distill-device run teacher.ndp -o teacher.ndp", "it would replace the file it is made from"),
        ("distill-device run teacher.ndp -o /dev/null", "it is not a file"),
        ("distill-device run teacher.ndp -o no/such/s.ndp", "cannot write no/such/s.ndp"),
        ("distill run teacher.ndp -o s.onnx", "whose name should end in .ndp"),
        ("distill run model.onnx -o s.ndp", "`distill import` makes packs of models"),
        ("distill inspect cut.ndp", "it was truncated"),
        ("distill inspect tiny.pth", "no known architecture has these tensors"),
        ("distill import tiny.pth -o no/such/t.ndp", "cannot write no/such/t.ndp"),
        ("distill import tiny.pth -o t.onnx", "whose name should end in .ndp"),
        ("distill calibrate teacher.ndp -o t.pth", "whose name should end in .ndp"),
        ("distill finetune teacher.ndp missing.ndp -o no/such/s.ndp", "cannot write no/such/s.ndp"),
        ("distill baseline zskd teacher.ndp -o no/such/s.ndp", "cannot write no/such/s.ndp"),
        ("distill evaluate teacher.ndp --data builtin --predictions no/such/p.txt", "cannot write no/such/p.txt"),
        ("distill evaluate teacher.ndp --data builtin --predictions teacher.ndp", "it would replace the file"),
        ("distill inspect teacher.ndp --draw a.png", "unknown ending \"png\" (known: dot, svg)"),
        ("distill import missing.pth -o t.ndp", "cannot import missing.pth"),
        ("distill import cut.th -o t.ndp", "cannot import cut.th"),
        ("distill import tiny.pth -o t.ndp", "cannot import tiny.pth"),
        (
            "distill import tiny.pth --arch vgg16 -o t.ndp",
            "no known architecture has these tensors (known: EfficientNet-Lite",
        ),
        ("distill evaluate teacher.ndp --data nowhere", "distill data fetch cifar10"),
        ("distill evaluate teacher.ndp --data builtin --crop-fraction 0", "above 0 and at most 1"),
        ("distill evaluate teacher.ndp --data builtin --normalise grey", "normalisation grey"),
        ("distill evaluate teacher.ndp --data builtin --normalise 0/1", "3 input channels"),
        ("distill recompose teacher.ndp teacher.ndp -o s.ndp", "not students"),
        (
            "distill recompose teacher.ndp teacher.ndp -o s.gif",
            "unknown ending \"gif\" (known: ndp, safetensors, onnx)",
        ),
        ("distill recompose teacher.ndp cut.ndp -o teacher.ndp", "it would replace the file it is made from"),
        ("distill import tiny.pth -o tiny.pth", "it would replace the file it is made from"),
        ("distill data fetch mnist", "known: cifar10"),
        ("distill quickstart --dir teacher.ndp", "cannot make the folder"),
    ] {
        let error = desk.failure(line, 1);
        assert!(error.contains(expected), "{line}: {error}");
        let sentence: Vec<&str> = error.lines().filter(|line| !line.starts_with("noise: ")).collect();
        assert!(sentence.len() == 1 && sentence[0].starts_with("error: "), "{line}: {error}");
        let output = desk.run(&format!("{line} --json"));
        assert_eq!(output.status.code(), Some(1), "{line}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        json::check_error(line, &object);
        let (said, shorter) = (sentence[0].trim_start_matches("error: "), object["error"].as_str().unwrap());
        assert!(said.starts_with(shorter), "{line}: {said}, {object}");
        assert_eq!(
            said.len() == shorter.len(),
            object["causes"].as_array().unwrap().is_empty(),
            "{line}: {said}, {object}"
        );
    }
}

#[test]
fn shells_and_manuals_know_every_command() {
    let desk = Desk::new();
    assert_eq!(desk.json("distill man --dir man")["folder"], "man");
    for command in all_commands() {
        let page = fs::read_to_string(desk.path(&format!("man/distill-{}.1", command.replace(' ', "-")))).unwrap();
        assert!(page.contains(".TH distill"), "{command}");
        for shell in ["bash", "zsh", "fish"] {
            let script = desk.json(&format!("distill completions {shell}"))["script"].as_str().unwrap().to_owned();
            assert!(command.split(' ').all(|word| script.contains(word)), "{command} in {shell}");
        }
    }
    desk.json("distill man");
    // A reader that closes its pipe is no error, and no panic.
    for line in ["completions bash", "man", "inspect teacher.ndp", "--help"] {
        let piped = format!("set -o pipefail; {} {line} | true", program("distill").display());
        let output = Command::new("bash").args(["-c", &piped]).current_dir(desk.0.path()).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
    }
    for name in ["distill", "distill-device"] {
        let version = String::from_utf8(desk.run(&format!("{name} --version")).stdout).unwrap();
        assert!(version.starts_with(&format!("{name} 0.1.0 (")), "{version}");
        assert!(version.contains("features"), "{version}");
    }
}

#[test]
fn labels_that_may_be_wrong_are_a_warning() {
    let desk = Desk::new();
    let warned = |names: &[&str]| {
        let folder = folder_of(names);
        let output = desk.run(&format!("distill evaluate teacher.ndp --data {}", folder.path().display()));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    // A grey picture, as each of the classes: at least one is right, and one in ten is guessing.
    let all: Vec<String> = (0..10).map(|class| format!("{class}/1.png")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let guessed = warned(&all);
    assert!(guessed.contains("1 of 10 right is no better than guessing among 10 classes"), "{guessed}");
    assert!(!guessed.contains("has folders for"), "{guessed}");
    for (names, expected) in [
        (["3/1.png", "7/1.png"], "folders for 2 of the network's 10 classes: their names are taken as"),
        (["cat/1.png", "dog/1.png"], "folders for 2 of the network's 10 classes: told by their names"),
        (["kitten/1.png", "puppy/1.png"], "taken as its first, 0 to 1 in order of their names"),
    ] {
        let warning = warned(&names);
        assert!(warning.contains(expected), "{warning}");
    }
}

#[test]
fn tables_fit_the_terminal() {
    let desk = Desk::new();
    for line in ["inspect teacher.ndp", "inspect teacher.ndp --budget 64MiB --noise standard --images 64"] {
        let width = |columns: &str| {
            let mut command = Command::new(program("distill"));
            let output = command.args(line.split(' ')).env("COLUMNS", columns).current_dir(desk.0.path()).output();
            let text = String::from_utf8(output.unwrap().stdout).unwrap();
            assert!(text.contains("layer3.2") && text.contains("block"), "{text}");
            let table = text.lines().filter(|line| line.starts_with(['│', '┌', '╞', '└']));
            table.map(|line| line.chars().count()).max().unwrap()
        };
        assert!(width("60") <= 60, "{line}");
        assert!(width("200") <= 200, "{line}");
    }
}

#[test]
fn noise_is_what_the_pack_allows() {
    let desk = Desk::new();
    let said = |file: &str| {
        let output = desk.run(&format!("distill run {file} -o s.ndp --images 64 --blocks 8 --width 1"));
        assert!(output.status.success(), "{output:?}");
        let plan = desk.run(&format!("distill inspect {file} --budget 1GiB --images 64 --blocks 8"));
        let line = |output: &Output| String::from_utf8_lossy(&output.stderr).lines().next().unwrap().to_owned();
        assert_eq!(line(&output), line(&plan), "{file}");
        (line(&output), desk.json("distill inspect s.ndp")["made_from"].as_str().unwrap().to_owned())
    };
    let calibrate =
        |images| format!("distill calibrate teacher.ndp -o noisy{images}.ndp --batch 32 --steps 1 --images {images}");
    assert_eq!(said("teacher.ndp").1, "propagated");
    let error = failed(&desk.run(&calibrate(64)), "calibrate", 1);
    assert!(error.contains("take --images 65 or more"), "{error}");
    desk.json(&calibrate(96));
    assert_eq!(said("noisy96.ndp"), ("noise: calibrated (96 images in the pack)".to_owned(), "calibrated".to_owned()));
    desk.json("distill run noisy96.ndp -o s.ndp --images 64 --blocks 8 --noise standard");
    assert_eq!(desk.json("distill inspect s.ndp")["made_from"], "standard");
    builtin_teacher().unwrap().folded().unwrap().write_pack(&desk.path("folded.ndp"), Encoding::F32).unwrap();
    let (line, noise) = said("folded.ndp");
    assert!(line.contains("has no batch norm") && noise == "standard", "{line}");
}

#[test]
fn a_plan_says_what_a_budget_does() {
    let desk = Desk::new();
    let options = "--width 0.5 --images 64 --blocks 8 --noise standard";
    let error = desk.failure(&format!("distill inspect teacher.ndp {options} --budget 1KiB"), 1);
    let told = error.split("needs at least ").nth(1).and_then(|rest| rest.split_once(" KiB")).unwrap().0.to_owned();
    let plan = desk.json(&format!("distill inspect teacher.ndp {options} --budget {told}KiB"));
    // What is told is rounded up; to the byte, the rest of this test says.
    let smallest = plan["planned_bytes"].to_string();
    assert_eq!(smallest.parse::<u64>().unwrap().div_ceil(1 << 10).to_string(), told);
    let plan = desk.json(&format!("distill inspect teacher.ndp {options} --budget {smallest}"));
    assert_eq!(plan["planned_bytes"].to_string(), smallest);
    let report = desk.json(&format!("distill-device run teacher.ndp -o s.ndp {options} --budget {smallest}"));
    assert_eq!(report["planned_bytes"], plan["planned_bytes"]);
    let peak = report["peak_bytes"].as_u64().unwrap();
    assert!(peak <= smallest.parse().unwrap(), "{peak} bytes of {smallest}");
    let less = smallest.parse::<u64>().unwrap() - 1;
    desk.failure(&format!("distill-device run teacher.ndp -o s.ndp {options} --budget {less}"), 1);
    // Without a budget there is no plan to make, and no option of one.
    desk.failure(&format!("distill inspect teacher.ndp {options}"), 2);
    let text = desk.run(&format!("distill inspect teacher.ndp {options} --budget 1GiB"));
    assert!(String::from_utf8(text.stdout).unwrap().contains("layer3.2"));
}

#[test]
fn one_command_from_a_model_to_a_smaller_one() {
    let desk = Desk::new();
    let small = Network::new(manifest(), teacher()).unwrap();
    export(&small, &desk.path("model.safetensors")).unwrap();
    let made = desk.json("distill compress model.safetensors -o student.onnx --macs 70% --effort quick");
    let macs = |who: &str| made[who]["macs"].as_f64().unwrap();
    assert!(macs("student") <= 0.7 * macs("teacher"), "{made}");
    let compared = desk.json("distill compare model.safetensors student.onnx");
    assert_eq!((compared["of"].as_str(), compared["images"].as_u64()), (Some("1/f noise"), Some(64)));
    let shown = String::from_utf8(desk.run("distill compare model.safetensors student.onnx").stdout).unwrap();
    assert!(shown.contains("layer2.1") && shown.contains("same class as the teacher in"), "{shown}");
    // What is wrong is told before any work.
    for (line, sentence) in [
        ("distill compress model.safetensors -o student.gif", "unknown ending"),
        ("distill compress model.safetensors -o model.safetensors", "it would replace"),
        ("distill compress model.safetensors -o no/such/student.onnx", "cannot write"),
        ("distill compress missing.onnx -o other.onnx", "missing.onnx"),
        ("distill compress model.safetensors -o other.onnx --macs 1%", "the smallest has"),
        ("distill compress model.safetensors -o other.onnx --data nowhere", "cannot open the folder"),
    ] {
        let error = desk.failure(line, 1);
        assert!(error.contains(sentence), "{line}: {error}");
    }
    desk.failure("distill compress model.safetensors -o other.onnx --macs 50% --width 0.5", 2);
}

#[test]
fn noise_from_its_making_to_a_report() {
    let desk = Desk::new();
    let calibrate = |output: &str, images: usize| {
        desk.json(&format!("distill calibrate teacher.ndp -o {output} --images {images} --batch 32 --steps 2"))
    };
    let made = |outcome: &Value| (outcome["images"].as_u64(), outcome["found"].as_u64());
    assert_eq!(made(&calibrate("noisy.ndp", 70)), (Some(96), Some(0)));
    let more = calibrate("noisy.ndp", 100);
    assert_eq!(made(&more), (Some(128), Some(96)));
    assert!(more["mismatch"].as_f64() < more["mismatch_before"].as_f64(), "{more}");
    let nothing = calibrate("noisy.ndp", 128);
    assert_eq!((made(&nothing), nothing["mismatch_before"].is_null()), ((Some(128), Some(128)), true));
    calibrate("at_once.ndp", 128);
    let bytes = |name: &str| fs::read(desk.path(name)).unwrap();
    assert!(bytes("noisy.ndp") == bytes("at_once.ndp"), "images made in two goes are others");
    // The images are the teacher's: its students are, too.
    desk.json("distill-device run noisy.ndp -o blocks.ndp --noise calibrated --images 64 --projections 1");
    let inspected = |file: &str| String::from_utf8(desk.run(&format!("distill inspect {file}")).stdout).unwrap();
    assert!(inspected("blocks.ndp").ends_with("\nmade without data, from calibrated noise\n"));
    assert!(!inspected("noisy.ndp").contains("made"), "a teacher has no students");
    desk.json("distill finetune noisy.ndp blocks.ndp -o tuned.ndp --steps 2 --batch 8");
    assert_eq!(desk.json("distill inspect tuned.ndp")["made_from"], "calibrated");
    assert_eq!(desk.json("distill evaluate tuned.ndp --data builtin --limit 50")["total"], 50);
    let error = failed(&desk.run("distill finetune teacher.ndp blocks.ndp -o tuned.ndp"), "finetune", 1);
    assert!(error.contains("make it with `distill calibrate`"), "{error}");
    for wrong in ["--smoothness nan", "--classes=-1", "--steps 0", "--images 0", "--batch 1"] {
        failed(&desk.run(&format!("distill calibrate teacher.ndp -o wrong.ndp {wrong}")), wrong, 1);
    }
    let report =
        "distill report data-free teacher.ndp -o report --data builtin --effort 0.01 --limit 10 --seeds 1 --widths 0.5";
    let first = desk.json(report);
    assert_eq!(first["cells"].as_array().unwrap().len(), 5);
    assert_eq!(desk.json(report), first, "nothing is made again");
    let table = fs::read_to_string(desk.path("report/data-free.md")).unwrap();
    assert!(table.contains("--widths 0.5") && table.contains("a trial"), "{table}");
    let error = failed(&desk.run(&report.replace("0.01", "0.02")), "another effort", 1);
    assert!(error.contains("name another folder"), "{error}");
    // Cut off after three students of five, without what the fifth begins with.
    let edit = |change: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_slice(&bytes("report/data-free.json")).unwrap();
        change(&mut json);
        fs::write(desk.path("report/data-free.json"), json.to_string()).unwrap();
    };
    edit(&|json| json["cells"].as_array_mut().unwrap().truncate(3));
    for folder in fs::read_dir(desk.path("distill-report")).unwrap() {
        fs::remove_file(folder.unwrap().path().join("Distilled-0.5-0.ndp")).unwrap();
    }
    let again = desk.json(report);
    let cells = |report: &Value| -> Vec<[Value; 3]> {
        let cells = report["cells"].as_array().unwrap().iter();
        cells.map(|cell| ["method", "accuracy", "interface_error"].map(|name| cell[name].clone())).collect()
    };
    assert_eq!(cells(&again), cells(&first));
    // A full report needs nothing that was made on the way.
    fs::remove_dir_all(desk.path("distill-report")).unwrap();
    assert_eq!(desk.json(report), again);
    assert!(!desk.path("distill-report").exists());
    edit(&|json| json["recipes"]["images"] = 7.into());
    let error = failed(&desk.run(report), "a program of other settings", 1);
    assert!(error.contains("name another folder"), "{error}");
}

#[test]
fn weights_beside_a_model_are_found_from_its_own_folder() {
    let desk = Desk::new();
    for name in ["case-external.onnx", "case-external.data"] {
        fs::copy(fixture(&format!("onnx/{name}")), desk.path(name)).unwrap();
    }
    desk.json("distill inspect case-external.onnx");
    desk.json("distill inspect ./case-external.onnx");
}

#[test]
fn a_file_without_batch_norms_says_how_to_export_them() {
    let desk = Desk::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/onnx");
    let warnings = |file: PathBuf| {
        let output = desk.run(&format!("distill import {} -o imported.ndp", file.display()));
        assert!(output.status.success(), "{}", file.display());
        String::from_utf8(output.stderr).unwrap()
    };
    let folded = warnings(fixtures.join("plain-legacy-11.onnx"));
    for line in ["dynamo=True, optimize=False)", "dynamo=False, do_constant_folding=False, training="] {
        assert!(folded.contains(line), "{folded}");
    }
    assert!(!warnings(fixtures.join("plain-legacy-17-unfused.onnx")).contains("torch.onnx.export"));
    // A student has none, and cannot get any.
    desk.json("distill-device run teacher.ndp -o blocks.ndp --images 16 --blocks 0");
    desk.json("distill recompose teacher.ndp blocks.ndp -o student.onnx");
    assert!(!warnings(desk.path("student.onnx")).contains("torch.onnx.export"));
}

#[test]
fn sizes_are_shown_before_work_and_nothing_to_do_is_an_error() {
    let desk = Desk::new();
    let plain = desk.json("distill inspect teacher.ndp");
    assert!(plain.get("student").is_none());
    let sized = desk.json("distill inspect teacher.ndp --width 0.5 --round-to 4 --blocks 0-7");
    let student = &sized["student"];
    assert_eq!(student["teacher"]["parameters"], plain["parameters"]);
    assert!(student["student"]["parameters"].as_u64() < plain["parameters"].as_u64());
    assert!(student["student"]["milliseconds"].as_f64().unwrap() > 0.0);
    assert_eq!(student["blocks"][9]["teacher"], student["blocks"][9]["student"], "block 8 is not chosen");
    let text = desk.run("distill inspect teacher.ndp --blocks 0 --width 0.9 --round-to 16");
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("block layer1.0 stays the teacher's: rounding"), "{text}");
    fs::write(desk.path("widths.json"), r#"{"layer9.0": 0.5}"#).unwrap();
    for (line, code, expected) in [
        ("distill inspect teacher.ndp --widths widths.json", 1, "layer9.0"),
        ("distill inspect teacher.ndp --blocks 9", 1, "no block 9"),
        ("distill inspect teacher.ndp --steps 5", 2, "--budget"),
        ("distill inspect teacher.ndp --width 0.5 --noise standard", 2, "--budget"),
        ("distill-device run teacher.ndp -o s.ndp --blocks 0 --width 0.9 --round-to 16", 1, "no block would change"),
        ("distill-device run single.ndp -o s.ndp --noise standard", 1, "nothing in it can be distilled"),
    ] {
        if line.contains("single") {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/onnx/cut-single.onnx");
            let imported = desk.run(&format!("distill import {} -o single.ndp", file.display()));
            assert!(imported.status.success());
            assert!(String::from_utf8(imported.stderr).unwrap().contains("nothing in it can be distilled"));
        }
        let error = desk.failure(line, code);
        assert!(error.contains(expected), "{line}: {error}");
    }
    // At width 1 nothing changes, as asked.
    let output = desk.run("distill-device run teacher.ndp -o s.ndp --blocks 0 --width 1 --images 64 --noise standard");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && error.contains("a width of 1 keeps all channels"), "{error}");
}
