//! Students go back into their places and out into files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use distill_core::{Contents, Encoding, Interface, Manifest, Pack, PackWriter, Purpose, SourceKind, Stream};
use distill_host::{
    export::{export, recompose},
    import::{ImportOptions, Split, import},
    network::Network,
    onnx::decode,
    quickstart::builtin_teacher,
};
use tempfile::TempDir;

use crate::graphs::random_block;
use distill_tests::{Task, manifest, pack, teacher};

/// Packs of the small teacher and of its students, in a folder.
fn packs(folder: &TempDir) -> (PathBuf, PathBuf) {
    let (teacher_path, student_path) = (folder.path().join("teacher.ndp"), folder.path().join("student.ndp"));
    let bytes = pack(&teacher(), Encoding::F32);
    let (_, student) = Task::new(SourceKind::Standard, |_| {}).run(&bytes).unwrap();
    fs::write(&teacher_path, &bytes).unwrap();
    fs::write(&student_path, &student).unwrap();
    (teacher_path, student_path)
}

fn error_of(teacher: &Path, student: &Path) -> String {
    format!("{:#}", recompose(teacher, &[student.to_owned()]).unwrap_err())
}

#[test]
fn students_take_their_places_and_the_rest_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (teacher_path, student_path) = packs(&folder);
    let whole = recompose(&teacher_path, std::slice::from_ref(&student_path)).unwrap();
    let mut students = Pack::open(fs::read(&student_path).unwrap().leak() as &[u8]).unwrap();
    assert_eq!(whole.blocks[0], teacher()[0]);
    assert_eq!(whole.blocks[4], teacher()[4]);
    for index in 0..3 {
        assert_eq!(whole.blocks[index + 1], students.block(index).unwrap());
    }
    assert!(whole.parameters() < teacher().iter().map(distill_core::Block::parameters).sum());
}

#[test]
fn students_of_another_teacher_and_whole_networks_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (teacher_path, student_path) = packs(&folder);
    let other = folder.path().join("other.ndp");
    fs::write(&other, pack(&teacher(), Encoding::F16)).unwrap();
    assert!(error_of(&other, &student_path).contains("distilled from another teacher pack"));
    assert!(error_of(&teacher_path, &teacher_path).contains("holds a whole network, not students"));
    assert!(error_of(&student_path, &student_path).contains("not a whole network"));
}

#[test]
fn a_student_that_does_not_fit_its_place_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (teacher_path, student_path) = packs(&folder);
    let fingerprint = Pack::open(pack(&teacher(), Encoding::F32).as_slice()).unwrap().fingerprint();
    for (position, expected) in [(2, "block layer1.0 does not fit its place"), (9, "no block at position 9")] {
        let contents = Contents::Neighbourhoods { teacher: fingerprint };
        let manifest = Manifest { contents, ..manifest() };
        let mut bytes = Vec::new();
        let mut writer = PackWriter::new(&mut bytes, &manifest, 1).unwrap();
        writer.add(position, &teacher()[1], Encoding::F32).unwrap();
        writer.finish().unwrap();
        fs::write(&student_path, bytes).unwrap();
        let error = error_of(&teacher_path, &student_path);
        assert!(error.contains(expected), "{error}");
    }
}

/// A file in which two values or weights share a name opens nowhere.
#[test]
fn names_in_an_onnx_file_are_unique() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("twice.onnx");
    let mut blocks = teacher();
    let first = blocks[0].clone();
    blocks.insert(1, blocks[1].clone());
    // The names that the file asks for are those of a weight and of an operator's result.
    let input = first.weights()[0].name.clone();
    let output = format!("{}.{}.output", first.name(), first.nodes()[0].name);
    let interface = Some(Interface { input: input.clone(), output: output.clone(), rank: 2, probabilities: None });
    let network = Network::new(Manifest { interface, ..manifest() }, blocks).unwrap();
    export(&network, &path).unwrap();
    let graph = decode(&fs::read(&path).unwrap()).unwrap().graph.unwrap();
    let ends = [&graph.input[0], &graph.output[0]].map(|end| end.name.clone().unwrap());
    assert_eq!(ends, [input.clone(), output]);
    let results = graph.node.iter().flat_map(|node| node.output.clone());
    let constants = graph.initializer.iter().map(|constant| constant.name.clone().unwrap());
    let values: Vec<String> = results.chain(constants).chain([input]).collect();
    let operators: Vec<String> = graph.node.iter().map(|node| node.name.clone().unwrap()).collect();
    for mut names in [values, operators] {
        names.sort_unstable();
        assert_eq!(names.windows(2).find(|pair| pair[0] == pair[1]), None);
    }
}

#[test]
fn safetensors_hold_the_whole_network() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.safetensors");
    let network = builtin_teacher().unwrap();
    export(&network, &path).unwrap();
    let read = import(&path, &ImportOptions::default()).unwrap();
    assert_eq!(read.blocks, network.blocks);
    assert_eq!(read.manifest.mean, network.manifest.mean);
    assert_eq!(read.manifest.classes, network.manifest.classes);
    // A student is a teacher for the next one.
    let default = ImportOptions::default();
    assert_eq!(import(&path, &default).unwrap().blocks, network.blocks);
    let finer = import(&path, &ImportOptions { split: Split::Layer, ..default }).unwrap_err();
    assert!(format!("{finer:#}").contains("describes its own blocks"), "{finer:#}");
    let bytes = fs::read(&path).unwrap();
    export(&network, &path).unwrap();
    assert!(fs::read(&path).unwrap() == bytes, "the same network gives the same bytes");
}

#[test]
fn safetensors_whose_description_lies_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.safetensors");
    export(&Network::new(manifest(), teacher()).unwrap(), &path).unwrap();
    let bytes = fs::read(&path).unwrap();
    // Replacements of the same length, so that the file's own header still fits.
    for (from, to) in
        [("linear.bias", "linear.bios"), ("\\\"stride\\\":[2", "\\\"stride\\\":[0"), ("\\\"Neigh", "\\\"Meigh")]
    {
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut changed = bytes.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        fs::write(&path, &changed).unwrap();
        assert!(import(&path, &ImportOptions::default()).is_err(), "{from} became {to}");
    }
}

#[test]
fn random_blocks_compute_the_same_once_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let stream = &mut Stream::new(11, Purpose::Images, 0);
    for _ in 0..200 {
        let block = random_block(stream);
        let channels = block.input().channels;
        let manifest = Manifest { mean: vec![0.5; channels], std: vec![0.2; channels], ..manifest() };
        let network = Network::new(manifest, vec![block.clone()]).unwrap();
        for (ending, tolerance) in [("onnx", 1e-5), ("safetensors", 0.0)] {
            let difference = export(&network, &folder.path().join(format!("network.{ending}")));
            let difference = difference.unwrap_or_else(|error| panic!("{error:#}: {block:#?}"));
            assert!(difference <= tolerance, "{ending}: {difference}: {block:#?}");
        }
    }
}
