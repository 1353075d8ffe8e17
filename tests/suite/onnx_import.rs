//! `.onnx` files as PyTorch's two exporters write them, against what PyTorch computes (`fixtures/make_onnx_fixtures.py`), and
//! rarer graphs against onnxruntime (`fixtures/make_onnx_cases.py`).

use std::{fs, path::Path};

use distill_core::{Batch, Chain, Device, Interface, Probabilities, Role, Width, fold_batch_norms, shrink};
use distill_host::{
    export::export,
    import::{ImportOptions, Split, import},
    network::Network,
    onnx::{DataLocation, DataType, GraphProto, ModelProto, StringStringEntryProto, TensorProto},
};
use prost::Message;
use serde_json::Value;
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/onnx");

/// Input `[N, C, H, W]` and what another program computes of it.
struct Golden {
    input: Vec<f32>,
    logits: Vec<Vec<f32>>,
    /// Name of the output and its extents after the batch, of the cases.
    output: Option<(String, Vec<usize>)>,
}

/// The golden file of `NAME-EXPORTER-OPSET….onnx`.
fn golden(file: &str) -> Golden {
    let name = file.trim_end_matches(".onnx");
    let name =
        ["-legacy", "-dynamo"].iter().find_map(|exporter| name.split_once(exporter)).map_or(name, |(name, _)| name);
    let json: Value = serde_json::from_slice(&fs::read(format!("{FOLDER}/{name}.json")).unwrap()).unwrap();
    let numbers = |list: &Value| list.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    let logits = json["logits"].as_array().unwrap().iter().map(numbers).collect();
    let output = json["output"].as_array().map(|output| {
        let extents = output[1..].iter().map(|extent| extent.as_u64().unwrap() as usize);
        (output[0].as_str().unwrap().to_owned(), extents.collect())
    });
    Golden { input: numbers(&json["input"]), logits, output }
}

fn interface(network: &Network) -> &Interface {
    network.manifest.interface.as_ref().unwrap()
}

/// The softmax of each position, or its logarithm.
fn normalise(values: &mut [f32], positions: usize, probabilities: Probabilities) {
    for position in 0..positions {
        let sum: f32 = values[position..].iter().step_by(positions).map(|value| value.exp()).sum();
        values[position..].iter_mut().step_by(positions).for_each(|value| {
            *value = match probabilities {
                Probabilities::Softmax => value.exp() / sum,
                Probabilities::LogSoftmax => *value - sum.ln(),
            }
        });
    }
}

/// Files of the folder, those with another beginning than `refuse`.
fn files() -> Vec<String> {
    let entries = fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> =
        entries.filter(|name| name.ends_with(".onnx") && !name.starts_with("refuse")).collect();
    files.sort();
    files
}

fn read(file: &str, split: Split) -> Network {
    let options = ImportOptions { split, ..ImportOptions::default() };
    import(&Path::new(FOLDER).join(file), &options).unwrap_or_else(|error| panic!("{error:#}"))
}

/// `max |found − expected| / max |expected|` over the golden images.
fn difference(network: &Network, golden: &Golden) -> f32 {
    let mut logits = Batch::new(&Device::Cpu);
    Chain::new(&network.blocks, &Device::Cpu).forward(&Batch::from_values(&golden.input, network.input()), &mut logits);
    let expected: Vec<f32> = golden.logits.concat();
    let mut found = logits.to_values();
    if let Some(probabilities) = interface(network).probabilities {
        let output = network.blocks[network.blocks.len() - 1].output();
        let images = found.chunks_mut(output.elements());
        images.for_each(|image| normalise(image, output.height * output.width, probabilities));
    }
    assert_eq!(found.len(), expected.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, |most: f32, value| most.max(value.abs()));
    largest(&mut found.iter().zip(&expected).map(|(a, b)| a - b)) / largest(&mut expected.iter().copied())
}

/// A model whose constant is in another file, as `case-external.onnx`, with that file's place taken by what `place` makes.
fn with_external(place: impl FnOnce(&Path, &Path)) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let (fixtures, inner) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/onnx"), folder.path().join("model"));
    fs::create_dir(&inner).unwrap();
    fs::copy(fixtures.join("case-external.onnx"), inner.join("model.onnx")).unwrap();
    place(&fixtures.join("case-external.data"), &inner.join("case-external.data"));
    import(&inner.join("model.onnx"), &ImportOptions::default()).map(drop).map_err(|error| format!("{error:#}"))
}

#[test]
fn constants_come_from_the_models_own_folder_only() {
    with_external(|data, here| assert!(fs::copy(data, here).is_ok())).unwrap();
    let error = with_external(|data, here| std::os::unix::fs::symlink(data, here).unwrap()).unwrap_err();
    assert!(error.contains("is a link to") && error.contains("outside the model's folder"), "{error}");
    let error = with_external(|_, here| std::os::unix::fs::symlink("/dev/zero", here).unwrap()).unwrap_err();
    assert!(error.contains("outside the model's folder"), "{error}");
}

#[test]
fn a_file_is_not_read_once_for_every_constant_that_names_it() {
    // Sixteen constants of the same megabyte.
    let entry = |key: &str, value: &str| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
    let constant = |index: usize| TensorProto {
        name: Some(format!("w.{index}")),
        dims: vec![1 << 18],
        data_type: Some(DataType::Float.into()),
        data_location: Some(DataLocation::External.into()),
        external_data: vec![entry("location", "shared.data")],
        ..TensorProto::default()
    };
    let graph = GraphProto { initializer: (0..16).map(constant).collect(), ..GraphProto::default() };
    let model = ModelProto { ir_version: Some(8), graph: Some(graph), ..ModelProto::default() };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("shared.data"), vec![0; 1 << 20]).unwrap();
    fs::write(folder.path().join("model.onnx"), model.encode_to_vec()).unwrap();
    let error = import(&folder.path().join("model.onnx"), &ImportOptions::default()).unwrap_err();
    assert!(format!("{error:#}").contains("are those of more than 4 constants"), "{error:#}");
}

#[test]
fn every_export_computes_what_pytorch_computes() {
    assert!(files().len() >= 30, "the fixtures are not here");
    for file in files() {
        let golden = golden(&file);
        // Wherever it is cut; and written and read again.
        for split in [Split::Unit, Split::Layer, Split::Layers(4)] {
            let network = read(&file, split);
            let error = difference(&network, &golden);
            assert!(error <= 1e-5, "{file}, split {split}: {error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("again.onnx");
        assert!(export(&read(&file, Split::Unit), &path).unwrap() <= 1e-6, "{file}");
        let again = import(&path, &ImportOptions::default()).unwrap_or_else(|error| panic!("{file}: {error:#}"));
        let error = difference(&again, &golden);
        assert!(error <= 1e-5, "{file}, written and read: {error}");
        assert_eq!(interface(&again), interface(&read(&file, Split::Unit)), "{file}");
    }
}

#[test]
fn an_export_is_named_and_shaped_as_its_teachers_file() {
    let mut ends = Vec::new();
    for file in files() {
        let Some((name, extents)) = golden(&file).output else { continue };
        let network = read(&file, Split::Unit);
        let Interface { input, output, rank, probabilities } = interface(&network).clone();
        assert_eq!((input.as_str(), output, usize::from(rank)), ("x", name, extents.len() + 1), "{file}");
        let elements: usize = extents.iter().product();
        assert_eq!(network.logits(), elements, "{file}");
        ends.push((rank, probabilities));
        // Through every other format on the way.
        let folder = tempfile::tempdir().unwrap();
        for between in ["t.ndp", "t.safetensors"].map(|name| folder.path().join(name)) {
            export(&network, &between).unwrap();
            let read = match Network::read_pack(&between) {
                Ok(network) => network,
                Err(_) => import(&between, &ImportOptions::default()).unwrap(),
            };
            let path = folder.path().join("t.onnx");
            export(&read, &path).unwrap();
            assert_eq!(interface(&import(&path, &ImportOptions::default()).unwrap()), interface(&network), "{file}");
        }
    }
    let (softmax, logarithm) = (Some(Probabilities::Softmax), Some(Probabilities::LogSoftmax));
    for end in [(2, None), (3, None), (4, None), (2, softmax), (4, softmax), (2, logarithm)] {
        assert!(ends.contains(&end), "no case ends with {end:?}");
    }
}

#[test]
fn every_neighbourhood_narrows_inside_its_boundary() {
    for file in files() {
        let network = read(&file, Split::Unit);
        for block in network.blocks.iter().filter(|block| block.role() == Role::Neighbourhood) {
            let folded = fold_batch_norms(block).unwrap();
            for k in [0.75, 0.5, 0.01] {
                let student = shrink(&folded, Width::new(k).unwrap()).unwrap_or_else(|error| panic!("{file}: {error}"));
                assert_eq!((student.input(), student.output()), (block.input(), block.output()), "{file}");
                assert!(student.parameters() <= folded.parameters(), "{file}");
            }
        }
    }
}

#[test]
fn what_cannot_be_read_is_named_with_its_place() {
    let check = |file: &str, parts: &[&str]| {
        let error = format!("{:#}", import(&Path::new(FOLDER).join(file), &ImportOptions::default()).unwrap_err());
        for part in parts {
            assert!(error.contains(part), "{file}: {error}");
        }
    };
    let instance_norm =
        ["InstanceNormalization", "node /norm/InstanceNormalization", "4x8x8", "number 2 of 7", "after conv"];
    check("refuse-instance-norm-legacy-17.onnx", &instance_norm);
    check("refuse-sin-legacy-17.onnx", &["operator Sin, node /Sin", "is not supported", "add-an-operator.md"]);
    check("refuse-shuffle-dynamo-18.onnx", &["operator Reshape", "[1, 8, 8, 8] to [1, 2, 4, 8, 8]"]);
    check("refuse-shuffle-legacy-17.onnx", &["operator Reshape"]);
    check("refuse-two-inputs-legacy-17.onnx", &["2 inputs (input, second)"]);
    // What would compute something else.
    check(
        "refuse-case-norm-in-training.onnx",
        &["operator BatchNormalization", "export the network in evaluation mode"],
    );
    check("refuse-case-dropout-in-training.onnx", &["operator Dropout", "export the network in evaluation mode"]);
    check("refuse-case-cast-to-int.onnx", &["operator Cast", "makes integers of values"]);
    check("refuse-case-slice-in-three-dimensions.onnx", &["operator Slice", "[1, 8, 64]"]);
    check("refuse-case-ranks.onnx", &["operator Add", "different numbers of dimensions"]);
    check("refuse-case-matmul-of-images.onnx", &["operator MatMul", "not [N, C]"]);
    check(
        "refuse-case-softmax-inside.onnx",
        &["operator Relu", "a Softmax, which can only be a network's last operator"],
    );
    check("refuse-case-old-softmax-of-images.onnx", &["operator Softmax", "not over the channels"]);
    check("refuse-case-batch-of-4-mixed.onnx", &["operator Reshape", "[4, 8, 8, 8] to [2, 16, 8, 8]", "for 4 images"]);
    // What would grow to a terabyte.
    check("refuse-case-doubled.onnx", &["operator Concat", "grows too large"]);
}

#[test]
fn the_exporters_names_become_the_layers_names() {
    let names = |file: &str| -> Vec<String> {
        let network = read(file, Split::Unit);
        let layers = network.blocks.iter().flat_map(|block| block.nodes()).filter(|node| node.op.is_layer());
        layers.map(|node| node.name.clone()).collect()
    };
    // Of the modules on the way to a node, and of the weights.
    let expected = names("bottleneck-legacy-13.onnx");
    assert!(expected.iter().any(|name| name.ends_with(".conv2")), "{expected:?}");
    assert_eq!(names("bottleneck-dynamo-18.onnx"), expected);
    let network = read("plain-legacy-17-unfused.onnx", Split::Unit);
    let weights: Vec<&str> = network.blocks.iter().flat_map(|block| block.weights()).map(|w| w.name.as_str()).collect();
    assert!(weights.iter().any(|name| name.ends_with(".running_var")), "{weights:?}");
}

#[test]
fn a_cut_or_damaged_file_is_an_error_or_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.onnx");
    let bytes = fs::read(format!("{FOLDER}/split-legacy-18.onnx")).unwrap();
    for length in (0..bytes.len()).step_by(61) {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(import(&path, &ImportOptions::default()).is_err(), "cut at {length}");
    }
    // What must never happen is a panic.
    for place in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0xff;
        fs::write(&path, &damaged).unwrap();
        let _ = import(&path, &ImportOptions::default());
    }
}
