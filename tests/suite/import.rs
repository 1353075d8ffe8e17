//! Checkpoints become networks that compute what PyTorch computes, or say what does not fit.

use std::{fs, path::Path};

use distill_core::{Batch, Chain, Device};
use distill_host::{
    import::{Checkpoint, ImportOptions, Normalisation, TensorValues, import, network},
    network::Network,
    quickstart::builtin_teacher,
};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");
const BUILTIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../host-tools/assets/resnet20-teacher-f16.safetensors");
/// Not part of the repository.
const THIRD_PARTY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/models/resnet20-12fca82f.th");

fn builtin_checkpoint() -> Checkpoint {
    Checkpoint::read(Path::new(BUILTIN)).unwrap()
}

fn error_of(checkpoint: Checkpoint) -> String {
    format!("{:#}", network(checkpoint, &ImportOptions::default(), ("test", &[])).unwrap_err())
}

/// The four images of `fixtures/make_golden.py`, as the network takes them.
fn golden_input(network: &Network) -> Vec<f32> {
    let mut values = Vec::new();
    for n in 0..4 {
        for c in 0..3 {
            for (y, x) in (0..32).flat_map(|y| (0..32).map(move |x| (y, x))) {
                let pixel = ((7 * n + 3 * c + 5 * y + 11 * x) % 256) as f32;
                values.push((pixel / 255.0 - network.manifest.mean[c]) / network.manifest.std[c]);
            }
        }
    }
    values
}

/// Largest difference of a logit to PyTorch's, with batch norms as imported and with folded ones.
fn golden_difference(network: &Network, golden: &str) -> f64 {
    let text = fs::read_to_string(Path::new(FIXTURES).join(golden)).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected: Vec<Vec<f64>> = serde_json::from_value(golden["logits"].clone()).unwrap();
    assert_eq!((expected.len(), expected[0].len()), (4, 10));
    let difference = |network: &Network| {
        let mut found = Batch::new(&Device::Cpu);
        let input = Batch::from_values(&golden_input(network), network.input());
        Chain::new(&network.blocks, &Device::Cpu).forward(&input, &mut found);
        let found = found.to_values();
        let pairs = found.iter().zip(expected.iter().flatten());
        pairs.map(|(found, expected)| (f64::from(*found) - expected).abs()).fold(0.0, f64::max)
    };
    difference(network).max(difference(&network.folded().unwrap()))
}

#[test]
fn builtin_teacher_computes_what_pytorch_computes() {
    let difference = golden_difference(&builtin_teacher().unwrap(), "golden_resnet20_builtin.json");
    assert!(difference <= 1e-4, "{difference}");
}

#[test]
fn third_party_checkpoint_computes_what_pytorch_computes() {
    let path = Path::new(THIRD_PARTY);
    if !path.exists() {
        eprintln!("skipped: {THIRD_PARTY} is not here");
        return;
    }
    let teacher = import(path, &ImportOptions::default()).unwrap();
    assert_eq!((teacher.neighbourhoods().count(), teacher.parameters()), (9, 269_722));
    let difference = golden_difference(&teacher, "golden_resnet20_12fca82f.json");
    assert!(difference <= 1e-4, "{difference}");
}

#[test]
fn both_pytorch_formats_give_the_same_tensors() {
    for file in ["tiny-zip.pth", "tiny-legacy.th"] {
        let checkpoint = Checkpoint::read(&Path::new(FIXTURES).join(file)).unwrap();
        let tensor = |name: &str| {
            let name = format!("module.{name}");
            let tensor = checkpoint.tensors.get(&name).unwrap_or_else(|| panic!("{file} has no {name}"));
            (tensor.dims.clone(), tensor.data.clone())
        };
        assert_eq!(checkpoint.tensors.len(), 3, "the counter in {file} is no weight");
        assert_eq!(tensor("plain"), (vec![2, 3], vec![0.0, 0.25, 0.5, 0.75, 1.0, 1.25]));
        assert_eq!(tensor("transposed"), (vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
        assert_eq!(tensor("half"), (vec![3], vec![0.5, -1.25, 3.0]));
    }
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let mut checkpoint = builtin_checkpoint();
    let tensor = checkpoint.tensors.get_mut("layer2.1.conv1.weight").unwrap();
    tensor.dims[0] = 16;
    tensor.data.truncate(16 * 32 * 9);
    let error = error_of(checkpoint);
    // The layer is then narrower than the norm behind it.
    assert!(error.contains("layer2.1.bn1.weight should have shape [16], but has [32]"), "{error}");
}

#[test]
fn a_missing_tensor_is_named_with_its_nearest_name() {
    let mut checkpoint = builtin_checkpoint();
    let tensor = checkpoint.tensors.remove("layer1.2.bn2.weight").unwrap();
    checkpoint.tensors.insert("layer1.2.bn2.wieght".to_owned(), tensor);
    let error = error_of(checkpoint);
    assert!(error.contains("layer1.2.bn2.weight is missing"), "{error}");
    assert!(error.contains("nearest name in the file is layer1.2.bn2.wieght with shape [16]"), "{error}");
}

#[test]
fn a_value_that_is_not_finite_or_a_negative_variance_is_refused() {
    let mut checkpoint = builtin_checkpoint();
    checkpoint.tensors.get_mut("conv1.weight").unwrap().data[5] = f32::NAN;
    assert!(error_of(checkpoint).contains("conv1.weight holds a value that is not finite"));
    let mut checkpoint = builtin_checkpoint();
    checkpoint.tensors.get_mut("layer1.0.bn1.running_var").unwrap().data[0] = -1.0;
    assert!(error_of(checkpoint).contains("layer1.0.bn1.running_var holds a value that is not finite, or a variance"));
}

#[test]
fn architectures_are_told_from_names_and_checked() {
    let path = Path::new(BUILTIN);
    assert_eq!(import(path, &ImportOptions::default()).unwrap().manifest.architecture, "resnet20-cifar");
    let asked = |name: &str| ImportOptions { architecture: Some(name.to_owned()), ..ImportOptions::default() };
    assert!(import(path, &asked("resnet20")).is_ok());
    let error = format!("{:#}", import(path, &asked("vgg16")).unwrap_err());
    assert!(error.contains("the file's tensors are those of resnet20-cifar, not of vgg16"), "{error}");
    let error = format!("{:#}", network(Checkpoint::default(), &ImportOptions::default(), ("x", &[])).err().unwrap());
    assert!(
        error.contains("no known architecture has these tensors (known: EfficientNet-Lite, MobileNetV2"),
        "{error}"
    );
}

#[test]
fn normalisation_comes_from_the_option_then_the_file_then_imagenet() {
    let path = Path::new(BUILTIN);
    let with = |normalisation| ImportOptions { normalisation, ..ImportOptions::default() };
    let mean = |normalisation| import(path, &with(normalisation)).unwrap().manifest.mean;
    assert_eq!(mean(None), [0.4914, 0.4822, 0.4465]);
    assert_eq!(mean(Some(Normalisation::parse("0.1,0.2,0.3/1,1,1").unwrap())), [0.1, 0.2, 0.3]);
    let mut checkpoint = builtin_checkpoint();
    checkpoint.metadata.clear();
    let silent = network(checkpoint, &ImportOptions::default(), ("test", &[])).unwrap();
    assert_eq!(silent.manifest.mean, Normalisation::imagenet().mean);
    for wrong in ["imagnet", "1,2,3", "a,b,c/1,1,1", "1,1,NaN/1,1,1"] {
        assert!(Normalisation::parse(wrong).is_err(), "{wrong}");
    }
    let two_channels = Normalisation::parse("1,2/1,1").unwrap();
    let error = format!("{:#}", import(path, &with(Some(two_channels))).unwrap_err());
    assert!(error.contains("3 input channels, but a mean for 2"), "{error}");
}

#[test]
fn a_cut_checkpoint_is_an_error_wherever_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["tiny-zip.pth", "tiny-legacy.th"] {
        let bytes = fs::read(Path::new(FIXTURES).join(file)).unwrap();
        let path = folder.path().join(file);
        for length in (0..bytes.len()).step_by(7) {
            fs::write(&path, &bytes[..length]).unwrap();
            // The last bytes may be padding; what must never happen is a panic or a wrong number of values.
            if let Ok(checkpoint) = Checkpoint::read(&path) {
                assert!(checkpoint.tensors.values().all(|t| t.data.len() == t.dims.iter().product::<usize>()));
            }
        }
        assert!(Checkpoint::read(&path).is_err() || file.ends_with(".th"));
    }
    let bytes = fs::read(BUILTIN).unwrap();
    for length in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        assert!(Checkpoint::from_safetensors(&bytes[..length]).is_err(), "cut at {length}");
    }
}

/// A checkpoint of zeros.
fn zeros(tensors: &[(&str, &[usize])]) -> Checkpoint {
    let tensor = |dims: &[usize]| TensorValues { dims: dims.to_vec(), data: vec![0.0; dims.iter().product()] };
    let tensors = tensors.iter().map(|(name, dims)| ((*name).to_owned(), tensor(dims))).collect();
    Checkpoint { tensors, ..Checkpoint::default() }
}

#[test]
fn a_network_that_shares_names_with_a_known_one_is_not_taken_for_it() {
    let stages = [1, 2, 3, 4].map(|stage| format!("layer{stage}.0.conv1.weight"));
    let mut small: Vec<(&str, &[usize])> = stages.iter().map(|name| (name.as_str(), [8, 8, 3, 3].as_slice())).collect();
    small.push(("conv1.weight", &[64, 3, 3, 3]));
    let error = error_of(zeros(&small));
    assert!(error.contains("by --arch resnet10-cifar or --arch resnet10-cifar-pooled"), "{error}");
    small.pop();
    small.push(("conv1.weight", &[64, 3, 5, 5]));
    let error = error_of(zeros(&small));
    assert!(error.contains("conv1 has a kernel of 5 rows") && error.contains("export it as .onnx"), "{error}");
    let alex_net = [("features.0.weight", [64, 3, 11, 11].as_slice()), ("classifier.6.weight", &[10, 16])];
    let error = error_of(zeros(&alex_net));
    assert!(error.contains("no known architecture has these tensors"), "{error}");
}

#[test]
fn bottlenecks_are_called_after_their_widths() {
    let check = |conv2: [usize; 4], expected: &str| {
        let tensors = [
            ("layer1.0.conv1.weight", [8, 8, 1, 1]),
            ("layer1.0.conv2.weight", conv2),
            ("layer1.0.conv3.weight", [8; 4]),
            ("layer2.0.conv1.weight", [8, 8, 1, 1]),
            ("layer3.0.conv1.weight", [8, 8, 1, 1]),
            ("conv1.weight", [8, 3, 7, 7]),
        ];
        let mut tensors: Vec<(&str, &[usize])> = tensors.iter().map(|(name, dims)| (*name, dims.as_slice())).collect();
        tensors.push(("layer4.0.conv1.weight", &[8, 8, 1, 1]));
        let options = ImportOptions { architecture: Some("another".into()), ..ImportOptions::default() };
        let error = format!("{:#}", network(zeros(&tensors), &options, ("test", &[])).unwrap_err());
        assert!(error.contains(&format!("those of {expected}, not of another")), "{error}");
    };
    check([64, 64, 3, 3], "resnet14");
    check([128, 128, 3, 3], "wide_resnet14_2");
    check([128, 4, 3, 3], "resnext14_32x4d");
}
