//! What reads files from outside, with seeds to mutate.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use distill_core::{
    Block, Budget, Calibration, Calibrator, Device, Encoding, Pack, PackWriter, ReadAt, Role, Run, Settings, Shape,
    SourceKind, WhiteNoise, Width, WriteAt, run,
};
use distill_device::read_widths;
use distill_host::{
    images::{
        Colour, Picture,
        cifar10::{self, FILE_BYTES},
    },
    import::{Checkpoint, ImportOptions, import},
    network::Network,
};
use distill_tests::{Task, manifest, pack, seal::sealed, teacher};
use tempfile::TempDir;

use crate::large;

/// The use of something accepted.
pub type Use = Box<dyn FnOnce()>;

/// A reader of files.
pub struct Target {
    pub name: &'static str,
    pub seeds: Vec<Vec<u8>>,
    /// What is read once, and not mutated.
    pub large: Vec<Vec<u8>>,
    /// Makes checksums right, so that more than they is tested.
    pub seal: fn(Vec<u8>) -> Vec<u8>,
    /// Reads bytes; what can be done with them, or an error.
    pub read: fn(&[u8]) -> Result<Use, String>,
}

impl Target {
    fn new(name: &'static str, seeds: Vec<Vec<u8>>, read: fn(&[u8]) -> Result<Use, String>) -> Self {
        Self { name, seeds, large: Vec::new(), seal: |bytes| bytes, read }
    }
}

/// All readers.
pub fn all() -> Vec<Target> {
    let packs = [
        files("hostile", "ndp"),
        files("", "ndp"),
        vec![pack(&teacher(), Encoding::F32), noisy(), overlapping()],
        sparse().to_vec(),
    ];
    let pictures = [files("pictures", ""), files("hostile", "B")];
    let checkpoints = |ending| [files("", ending), files("checkpoints", ending)].concat();
    let onnx = [files("hostile", "onnx"), files("onnx", "onnx"), files("hostile", "B"), files("torchvision", "onnx")];
    let small = |mut seeds: Vec<Vec<u8>>| {
        seeds.retain(|seed| seed.len() < 1 << 16);
        seeds
    };
    vec![
        Target { seal: sealed, ..Target::new("pack", small(packs.concat()), read_pack) },
        Target::new("resumed", parts(), |bytes| {
            resumed(bytes, |student, whole| {
                assert!(
                    student == whole,
                    "a resumed run ends in other bytes: {} and {}, first at {:?}",
                    student.len(),
                    whole.len(),
                    student.iter().zip(whole).position(|(a, b)| a != b)
                );
            })
        }),
        // Right checksums over other content are another student's, which a signature would tell.
        Target { seal: sealed, ..Target::new("forged", parts(), |bytes| resumed(bytes, |_, _| {})) },
        Target {
            large: large::onnx(),
            ..Target::new("onnx", small(onnx.concat()), |bytes| read_model("model.onnx", bytes))
        },
        Target::new("pth", small([checkpoints("pth"), files("hostile", "B")].concat()), |bytes| {
            read_checkpoint("m.pth", bytes)
        }),
        Target::new("th", small(checkpoints("th")), |bytes| read_checkpoint("m.th", bytes)),
        Target::new("safetensors", vec![safetensors()], |bytes| read_model("m.safetensors", bytes)),
        Target { seal: sealed_png, ..Target::new("picture", small(pictures.concat()), read_picture) },
        Target::new("widths", vec![br#"{"layer1.0": 0.75, "layer2.1": 1}"#.to_vec()], read_widths_file),
        Target {
            large: vec![vec![3; FILE_BYTES], vec![200; FILE_BYTES]],
            ..Target::new("cifar", vec![vec![3; 3073], vec![200; 2 * 3073 + 1]], read_cifar)
        },
    ]
}

/// The fixtures in a folder with an ending; an empty one is any.
fn files(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let fits = |path: &&PathBuf| path.is_file() && path.to_string_lossy().ends_with(ending);
    let found: Vec<Vec<u8>> = paths.iter().filter(fits).map(|path| fs::read(path).unwrap()).collect();
    found
}

/// A file of this name with these bytes, in memory where the system has such a place.
fn written(name: &str, bytes: &[u8]) -> PathBuf {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let path = FOLDER.get_or_init(|| TempDir::new_in(place).unwrap()).path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn read_model(name: &str, bytes: &[u8]) -> Result<Use, String> {
    let network = import(&written(name, bytes), &ImportOptions::default()).map_err(|error| format!("{error:#}"))?;
    Ok(Box::new(move || {
        network.student(&small_run()).map(drop).unwrap_or_default();
    }))
}

/// Weights by name, whatever network they are of.
fn read_checkpoint(name: &str, bytes: &[u8]) -> Result<Use, String> {
    Checkpoint::read(&written(name, bytes)).map_err(|error| format!("{error:#}"))?;
    Ok(Box::new(|| {}))
}

/// A pack as commands read it; a network in it is run.
fn read_pack(bytes: &[u8]) -> Result<Use, String> {
    let path = written("pack.ndp", bytes);
    let mut opened = Pack::open(bytes).map_err(|error| error.to_string())?;
    opened.noise_images().map_err(|error| error.to_string())?;
    let network = Network::read_pack(&path).map_err(|error| format!("{error:#}"))?;
    let bytes = bytes.to_vec();
    Ok(Box::new(move || {
        drop(network);
        let mut teacher = Pack::open(&bytes[..]).unwrap();
        let task = Run {
            teacher: &mut teacher,
            source: &mut WhiteNoise::Standard,
            scratch: None,
            settings: &small_run(),
            device: &Device::Cpu,
        };
        // Students may diverge, and budgets be too small.
        let _ = run(task, Vec::new(), |_| {});
    }))
}

/// A run as short as can be, in little memory.
fn small_run() -> Settings {
    let mut settings = Settings::new(Width::new(0.5).unwrap(), 1);
    (settings.recipe.images, settings.recipe.training.batch) = (16, 16);
    settings.budget = Budget { bytes: 16 << 20, used: 0 };
    settings
}

/// The run that unfinished packs are from.
fn interrupted() -> Task {
    Task::new(SourceKind::Standard, |settings| settings.recipe.images = 16)
}

/// What a run leaves in its storage if that fails after some writes.
fn unfinished(writes: usize) -> Vec<u8> {
    let bytes = pack(&teacher(), Encoding::F32);
    let mut storage = Failing { bytes: Vec::new(), writes };
    let _ = interrupted().run_on(&mut Pack::open(&bytes[..]).unwrap(), &bytes, &mut storage, |_| {});
    storage.bytes
}

/// Unfinished packs.
fn parts() -> Vec<Vec<u8>> {
    vec![unfinished(40), unfinished(60)]
}

/// Resumes from a damaged file: it is refused, begun again or completed.
fn resumed(bytes: &[u8], check: fn(&[u8], &[u8])) -> Result<Use, String> {
    static WHOLE: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    let (teacher, whole) = WHOLE.get_or_init(|| {
        let bytes = pack(&teacher(), Encoding::F32);
        let (_, student) = interrupted().run(&bytes).unwrap();
        (bytes, student)
    });
    let mut opened = Pack::open(&teacher[..]).unwrap();
    let (_, student) =
        interrupted().run_on(&mut opened, teacher, bytes.to_vec(), |_| {}).map_err(|error| error.to_string())?;
    check(&student, whole);
    Ok(Box::new(|| {}))
}

fn read_picture(bytes: &[u8]) -> Result<Use, String> {
    for colour in [Colour::Rgb, Colour::Grey] {
        Picture::decode(bytes, colour).map_err(|error| format!("{error:#}"))?;
    }
    Ok(Box::new(|| {}))
}

fn read_widths_file(bytes: &[u8]) -> Result<Use, String> {
    read_widths(&written("widths.json", bytes)).map_err(|error| format!("{error:#}"))?;
    Ok(Box::new(|| {}))
}

fn read_cifar(bytes: &[u8]) -> Result<Use, String> {
    let path = written("test_batch.bin", bytes);
    cifar10::read_test(path.parent().unwrap()).map_err(|error| format!("{error:#}"))?;
    Ok(Box::new(|| {}))
}

/// A storage that fails after some writes.
struct Failing {
    bytes: Vec<u8>,
    writes: usize,
}

impl ReadAt for Failing {
    type Error = io::Error;

    fn length(&mut self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        let read = self.bytes.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(read);
        Ok(())
    }
}

impl WriteAt for Failing {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writes = self.writes.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        let end = offset as usize + bytes.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.bytes.clear();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn safetensors() -> Vec<u8> {
    let path = written("seed.safetensors", &[]);
    let network = Network::new(manifest(), teacher()).unwrap();
    distill_host::export::export(&network, &path).unwrap();
    fs::read(&path).unwrap()
}

/// Packs whose kernels are mostly zeros, in both precisions.
fn sparse() -> [Vec<u8>; 2] {
    let thinned = |block: &Block| {
        let mut weights = block.weights().to_vec();
        for weight in weights.iter_mut().filter(|weight| weight.is_kernel()) {
            let places = weight.data.iter_mut().enumerate();
            places.filter(|(place, _)| place % 4 > 0).for_each(|(_, value)| *value = 0.0);
        }
        block.with_weights(weights).unwrap()
    };
    let blocks: Vec<Block> = teacher().iter().map(thinned).collect();
    [Encoding::F32, Encoding::F16].map(|encoding| pack(&blocks, encoding))
}

/// A pack with noise images.
fn noisy() -> Vec<u8> {
    let (blocks, calibration) = (teacher(), Calibration { batch: 2, ..Calibration::new(1, 0) });
    let images = Calibrator::new(&blocks).batch(0, &calibration, &manifest().pixels(), |_| {});
    let mut bytes = Vec::new();
    let mut writer = PackWriter::with_noise(&mut bytes, &manifest(), blocks.len()).unwrap();
    blocks.iter().enumerate().for_each(|(position, block)| writer.add(position, block, Encoding::F32).unwrap());
    writer.add_noise(calibration, &images, 0.0).unwrap();
    writer.finish().unwrap();
    bytes
}

/// A pack whose index names the last block a second time.
fn overlapping() -> Vec<u8> {
    let mut bytes = pack(&teacher()[..2], Encoding::F32);
    assert!(teacher()[1].role() == Role::Neighbourhood && teacher()[0].input() == Shape::new(3, 8, 8));
    // Entries of 88 bytes after a header of 164.
    bytes.copy_within(164 + 2 * 88..164 + 3 * 88, 164 + 88);
    sealed(bytes)
}

/// Rights the checksums of a PNG's chunks.
fn sealed_png(mut png: Vec<u8>) -> Vec<u8> {
    let mut at = 8;
    while let Some(length) = png.get(at..at + 4).map(|length| u32::from_be_bytes(length.try_into().unwrap()) as usize) {
        let Some(end) = at.checked_add(8 + length).filter(|end| end + 4 <= png.len()) else { break };
        let crc = crc32fast::hash(&png[at + 4..end]).to_be_bytes();
        png[end..end + 4].copy_from_slice(&crc);
        at = end + 4;
    }
    png
}
