//! Candidates for every block, and the best combination of them under a bound.

use std::fs;

use distill_core::Encoding;
use distill_host::network::Network;

use super::desk::Desk;

const CANDIDATES: &str = "distill candidates noisy.ndp -o candidates --images 64 --projections 0";

/// A desk with a small network's pack and noise.
fn desk() -> Desk {
    let desk = Desk::new();
    let network = Network::new(distill_tests::manifest(), distill_tests::teacher()).unwrap();
    network.write_pack(&desk.path("small.ndp"), Encoding::F32).unwrap();
    desk.json("distill calibrate small.ndp -o noisy.ndp --images 192 --batch 64 --steps 4");
    desk
}

#[test]
fn a_folder_of_candidates_is_filled_once_and_searched_under_any_bound() {
    let desk = desk();
    let first = desk.json(&format!("{CANDIDATES} --widths 0.25,0.5"));
    assert_eq!(first["found"], 0);
    let blocks = first["made"].as_u64().unwrap() / 2;
    // One is lost, and another is damaged: these alone are made again, to the same bytes.
    let files: Vec<String> = fs::read_dir(desk.path("candidates"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".ndp"))
        .collect();
    let path = |index: usize| desk.path("candidates").join(&files[index]);
    let [lost, damaged] = [0, 1].map(|index| fs::read(path(index)).unwrap());
    fs::remove_file(path(0)).unwrap();
    fs::write(path(1), &damaged[..damaged.len() - 9]).unwrap();
    let again = desk.json(&format!("{CANDIDATES} --widths 0.25,0.5,0.75"));
    assert_eq!((again["made"].as_u64(), again["found"].as_u64()), (Some(2 + blocks), Some(2 * blocks - 2)));
    assert!(fs::read(path(0)).unwrap() == lost && fs::read(path(1)).unwrap() == damaged);

    let teacher = desk.json("distill inspect noisy.ndp");
    let mut errors = Vec::new();
    for (bound, key) in [("params", "parameters"), ("macs", "macs")] {
        for share in [95, 90, 80] {
            let found = desk.json(&format!("distill search candidates noisy.ndp -o student.ndp --{bound} {share}%"));
            let most = teacher[key].as_f64().unwrap() * f64::from(share) / 100.0;
            assert!(found[key].as_f64().unwrap() <= most, "{found}");
            let written = desk.json("distill inspect student.ndp");
            assert_eq!((&written[key], &written["made_from"]), (&found[key], &"calibrated".into()));
            errors.push(found["foretold"].as_f64().unwrap());
        }
    }
    assert!(errors[0] > 0.0 && errors[..3].is_sorted() && errors[3..].is_sorted(), "{errors:?}");
    // The widths that were found are those of a run.
    let found = desk.json("distill search candidates noisy.ndp -o student.ndp --params 80% --widths widths.json");
    desk.json("distill run noisy.ndp -o blocks.ndp --images 64 --projections 0 --widths widths.json");
    desk.json("distill recompose noisy.ndp blocks.ndp -o sequential.ndp");
    assert_eq!(desk.json("distill inspect sequential.ndp")["macs"], found["macs"]);
}

#[test]
fn candidates_of_another_making_are_refused() {
    let desk = desk();
    desk.json(&format!("{CANDIDATES} --widths 0.5"));
    for (line, why) in [
        (format!("{CANDIDATES} --widths 0.5 --seed 1"), "name another folder"),
        (CANDIDATES.replace("noisy.ndp", "small.ndp"), "distill calibrate small.ndp"),
        (format!("{CANDIDATES} --widths 0"), "above 0"),
        ("distill search candidates teacher.ndp -o s.ndp --params 50%".to_owned(), "another teacher"),
        ("distill search nowhere noisy.ndp -o s.ndp --params 50%".to_owned(), "distill candidates"),
        ("distill search candidates noisy.ndp -o s.ndp --params 10".to_owned(), "the smallest has"),
        ("distill search candidates noisy.ndp -o s.ndp --params 100%".to_owned(), "ask for fewer"),
        (
            "distill search candidates noisy.ndp -o candidates/002-0.5.ndp --params 90%".to_owned(),
            "among the candidates",
        ),
        (
            "distill search candidates noisy.ndp -o s.ndp --params 90% --widths candidates/candidates.json".to_owned(),
            "among the candidates",
        ),
        (format!("{CANDIDATES} --widths 1"), "leave it out"),
        ("distill search candidates noisy.ndp -o s.txt --params 50%".to_owned(), "onnx"),
    ] {
        let error = desk.failure(&line, 1);
        assert!(error.contains(why), "{line}: {error}");
    }
}
