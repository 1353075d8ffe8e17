//! Recorded activations: a run that learns from images, and says so.

use std::{fs, path::Path};

use distill_core::{Purpose, Stream};

use super::desk::{Desk, failed, fixture};

/// Writes `count` pictures of 32×32 random pixels into a folder.
fn pictures(folder: &Path, count: usize, seed: u64) {
    fs::create_dir_all(folder).unwrap();
    let mut stream = Stream::new(seed, Purpose::Images, 0);
    for index in 0..count {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 32, 32);
        encoder.set_color(png::ColorType::Rgb);
        let pixels: Vec<u8> = (0..3 * 32 * 32).map(|_| stream.below(256) as u8).collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        fs::write(folder.join(format!("{index:03}.png")), bytes).unwrap();
    }
}

const RUN: &str = "distill run teacher.ndp -o student.ndp --images 16 --blocks 0 --inputs";

#[test]
fn a_student_of_images_says_so_and_depends_on_no_label() {
    let desk = Desk::new();
    pictures(&desk.path("data/a"), 40, 1);
    pictures(&desk.path("data/b"), 40, 2);
    desk.json(&format!("{RUN} data"));
    let student = fs::read(desk.path("student.ndp")).unwrap();
    assert_eq!(desk.json("distill inspect student.ndp")["made_from"], "recorded");
    // The same pictures, in the same order, of other classes.
    fs::rename(desk.path("data/a"), desk.path("data/c")).unwrap();
    fs::rename(desk.path("data/b"), desk.path("data/d")).unwrap();
    desk.json(&format!("{RUN} data"));
    assert!(fs::read(desk.path("student.ndp")).unwrap() == student, "the names of the classes were read");
    pictures(&desk.path("data/d"), 40, 3);
    desk.json(&format!("{RUN} data"));
    assert!(fs::read(desk.path("student.ndp")).unwrap() != student, "other pictures make the same student");
    let plan = desk.json("distill inspect teacher.ndp --budget 64MiB --inputs data --images 16");
    assert!(plan["cache_bytes"].as_u64() > Some(0));
}

#[test]
fn blocks_made_apart_are_those_made_together() {
    let desk = Desk::new();
    pictures(&desk.path("data"), 90, 1);
    let run = "distill run teacher.ndp --images 16 --inputs data --independent -o";
    desk.json(&format!("{run} whole.ndp"));
    desk.json(&format!("{run} first.ndp --blocks 0-3"));
    desk.json(&format!("{run} second.ndp --blocks 4-8"));
    desk.json("distill recompose teacher.ndp whole.ndp -o together.ndp");
    desk.json("distill recompose teacher.ndp first.ndp second.ndp -o apart.ndp");
    assert!(fs::read(desk.path("together.ndp")).unwrap() == fs::read(desk.path("apart.ndp")).unwrap());
}

#[test]
fn what_is_not_known_of_another_part_hides_no_data() {
    let desk = Desk::new();
    pictures(&desk.path("data"), 80, 1);
    for name in ["version-3.ndp", "version-3-students.ndp"] {
        fs::copy(fixture(name), desk.path(name)).unwrap();
    }
    desk.json("distill run version-3.ndp -o ours.ndp --images 16 --inputs data");
    desk.json("distill recompose version-3.ndp ours.ndp version-3-students.ndp -o student.ndp");
    assert_eq!(desk.json("distill inspect student.ndp")["made_from"], "recorded");
}

#[test]
fn images_that_cannot_be_learned_from_are_refused_before_work() {
    let desk = Desk::new();
    pictures(&desk.path("few"), 64, 1);
    pictures(&desk.path("broken"), 80, 1);
    fs::write(desk.path("broken/007.png"), "no picture").unwrap();
    for (data, why) in [
        ("builtin", "nothing learns from them"),
        ("missing", "missing"),
        ("few", "there are 58 images to learn from, but 64 of them"),
        ("broken", "007.png"),
    ] {
        let error = desk.failure(&format!("{RUN} {data}"), 1);
        assert!(error.contains(why), "{data}: {error}");
    }
    let line = format!("{} few", RUN.replace("distill run", "distill-device run"));
    let error = desk.failure(&line, 1);
    assert!(error.contains("`distill run` does"), "{error}");
    failed(&desk.run(&format!("{RUN} few --noise standard")), RUN, 2);
}
