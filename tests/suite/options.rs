//! What the options of `distill-device run` mean.

use clap::Parser;
use distill_core::{
    Activation, Encoding, Pattern, Ridge, Schedule, Selection, Settings, SourceKind, Sparsity, Update, Width,
};
use distill_device::RunOptions;
use distill_host::quickstart::builtin_teacher;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    options: RunOptions,
}

fn asked(line: &str) -> (SourceKind, Settings) {
    let folder = tempfile::tempdir().unwrap();
    builtin_teacher().unwrap().write_pack(&folder.path().join("teacher.ndp"), Encoding::F16).unwrap();
    let words = ["run", "teacher.ndp", "-o", "student.ndp"].into_iter().chain(line.split_whitespace());
    let work = Command::parse_from(words).options.work;
    let kind = work.source(&folder.path().join("teacher.ndp")).unwrap().kind;
    (kind, work.settings(kind).unwrap())
}

fn settings(line: &str) -> Settings {
    asked(line).1
}

#[test]
fn defaults_are_the_cores() {
    assert_eq!(asked(""), (SourceKind::Propagated, Settings::new(Width::new(0.5).unwrap(), 0)));
}

#[test]
fn every_option_reaches_its_setting() {
    let base = settings("");
    let changed = |change: fn(&mut Settings)| {
        let mut settings = base.clone();
        change(&mut settings);
        settings
    };
    assert_eq!(settings("--width 0.25").recipe.width, Width::new(0.25).unwrap());
    assert_eq!(asked("--noise standard"), (SourceKind::Standard, base.clone()));
    assert_eq!(settings("--no-solve"), changed(|s| s.recipe.solve = false));
    assert_eq!(settings("--no-solve --solve"), base);
    assert_eq!(settings("--steps 7"), changed(|s| s.recipe.training.steps = 7));
    assert_eq!(settings("--batch 3"), changed(|s| s.recipe.training.batch = 3));
    assert_eq!(settings("--rate 0.5"), changed(|s| s.recipe.training.rate = 0.5));
    assert_eq!(settings("--schedule step"), changed(|s| s.recipe.training.schedule = Schedule::Step));
    assert_eq!(settings("--weight-decay 0.1"), changed(|s| s.recipe.training.weight_decay = 0.1));
    assert_eq!(settings("--round-to 8"), changed(|s| s.recipe.round_to = 8));
    assert_eq!(settings("--fewer-layers 2"), changed(|s| s.recipe.fewer_layers = 2));
    assert_eq!(settings("--activation relu6"), changed(|s| s.recipe.activation = Some(Activation::RELU6)));
    assert_eq!(settings("--blocks 0-2,7"), changed(|s| s.blocks = vec![0, 1, 2, 7]));
    assert_eq!(settings("--seed 9"), changed(|s| s.seed = 9));
    assert_eq!(settings("--select residual"), changed(|s| s.recipe.selection = Selection::Residual));
    assert_eq!(settings("--ridge auto"), changed(|s| s.recipe.ridge = Ridge::HeldOut));
    assert_eq!(settings("--ridge 0.5"), changed(|s| s.recipe.ridge = Ridge::Strength(0.5)));
    assert_eq!(settings("--projections 3"), changed(|s| s.recipe.projections = 3));
    let ahead = changed(|s| (s.look_ahead, s.recipe.training.steps) = (2, 9));
    assert_eq!(settings("--look-ahead 2 --steps 9"), ahead);
    let weighted = Settings { alpha: vec![0.5, 0.25], ..ahead };
    assert_eq!(settings("--look-ahead 2 --steps 9 --alpha 0.5,0.25"), weighted);
    // What is to be sparse keeps its channels.
    let half = changed(|s| {
        (s.recipe.width, s.recipe.sparsity) = (Width::FULL, Sparsity::new(0.5, Pattern::Kernels).ok());
    });
    assert_eq!(settings("--sparsity 50% --pattern kernels"), half);
    let of_four = changed(|s| s.recipe.sparsity = Sparsity::of_each(2, 4).ok());
    assert_eq!(settings("--pattern 2:4 --width 0.5"), of_four);
    assert_eq!(settings("--stop"), changed(|s| s.recipe.training.stop = true));
    assert_eq!(settings("--images 64"), changed(|s| s.recipe.images = 64));
    let sgd = settings("--optimizer sgd").recipe.training;
    assert_eq!((sgd.update, sgd.rate), (Update::Momentum { momentum: 0.9 }, 3e-2));
}

#[test]
fn calibrated_noise_has_defaults_of_its_own() {
    let half = Width::new(0.5).unwrap();
    assert_eq!(asked("--noise calibrated"), (SourceKind::Calibrated, Settings::calibrated(half, 0)));
    assert_eq!(settings("--noise calibrated --steps 600"), Settings::calibrated(half, 600));
    assert_eq!(settings("--noise calibrated --independent --sequential"), Settings::calibrated(half, 0));
    let plain = asked("--noise calibrated --independent --select norm --ridge 1e-4 --projections 0 --images 512");
    assert_eq!(plain, (SourceKind::Calibrated, settings("")));
    for wrong in ["nought", "0", "-1", "inf"] {
        let folder = tempfile::tempdir().unwrap();
        builtin_teacher().unwrap().write_pack(&folder.path().join("teacher.ndp"), Encoding::F16).unwrap();
        let words = ["run", "teacher.ndp", "-o", "student.ndp", &format!("--ridge={wrong}")].map(str::to_owned);
        let settings =
            Command::try_parse_from(words).map(|command| command.options.work.settings(SourceKind::Calibrated));
        assert!(!matches!(settings, Ok(Ok(_))), "--ridge {wrong}");
    }
}

#[test]
fn widths_come_from_a_file_by_block() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("widths.json");
    let options = |content: &str| {
        std::fs::write(&path, content).unwrap();
        let folder = tempfile::tempdir().unwrap();
        builtin_teacher().unwrap().write_pack(&folder.path().join("teacher.ndp"), Encoding::F16).unwrap();
        let words = ["run", "teacher.ndp", "-o", "student.ndp", "--widths", path.to_str().unwrap()];
        Command::parse_from(words).options.work.settings(SourceKind::Propagated)
    };
    let half = ("layer1.0".to_owned(), Width::new(0.5).unwrap());
    assert_eq!(options(r#"{"layer1.0": 0.5}"#).unwrap().widths, [half]);
    let twice = r#"{"layer1.0": 0.5, "layer1.0": 0.75}"#;
    for wrong in [r#"{"layer1.0": 0}"#, r#"{"layer1.0": 1.5}"#, twice, "[0.5]", ""] {
        let error = format!("{:#}", options(wrong).unwrap_err());
        assert!(error.contains("cannot read the widths in") && error.contains("widths.json"), "{error}");
    }
}
