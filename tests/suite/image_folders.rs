//! Folders of pictures: which class each is of, what its pixels become, and what is refused.

use std::{fs, path::Path};

use distill_core::{Device, Shape};
use distill_host::{
    images::{
        self, CROP_FRACTION, Colour, Filter, ImageFolder, Images, LabelledImages, Picture, Preparation,
        cifar10::builtin_test_images,
    },
    measure::{batch, evaluate},
    network::Network,
    quickstart::builtin_teacher,
};
use png::{BitDepth, ColorType};
use tempfile::TempDir;

/// A PNG of 8-bit samples.
fn png(width: usize, color: ColorType, samples: &[u8]) -> Vec<u8> {
    let height = samples.len() / (width * color.samples());
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(color);
    encoder.set_depth(BitDepth::Eight);
    encoder.write_header().unwrap().write_image_data(samples).unwrap();
    file
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/pictures").join(name)).unwrap()
}

/// A folder with these files, and the folders they need.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

/// A folder with one grey 32×32 picture under each name.
pub fn folder_of(names: &[&str]) -> TempDir {
    let picture = png(32, ColorType::Grayscale, &[7; 1024]);
    folder(&names.iter().map(|&name| (name, picture.as_slice())).collect::<Vec<_>>())
}

fn open(folder: &TempDir) -> anyhow::Result<ImageFolder> {
    ImageFolder::open(folder.path(), &builtin_teacher().unwrap(), Preparation::default())
}

/// Names relative to the folder, and classes.
fn listed(folder: &TempDir) -> Vec<(String, u16)> {
    let images = open(folder).unwrap();
    let name = |path: &std::path::PathBuf| path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned();
    images.files().iter().map(name).zip(images.labels().iter().copied()).collect()
}

fn check_listed(names: &[&str], expected: &[(&str, u16)]) {
    let expected: Vec<(String, u16)> = expected.iter().map(|&(name, class)| (name.to_owned(), class)).collect();
    assert_eq!(listed(&folder_of(names)), expected);
}

fn check_refused(names: &[&str], expected: &str) {
    let error = format!("{:#}", open(&folder_of(names)).unwrap_err());
    assert!(error.contains(expected), "{names:?}: {error}");
}

#[test]
fn the_class_stands_in_the_name_or_in_the_folders() {
    check_listed(&["9_b.JPG", "0003_n01.png", "2_.jpeg"], &[("0003_n01.png", 3), ("2_.jpeg", 2), ("9_b.JPG", 9)]);
    // Upper case comes first; a hidden file is no picture, and neither is a note.
    let names = ["b/1.png", "a/2.png", "a/10.png", "Z/1.png", "a/.hidden.png", "b/note.txt"];
    check_listed(&names, &[("Z/1.png", 0), ("a/10.png", 1), ("a/2.png", 1), ("b/1.png", 2)]);
    check_listed(&["truck/1.png", "cat/1.png"], &[("cat/1.png", 3), ("truck/1.png", 9)]);
    check_listed(&["lorry/1.png", "kitten/1.png"], &[("kitten/1.png", 0), ("lorry/1.png", 1)]);
    // Numbers are indices, however they are written.
    check_listed(&["9/1.png", "2/1.png"], &[("2/1.png", 2), ("9/1.png", 9)]);
    check_listed(&["03/1.png", "007/1.png"], &[("007/1.png", 7), ("03/1.png", 3)]);
}

#[test]
fn what_names_no_class_of_the_network_is_refused() {
    check_refused(&["0_a.png", "10_b.png"], "10_b.png in ");
    check_refused(&["10_b.png"], "is of class 10, but the network's are 0 to 9");
    check_refused(&["99999999999999999999_b.png"], "the network's are 0 to 9");
    check_refused(&["0_a.png", "cat.png"], "cat.png in ");
    check_refused(&["_a.png"], "files named by class such as 0007_n01518878.jpg");
    check_refused(&["+1_a.png"], "names no class");
    check_refused(&[], "there are neither pictures nor CIFAR-10's test_batch.bin in ");
    check_refused(&["a.txt"], "there are neither pictures nor CIFAR-10's test_batch.bin in ");
    check_refused(&["cat/a.txt"], "there are neither pictures nor CIFAR-10's test_batch.bin in ");
    check_refused(&["0_a.png", "cat/1.png"], "holds both pictures and sub-folders");
    check_refused(&["val/cat/1.png"], "val/cat lies in a class folder");
    check_refused(&["3/1.png", "10/1.png"], "10 in ");
    check_refused(&["truck/1.png", "kitten/1.png"], "kitten in ");
    let eleven: Vec<String> = (0..11).map(|class| format!("class{class}/1.png")).collect();
    check_refused(&eleven.iter().map(String::as_str).collect::<Vec<_>>(), "has 11 class folders, but the network 10");
}

#[test]
fn pictures_without_classes_are_images_too() {
    let network = builtin_teacher().unwrap();
    let count = |folder: &TempDir| {
        let images = images::open_unlabelled(folder.path().to_str().unwrap(), &network, Preparation::default());
        images.map(|images| images.len()).map_err(|error| format!("{error:#}"))
    };
    assert_eq!(count(&folder_of(&["b.png", "a.jpg", "note.txt"])), Ok(2));
    assert_eq!(count(&folder_of(&["c.png", "cat/1.png", "other/1.png"])), Ok(3));
    assert!(count(&folder_of(&["note.txt"])).unwrap_err().contains("there are no .jpg or .png files in "));
}

#[test]
fn a_folder_is_told_by_what_it_holds() {
    let network = builtin_teacher().unwrap();
    let total = |folder: &TempDir| {
        let images = images::open(folder.path().to_str().unwrap(), &network, Preparation::default());
        images.map(|images| images.labels().len()).map_err(|error| format!("{error:#}"))
    };
    assert_eq!(total(&folder_of(&["cat/1.png"])), Ok(1));
    assert_eq!(total(&folder(&[("test_batch.bin", &vec![0; 30_730_000])])), Ok(10_000));
    assert!(total(&folder(&[("test_batch.bin", &[0])])).unwrap_err().contains("not a file of CIFAR-10"));
}

#[test]
fn pictures_become_the_channels_of_the_network() {
    let check = |color, samples: &[u8], colour: Colour, expected: &[u8]| {
        let picture = Picture::decode(&png(2, color, samples), colour).unwrap();
        assert_eq!(
            (picture.width, picture.height, picture.samples.as_slice()),
            (2, 1, expected),
            "{color:?} {colour:?}"
        );
    };
    use ColorType::{Grayscale, GrayscaleAlpha, Rgba};
    check(Grayscale, &[9, 200], Colour::Rgb, &[9, 9, 9, 200, 200, 200]);
    check(GrayscaleAlpha, &[9, 0, 200, 50], Colour::Rgb, &[9, 9, 9, 200, 200, 200]);
    check(ColorType::Rgb, &[1, 2, 3, 4, 5, 6], Colour::Rgb, &[1, 2, 3, 4, 5, 6]);
    check(Rgba, &[1, 2, 3, 0, 4, 5, 6, 128], Colour::Rgb, &[1, 2, 3, 4, 5, 6]);
    check(Grayscale, &[9, 200], Colour::Grey, &[9, 200]);
    check(GrayscaleAlpha, &[255, 0, 200, 50], Colour::Grey, &[255, 200]);
    // Pillow's convert("L") of the same pixels.
    check(ColorType::Rgb, &[10, 200, 90, 255, 0, 0], Colour::Grey, &[131, 76]);
    check(Rgba, &[10, 200, 90, 0, 0, 0, 255, 128], Colour::Grey, &[131, 29]);
    check(Rgba, &[1, 2, 3, 0, 4, 5, 6, 128], Colour::Rgba, &[1, 2, 3, 0, 4, 5, 6, 128]);
    check(GrayscaleAlpha, &[9, 0, 200, 50], Colour::Rgba, &[9, 9, 9, 0, 200, 200, 200, 50]);
    check(ColorType::Rgb, &[1, 2, 3, 4, 5, 6], Colour::Rgba, &[1, 2, 3, 255, 4, 5, 6, 255]);
    assert!(Colour::of_channels(2).is_err());
}

#[test]
fn jpegs_are_as_pillow_reads_them() {
    for (name, tolerance) in [("colour", 5), ("grey", 1), ("cmyk", 5)] {
        let ours = Picture::decode(&fixture(&format!("{name}.jpg")), Colour::Rgb).unwrap();
        let pillows = Picture::decode(&fixture(&format!("{name}-decoded.png")), Colour::Rgb).unwrap();
        assert_eq!((ours.width, ours.height), (pillows.width, pillows.height), "{name}");
        // Decoders round differently; swapped or inverted channels, or blocky colours, would be off by tens.
        let differences = ours.samples.iter().zip(&pillows.samples).map(|(a, b)| a.abs_diff(*b));
        assert!(differences.clone().max() <= Some(tolerance), "{name}: {:?}", differences.max());
    }
}

/// What the network of this input sees of the picture, `[C, H, W]`.
fn seen(picture: &Picture, [height, width]: [usize; 2], fraction: f64, filter: Filter) -> Vec<u8> {
    let mut image = vec![0; 3 * height * width];
    let preparation = Preparation::new(fraction, filter).unwrap();
    preparation.prepare(picture, Shape::new(3, height, width), &mut image);
    image
}

#[test]
fn crops_are_torchvisions() {
    let picture = Picture::decode(&fixture("odd.png"), Colour::Rgb).unwrap();
    for (name, filter) in [("bilinear", Filter::Bilinear), ("bicubic", Filter::Bicubic)] {
        let expected = Picture::decode(&fixture(&format!("odd-{name}.png")), Colour::Rgb).unwrap();
        assert_eq!(seen(&picture, [32, 32], CROP_FRACTION, filter), seen(&expected, [32, 32], 1.0, filter), "{name}");
    }
}

#[test]
fn the_middle_of_a_gradient_is_a_gradient() {
    let gradient = |width: usize, height: usize| {
        let pixel = |index: usize| [2 * (index % width) as u8, 3 * (index / width) as u8, 9];
        Picture { width, height, colour: Colour::Rgb, samples: (0..width * height).flat_map(pixel).collect() }
    };
    // Of the network's size, and cut without scaling: exactly what is there.
    assert_eq!(
        seen(&gradient(16, 8), [8, 16], 0.5, Filter::Bilinear)[..16],
        std::array::from_fn::<u8, 16, _>(|x| 2 * x as u8)
    );
    let middle = seen(&gradient(60, 32), [16, 16], 0.5, Filter::Bicubic);
    for (index, &red) in middle[..256].iter().enumerate() {
        assert_eq!(
            (red, middle[256 + index], middle[512 + index]),
            (2 * (22 + index % 16) as u8, 3 * (8 + index / 16) as u8, 9)
        );
    }
    // Scaled, a line stays a line away from the borders: pixel centres of the target, seen from the source.
    for (size, wanted, fraction, resized) in [
        ([120, 80], [28, 28], 0.875, [48, 32]), // half width left over, as torchvision's Resize
        ([40, 80], [28, 28], 0.875, [32, 64]),  // upright
        ([30, 20], [28, 28], 0.875, [48, 32]),  // enlarged
        ([120, 80], [22, 42], 0.875, [48, 32]), // a wide network: the width decides
        ([120, 60], [28, 14], 0.875, [64, 32]), // an upright one: the height decides
    ] {
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            let (source, [height, width]) = (gradient(size[0], size[1]), wanted);
            let image = seen(&source, wanted, fraction, filter);
            let at = |target: usize, len: usize, axis: usize| {
                let start = (resized[axis] - len) as f64 / 2.0;
                (target as f64 + start + 0.5) * size[axis] as f64 / resized[axis] as f64 - 0.5
            };
            for (index, y, x) in (0..height * width).map(|index| (index, index / width, index % width)) {
                let (red, green) = (2.0 * at(x, width, 0), 3.0 * at(y, height, 1));
                // A crop shifted by one pixel would be off by two and three times the scale.
                let near = |value: u8, expected: f64| (f64::from(value) - expected).abs() <= 1.0;
                let green_at = image[height * width + index];
                assert!(near(image[index], red) && near(green_at, green), "{size:?} {wanted:?} {filter:?} at {y}, {x}");
            }
        }
    }
}

#[test]
fn extreme_pictures_and_fractions_cost_no_memory() {
    let line = Picture { width: 1, height: 1 << 20, colour: Colour::Rgb, samples: vec![5; 3 << 20] };
    assert_eq!(seen(&line, [8, 8], CROP_FRACTION, Filter::Bicubic), [5; 192]);
    let dot = Picture { width: 1, height: 1, colour: Colour::Rgb, samples: vec![5; 3] };
    assert_eq!(seen(&dot, [8, 8], f64::MIN_POSITIVE, Filter::Bilinear), [5; 192]);
    for fraction in [0.0, -1.0, 1.01, f64::NAN] {
        assert!(Preparation::new(fraction, Filter::Bilinear).is_err());
    }
}

#[test]
fn a_picture_that_cannot_be_decoded_is_named() {
    let jpeg = fixture("colour.jpg");
    let (whole, cut) = (png(32, ColorType::Grayscale, &[7; 1024]), jpeg.len() * 3 / 4);
    let mut damaged = whole.clone();
    damaged[50] ^= 1;
    // A header that promises ten thousand million pixels, with its checksum.
    let mut huge = png(1, ColorType::Grayscale, &[0]);
    huge[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    let mut crc = u32::MAX;
    for byte in &huge[12..29] {
        crc ^= u32::from(*byte);
        (0..8).for_each(|_| crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 });
    }
    huge[29..33].copy_from_slice(&(!crc).to_be_bytes());
    for (content, expected) in [
        (&jpeg[..cut], "this JPEG cannot be decoded"),
        (&jpeg[..20], "this JPEG cannot be decoded"),
        (&damaged, "this PNG cannot be decoded"),
        (&whole[..whole.len() - 20], "this PNG cannot be decoded"),
        (&huge, "100000x100000 pixels"),
        (b"GIF89a", "neither JPEG nor PNG"),
        (b"", "neither JPEG nor PNG"),
    ] {
        let folder = folder(&[("0_a.png", &whole), ("1_bad.jpg", content), ("2_worse.jpg", b"")]);
        let images = open(&folder).unwrap();
        assert_eq!(images.pixels(0..1).unwrap(), vec![7; 3072]);
        let error = format!("{:#}", images.pixels(0..3).unwrap_err());
        assert!(error.contains("1_bad.jpg: ") && error.contains(expected), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn pictures_are_evaluated_as_the_images_they_were_made_from() {
    let (network, images) = (builtin_teacher().unwrap(), builtin_test_images().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut order: Vec<usize> = (0..150).collect();
    order.sort_by_key(|&image| images.labels[image]);
    for &image in &order {
        let planes = images.pixels(image..image + 1).unwrap();
        let rgb: Vec<u8> = (0..3072).map(|index| planes[index % 3 * 1024 + index / 3]).collect();
        let name = format!("{}_{image:03}.png", images.labels[image]);
        fs::write(folder.path().join(name), png(32, ColorType::Rgb, &rgb)).unwrap();
    }
    let expected = evaluate(&network, &images, 150, &Device::Cpu).unwrap();
    let pictures = open(&folder).unwrap();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| evaluate(&network, &pictures, 150, &Device::Cpu).unwrap())
    };
    let found = run(1);
    assert_eq!(found, run(3));
    assert_eq!((found.correct, found.top5_correct), (expected.correct, expected.top5_correct));
    let predictions: Vec<u16> = order.iter().map(|&image| expected.predictions[image]).collect();
    assert_eq!(found.predictions, predictions);
}

#[test]
fn the_first_of_equal_logits_count() {
    let network = builtin_teacher().unwrap();
    let mut blocks = network.blocks.clone();
    let head = blocks.pop().unwrap();
    let mut weights = head.weights().to_vec();
    weights.iter_mut().for_each(|weight| weight.data.fill(0.0));
    blocks.push(head.with_weights(weights).unwrap());
    let flat = Network::new(network.manifest, blocks).unwrap();
    let images = builtin_test_images().unwrap();
    let below = |class: u16| images.labels[..100].iter().filter(|&&label| label < class).count();
    let evaluation = evaluate(&flat, &images, 100, &Device::Cpu).unwrap();
    assert_eq!(evaluation.predictions, [0; 100]);
    assert_eq!((evaluation.correct, evaluation.top5_correct), (below(1), below(5)));
    assert_eq!((evaluation.accuracy, evaluation.top5), (below(1) as f64, below(5) as f64));
}

#[test]
fn a_batch_is_whole_groups_in_64_mib() {
    let (cifar, imagenet) = (Shape::new(3, 32, 32), Shape::new(3, 224, 224));
    assert_eq!([1, 8, 64].map(|threads| batch(cifar, threads)), [128, 128, 1024]);
    assert_eq!([1, 64].map(|threads| batch(imagenet, threads)), [96, 96]);
    assert_eq!(batch(Shape::new(3, 4096, 4096), 64), 16);
}
