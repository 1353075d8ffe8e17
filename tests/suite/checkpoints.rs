//! Checkpoints as people save them: `fixtures/make_checkpoints.py`. What a file is, its content says.

use std::{fs, path::PathBuf};

use distill_host::{
    import::{Checkpoint, ImportOptions, import, network},
    quickstart::builtin_teacher,
};

const BUILTIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../host-tools/assets/resnet20-teacher-f16.safetensors");

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(format!("{}/fixtures/checkpoints/{name}", env!("CARGO_MANIFEST_DIR")))
}

fn read(name: &str) -> Checkpoint {
    Checkpoint::read(&fixture(name)).unwrap_or_else(|error| panic!("{error:#}"))
}

#[test]
fn the_weights_are_found_wherever_a_script_saved_them() {
    let plain = read("plain.pth");
    assert_eq!(plain.tensors.len(), 6);
    assert_eq!(plain.tensors["conv.weight"].dims, [2, 1, 1, 1]);
    let check = |name: &str| assert_eq!(read(name).tensors, plain.tensors, "{name}");
    check("a_name_of_21_letters_.pth");
    check("legacy.th");
    check("net.pth");
    check("state_dict.pth.tar");
    check("model.ckpt");
    check("average_too.bin");
    check("average_alone");
    check("tuple.pt");
    check("float_counters.pth");
    check("half.pth");
    check("bfloat16.pth");
    check("module.pth");
    check("module_in_dictionary.pth");
}

#[test]
fn pruned_weights_are_multiplied_with_their_masks() {
    let [mut pruned, plain] = ["pruned.pth", "plain.pth"].map(read);
    let weight = pruned.tensors.remove("conv.weight").unwrap();
    assert_eq!(weight.data, [0.0, plain.tensors["conv.weight"].data[1]]);
    assert!(pruned.tensors.iter().all(|(name, tensor)| plain.tensors[name] == *tensor));
}

#[test]
fn prefixes_that_all_names_share_are_left_out() {
    let builtin = builtin_teacher().unwrap();
    let check = |prefix: &str| {
        let mut checkpoint = Checkpoint::read(BUILTIN.as_ref()).unwrap();
        let tensors = std::mem::take(&mut checkpoint.tensors);
        checkpoint.tensors = tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect();
        let network = network(checkpoint, &ImportOptions::default(), ("test", &[])).unwrap();
        assert_eq!(network.blocks, builtin.blocks, "{prefix}");
    };
    check("module.");
    check("model.");
    check("backbone.");
    check("_orig_mod.module.");
    check("0.net.encoder.");
    assert!(read("swa.pth").tensors.keys().all(|name| name.starts_with("module.")), "n_averaged is a counter");
}

#[test]
fn a_tensor_beside_the_network_is_named() {
    let mut checkpoint = Checkpoint::read(BUILTIN.as_ref()).unwrap();
    let mean = checkpoint.tensors["bn1.bias"].clone();
    let tensors = std::mem::take(&mut checkpoint.tensors);
    checkpoint.tensors = tensors.into_iter().map(|(name, tensor)| (format!("1.{name}"), tensor)).collect();
    checkpoint.tensors.insert("0.mean".to_owned(), mean);
    let error = format!("{:#}", network(checkpoint, &ImportOptions::default(), ("test", &[])).unwrap_err());
    assert!(error.contains("tensor 0.mean with shape [16] has no place beside the network"), "{error}");
}

/// `import` and `Checkpoint::read` refuse a file, and say what it is.
fn refuse(path: PathBuf, expected: &str) {
    let errors = [import(&path, &ImportOptions::default()).err(), Checkpoint::read(&path).err()];
    for error in errors {
        let error = format!("{:#}", error.unwrap());
        assert!(error.contains(expected), "{}: {error}", path.display());
    }
}

#[test]
fn files_that_are_no_checkpoints_are_named_with_what_to_do() {
    refuse(fixture("torchscript.pt"), "a TorchScript program: save its weights alone: `torch.save(torch.jit.load(");
    refuse(fixture("numpy_arrays.pth"), "its values are numpy arrays, not tensors: save them again: `torch.save(");
    refuse(fixture("expanded.pth"), "tensor a: its shape [500000000] has more values than the file can hold");
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, bytes: &[u8], expected: &str| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        refuse(path, expected);
    };
    check("model.h5", b"\x89HDF\r\n\x1a\n\0\0", "it is an HDF5 file, as Keras writes: export it as .onnx");
    check("a.npy", b"\x93NUMPY\x01\0", "it is one numpy array");
    check("a.pth.tar.gz", b"\x1f\x8b\x08\0", "it is compressed by gzip: unpack it");
    check("model.pb", b"\x08\x01\x12\x80\x01", "it is a TensorFlow network: export it as .onnx");
    check("model.pth", b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer");
    check("model.onnx", b"<!DOCTYPE html>", "it is a web page");
    check("model.pkl", b"\x80\x04\x95\0\0\0\0\0\0\0\0}.", "it is a pickle that `torch.save` did not write");
    check("teacher.pth", b"NDP\x1a", "it is a pack of distill");
    check("empty.pth", b"", "it is empty");
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    check("a.tar", &tar, "it is a tar archive: unpack it");
    for name in ["a.pth", "a.th", "a.safetensors", "model"] {
        check(name, &b"GIF89a, no weights at all".repeat(20), "it is neither an .onnx, nor a PyTorch checkpoint");
    }
}

#[test]
fn hostile_pickles_end_in_an_error() {
    let check = |pickle: &[u8]| {
        let legacy = fs::read(fixture("legacy.th")).unwrap();
        let mut bytes = legacy[..15].to_vec(); // the magic number
        bytes.extend_from_slice(b"\x80\x02K\x01.\x80\x02}.\x80\x02");
        bytes.extend_from_slice(pickle);
        bytes.extend_from_slice(b"\x80\x02].");
        let path = tempfile::NamedTempFile::new().unwrap();
        fs::write(path.path(), bytes).unwrap();
        Checkpoint::read(path.path()).unwrap_err();
    };
    // Tuples in tuples, as deep as it goes; a dictionary in itself; objects without end.
    check(&[b")".as_slice(), &b"\x85".repeat(100_000), b"."].concat());
    check(b"}q\0U\x01ah\0s.");
    check(&[b"]".as_slice(), &b"]a".repeat(2_000_000), b"."].concat());
    // Modules in modules: two in each, forty levels deep.
    let mut modules = b"c__main__\nNet\nq\xff)\x81q\0".to_vec();
    for _ in 0..40 {
        modules.extend_from_slice(b"h\xff)\x81q\x01}(U\x0b_parameters}U\x08_modules}(U\x01ah\0U\x01bh\0uubq\0");
    }
    modules.push(b'.');
    check(&modules);
    // Lengths beyond the file, empty stacks, and a class that is a number.
    check(b"X\xff\xff\xff\xff.");
    check(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.");
    check(b"u.");
    check(b"K\x01)R.");
}
