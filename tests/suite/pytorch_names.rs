//! Networks of torchvision, timm and for CIFAR by the names of their tensors, against what PyTorch computes:
//! `fixtures/make_torchvision.py`.

use std::{fs, path::PathBuf};

use distill_core::{Batch, Chain, Device, Shape};
use distill_host::{
    import::{Checkpoint, ImportOptions, import, network},
    network::Network,
};

fn fixture(name: &str, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}/fixtures/torchvision/{name}.{ending}", env!("CARGO_MANIFEST_DIR")))
}

/// Imports a narrow network, checks its architecture and blocks, and its logits against PyTorch's.
fn check(name: &str, architecture: &str, blocks: usize) -> Network {
    check_asked(name, (name, None), architecture, blocks)
}

/// The same with the weights of a file `weights`, and `--arch`.
fn check_asked(name: &str, (weights, asked): (&str, Option<&str>), architecture: &str, blocks: usize) -> Network {
    let json: serde_json::Value = serde_json::from_slice(&fs::read(fixture(name, "json")).unwrap()).unwrap();
    let extent = json["extent"].as_u64().unwrap() as usize;
    let expected: Vec<f32> = json["logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    let input = Shape::new(3, extent, extent);
    let architecture_asked = asked.map(str::to_owned);
    let options = ImportOptions { input: Some(input), architecture: architecture_asked, ..ImportOptions::default() };
    let network = import(&fixture(weights, "safetensors"), &options).unwrap();
    assert_eq!(network.manifest.architecture, architecture);
    assert_eq!(network.neighbourhoods().count(), blocks, "{name}");
    let pixel = |c: usize, y: usize, x: usize| (((c * 31 + y * 5 + x * 3) % 17) as f32 - 8.0) / 4.0;
    let rows = (0..3).flat_map(|c| (0..extent).map(move |y| (c, y)));
    let image: Vec<f32> = rows.flat_map(|(c, y)| (0..extent).map(move |x| pixel(c, y, x))).collect();
    let mut logits = Batch::new(&Device::Cpu);
    Chain::new(&network.blocks, &Device::Cpu).forward(&Batch::from_values(&image, input), &mut logits);
    let largest = expected.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
    let off = logits.to_values().iter().zip(&expected).fold(0.0, |most: f32, (a, b)| most.max((a - b).abs()));
    // A wrong stride, padding or shortcut is off by the size of a logit.
    assert!(off <= 1e-4 * largest, "{name}: {off} of {largest}");
    network
}

#[test]
fn residual_networks() {
    check("resnet18", "resnet18", 8);
    let network = check("resnet50", "resnet50", 16);
    let names: Vec<&str> = network.blocks.iter().map(|block| block.name()).collect();
    assert_eq!(&names[..3], ["stem", "layer1.0", "layer1.1"]);
}

#[test]
fn inverted_residual_networks() {
    let network = check_asked("mobilenet_v2", ("mobilenet_v2", Some("mobilenet_v2")), "mobilenet_v2", 17);
    assert_eq!(network.blocks[1].name(), "features.1.conv");
    check("timm-mobilenetv2", "mobilenet_v2", 7);
}

#[test]
fn strides_that_weights_do_not_tell_are_asked_for() {
    let refuse = |name: &str, expected: &str| {
        let error = format!("{:#}", import(&fixture(name, "safetensors"), &ImportOptions::default()).unwrap_err());
        assert!(error.contains(expected), "{name}: {error}");
    };
    refuse("mobilenet_v2", "by --arch mobilenet_v2 or --arch mobilenet_v2-cifar");
    check_asked("mobilenet_v2-cifar", ("mobilenet_v2", Some("mobilenet_v2-cifar")), "mobilenet_v2-cifar", 17);
    refuse("pooled", "by --arch resnet10-cifar or --arch resnet10-cifar-pooled");
    check_asked("pooled", ("pooled", Some("resnet10-cifar-pooled")), "resnet10-cifar-pooled", 4);
    refuse("timm-lite", "by --arch efficientnet_lite0 or --arch tf_efficientnet_lite0");
    for name in ["efficientnet_lite0", "tf_efficientnet_lite0"] {
        let golden = if name.starts_with("tf") { "timm-tf-lite" } else { "timm-lite" };
        check_asked(golden, ("timm-lite", Some(name)), name, 7);
    }
}

#[test]
fn a_thousand_classes_are_those_of_imagenet() {
    let mut checkpoint = Checkpoint::read(&fixture("mobilenet_v2", "safetensors")).unwrap();
    for (name, columns) in [("classifier.1.weight", 160), ("classifier.1.bias", 1)] {
        let tensor = checkpoint.tensors.get_mut(name).unwrap();
        tensor.dims[0] = 1000;
        tensor.data = vec![0.0; 1000 * columns];
    }
    let network = network(checkpoint, &ImportOptions::default(), ("test", &[])).unwrap();
    assert_eq!((network.manifest.architecture.as_str(), network.input()), ("mobilenet_v2", Shape::new(3, 224, 224)));
}

#[test]
fn residual_networks_for_cifar() {
    check("chenyaofo", "resnet8-cifar", 3);
    check("kuangliu", "resnet14-cifar", 4);
}

#[test]
fn plain_networks_in_groups_of_layers() {
    let network = check("vgg11_bn", "vgg11_bn", 4);
    // The fully connected layers are the last.
    let head = network.blocks.last().unwrap();
    assert_eq!(head.nodes().iter().filter(|node| node.op.is_layer()).count(), 3);
    check("timm-vgg11", "vgg11", 4);
}

#[test]
fn the_width_of_a_classifier_tells_the_size_of_the_images() {
    check("vgg11_bn-cifar", "vgg11_bn-cifar", 4);
    let input = |name: &str| import(&fixture(name, "safetensors"), &ImportOptions::default()).unwrap().input();
    assert_eq!(input("vgg11_bn-cifar"), Shape::new(3, 32, 32));
    assert_eq!(input("vgg11_bn"), Shape::new(3, 224, 224));
}

#[test]
fn a_tensor_too_many_or_of_another_kind_is_named() {
    let error = |change: &dyn Fn(&mut Checkpoint)| {
        let mut checkpoint = Checkpoint::read(&fixture("mobilenet_v2", "safetensors")).unwrap();
        change(&mut checkpoint);
        let options = ImportOptions { architecture: Some("mobilenet_v2".to_owned()), ..ImportOptions::default() };
        format!("{:#}", network(checkpoint, &options, ("test", &[])).unwrap_err())
    };
    let extra = error(&|checkpoint| {
        let tensor = checkpoint.tensors["classifier.1.bias"].clone();
        checkpoint.tensors.insert("classifier.9.bias".to_owned(), tensor);
    });
    assert!(extra.contains("tensor classifier.9.bias with shape [10] has no place in mobilenet_v2"), "{extra}");
    let flat = error(&|checkpoint| checkpoint.tensors.get_mut("features.0.0.weight").unwrap().dims = vec![4, 27]);
    assert!(flat.contains("features.0.0.weight has 2 dimensions, a convolution's kernel has 4"), "{flat}");
    let wide =
        error(&|checkpoint| checkpoint.tensors.get_mut("features.2.conv.0.0.weight").unwrap().dims = vec![6, 4, 1, 1]);
    assert!(wide.contains("features.2.conv.0.0 takes 4 channels, but is given 2"), "{wide}");
}
