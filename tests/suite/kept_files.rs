//! Files of the user under full disks, cuts, interruptions, links and mistyped outputs: none is lost.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::desk::{Desk, failed, fixture, program};

#[test]
fn a_full_disk_leaves_the_old_file_and_no_other() {
    let desk = Desk::new();
    fs::write(desk.path("student.ndp"), "NDP, what was there before").unwrap();
    desk.json("distill-device run teacher.ndp -o blocks.ndp --width 0.9 --images 16 --blocks 0");
    let before = desk.files();
    for arguments in [
        "distill-device run teacher.ndp -o student.ndp --width 0.5 --images 16 --blocks 8",
        "distill recompose teacher.ndp blocks.ndp -o student.ndp",
        "distill recompose teacher.ndp blocks.ndp -o student.onnx",
        "distill recompose teacher.ndp blocks.ndp -o student.safetensors",
    ] {
        let (name, rest) = arguments.split_once(' ').unwrap();
        // A limit of 64 KiB a file: writing beyond it fails as a full disk does.
        let limited = format!("trap '' XFSZ; ulimit -f 64; exec {} {rest}", program(name).display());
        let output = Command::new("bash").args(["-c", &limited]).current_dir(desk.0.path()).output().unwrap();
        let error = failed(&output, arguments, 1);
        assert!(error.contains("student."), "{error}");
        // What a run has done stays, to go on with.
        fs::remove_file(desk.path("student.ndp.part")).unwrap_or_default();
        assert_eq!(desk.files(), before, "{arguments}");
        assert_eq!(fs::read(desk.path("student.ndp")).unwrap(), b"NDP, what was there before");
    }
}

#[cfg(unix)]
#[test]
fn an_interruption_promises_no_file_that_is_not_there() {
    let desk = Desk::new();
    let mut command = Command::new(program("distill"));
    // A batch of calibration takes far longer than the wait for its start.
    let line = "calibrate teacher.ndp -o noisy.ndp --images 1024 --steps 1000";
    let child = command.args(line.split(' ')).current_dir(desk.0.path()).stderr(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_secs(2));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.ends_with("interrupted: nothing was finished yet: the same command begins again\n"), "{said}");
    assert_eq!(desk.files(), ["teacher.ndp"]);
}

#[test]
fn what_no_command_has_made_is_not_replaced() {
    let desk = Desk::new();
    fs::write(desk.path("model.onnx.data"), "the weights of a model").unwrap();
    fs::create_dir(desk.path("mine")).unwrap();
    fs::copy(fixture("version-5.ndp"), desk.path("mine/teacher.ndp")).unwrap();
    for (line, why) in [
        ("distill import teacher.ndp -o model.onnx.data", "a file that is no pack is there"),
        ("distill-device run teacher.ndp -o model.onnx.data", "a file that is no pack is there"),
        ("distill quickstart --dir mine", "a pack of another network is there"),
    ] {
        let error = desk.failure(line, 1);
        assert!(error.contains(why), "{line}: {error}");
    }
}

#[test]
fn a_run_that_was_cut_off_goes_on() {
    let desk = Desk::new();
    let line = "run teacher.ndp -o student.ndp --width 0.5 --noise standard --images 16";
    desk.json(&format!("distill-device {line}"));
    let whole = fs::read(desk.path("student.ndp")).unwrap();
    fs::remove_file(desk.path("student.ndp")).unwrap();
    let before = desk.files();
    let limited = format!("trap '' XFSZ; ulimit -f 64; exec {} {line}", program("distill-device").display());
    let output = Command::new("bash").args(["-c", &limited]).current_dir(desk.0.path()).output().unwrap();
    let error = failed(&output, line, 1);
    assert!(error.contains("the same command resumes after them"), "{error}");
    fs::copy(desk.path("student.ndp.part"), desk.path("unfinished.ndp")).unwrap();
    let error = desk.failure("distill inspect unfinished.ndp", 1);
    assert!(error.contains("the same `distill run` resumes it"), "{error}");
    fs::remove_file(desk.path("unfinished.ndp")).unwrap();
    let error = desk.failure(&format!("distill-device {line} --seed 1"), 1);
    assert!(
        error.contains("another teacher, source, settings or version") && error.contains("start over with --fresh"),
        "{error}"
    );
    desk.failure(&format!("distill-device {line} --blocks 9"), 1);
    let report = desk.json(&format!("distill-device {line}"));
    assert_eq!(report["blocks"].as_array().unwrap().len(), 9);
    assert!(fs::read(desk.path("student.ndp")).unwrap() == whole);
    fs::remove_file(desk.path("student.ndp")).unwrap();
    assert_eq!(desk.files(), before);
    // With nothing to go on with, it begins; something else in its place is not ours to replace.
    desk.json(&format!("distill-device {line} --resume"));
    assert!(fs::read(desk.path("student.ndp")).unwrap() == whole);
    fs::write(desk.path("student.ndp.part"), vec![7; 2 * whole.len()]).unwrap();
    let error = desk.failure(&format!("distill-device {line}"), 1);
    assert!(error.contains("which no run has left"), "{error}");
    desk.json(&format!("distill-device {line} --fresh"));
    assert!(fs::read(desk.path("student.ndp")).unwrap() == whole);
    // After a power cut, what was not synced may be short, or zeros.
    for torn in [&b"ND"[..], &[0; 4096]] {
        fs::write(desk.path("student.ndp.part"), torn).unwrap();
        desk.json(&format!("distill-device {line}"));
    }
    assert!(fs::read(desk.path("student.ndp")).unwrap() == whole);
}

#[test]
fn a_teacher_in_the_place_of_the_unfinished_student_stays() {
    let desk = Desk::new();
    fs::copy(desk.path("teacher.ndp"), desk.path("student.ndp.part")).unwrap();
    let error = desk.failure("distill-device run student.ndp.part -o student.ndp --noise standard --images 16", 1);
    assert!(error.contains("would replace the file"), "{error}");
    assert_eq!(fs::read(desk.path("teacher.ndp")).unwrap(), fs::read(desk.path("student.ndp.part")).unwrap());
}

#[test]
fn an_interruption_says_at_once_what_is_kept() {
    let desk = Desk::new();
    let line = "run teacher.ndp -o student.ndp --noise standard --steps 1000000 --rate 1e-6";
    let mut command = Command::new(program("distill-device"));
    command.args(line.split(' ')).current_dir(desk.0.path()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    while !desk.path("student.ndp.part").exists() {
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(200));
    let asked = Instant::now();
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("interrupted: ") && last.contains("student.ndp.part"), "{said}");
}

#[test]
fn no_output_takes_an_inputs_place() {
    let desk = Desk::new();
    fs::write(desk.path("widths.json"), r#"{"layer1.0": 0.5}"#).unwrap();
    fs::copy(desk.path("widths.json"), desk.path("s.ndp.part")).unwrap();
    fs::copy(desk.path("widths.json"), desk.path(".s.ndp.new")).unwrap();
    fs::create_dir(desk.path("pictures")).unwrap();
    fs::write(desk.path("pictures/0001_a.png"), "a picture").unwrap();
    for line in [
        "distill run teacher.ndp --widths widths.json -o widths.json",
        "distill-device run teacher.ndp --widths widths.json -o widths.json",
        "distill evaluate teacher.ndp --data pictures --predictions pictures/0001_a.png",
        "distill evaluate teacher.ndp --data builtin --teacher widths.json --predictions ./widths.json",
        "distill inspect teacher.ndp --draw teacher.ndp",
        // Where an output is on its way to its place.
        "distill run teacher.ndp --widths s.ndp.part -o s.ndp",
        "distill recompose teacher.ndp .s.ndp.new -o s.ndp",
    ] {
        let before =
            ["widths.json", "pictures/0001_a.png", "teacher.ndp"].map(|name| fs::read(desk.path(name)).unwrap());
        let error = desk.failure(line, 1);
        assert!(error.contains("would replace the file it is made from"), "{line}: {error}");
        let after =
            ["widths.json", "pictures/0001_a.png", "teacher.ndp"].map(|name| fs::read(desk.path(name)).unwrap());
        assert!(before == after, "{line}");
    }
    let error = desk.failure("distill-device run teacher.ndp -o student.ndp/", 1);
    assert!(error.contains("it is not a file"), "{error}");
}

#[test]
fn links_in_the_way_lead_to_no_loss() {
    let desk = Desk::new();
    fs::write(desk.path("precious"), "what must stay").unwrap();
    let link = |name: &str| std::os::unix::fs::symlink(desk.path("precious"), desk.path(name)).unwrap();
    link("student.ndp.part");
    let line = "distill-device run teacher.ndp -o student.ndp --noise standard --images 16 --blocks 0";
    let error = desk.failure(line, 1);
    assert!(error.contains("a link or a folder is in the place of student.ndp.part"), "{error}");
    fs::remove_file(desk.path("student.ndp.part")).unwrap();
    // A link as the output is replaced, and that is said.
    link("student.ndp");
    let output = desk.run(line);
    assert!(String::from_utf8_lossy(&output.stderr).contains("student.ndp was a link"), "{output:?}");
    assert!(!desk.path("student.ndp").is_symlink());
    assert_eq!(fs::read_to_string(desk.path("precious")).unwrap(), "what must stay");
    // What a killed command leaves is gone with the next.
    fs::write(desk.path(".student.onnx.new"), "half a model").unwrap();
    desk.json("distill recompose teacher.ndp student.ndp -o student.onnx");
    assert!(!desk.path(".student.onnx.new").exists());
}
