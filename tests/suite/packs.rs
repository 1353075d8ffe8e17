//! Packs: what is written is read, and nothing else is.

use std::{convert::Infallible, io, path::Path};

use distill_core::{
    Block, BlockBuilder, Calibration, Calibrator, Contents, Conv, Encoding, Fingerprint, Interface, Manifest, Op, Pack,
    PackError, PackWriter, Probabilities, ReadAt, Role, Shape, SourceKind, VERSION, Weight, WriteAt,
};
use distill_host::{
    export::recompose,
    import::{ImportOptions, import},
    network::Network,
};

use crate::naive::widen;

/// Packs of an older program.
pub struct Older {
    pub version: u16,
    /// Imported from `fixtures/onnx/plain-legacy-11.onnx`.
    pub teacher: &'static [u8],
    /// `distill-device run version-3.ndp -o version-3-students.ndp --images 16 --noise standard`.
    students: &'static [u8],
    made_from: Option<SourceKind>,
}

pub const VERSION_3_STUDENTS: &[u8] = include_bytes!("../fixtures/version-3-students.ndp");
pub const OLDER: [Older; 4] = [
    Older {
        version: 3,
        teacher: include_bytes!("../fixtures/version-3.ndp"),
        students: VERSION_3_STUDENTS,
        made_from: None,
    },
    Older {
        version: 4,
        teacher: include_bytes!("../fixtures/version-4.ndp"),
        students: include_bytes!("../fixtures/version-4-students.ndp"),
        made_from: Some(SourceKind::Standard),
    },
    Older {
        version: 5,
        teacher: include_bytes!("../fixtures/version-5.ndp"),
        students: include_bytes!("../fixtures/version-5-students.ndp"),
        made_from: Some(SourceKind::Standard),
    },
    Older {
        version: 6,
        teacher: include_bytes!("../fixtures/version-6.ndp"),
        students: include_bytes!("../fixtures/version-6-students.ndp"),
        made_from: Some(SourceKind::Standard),
    },
];

type Read = Result<(Manifest, Vec<Block>), PackError<Infallible>>;

/// Everything that is in a pack; its noise images are only looked at.
pub fn read(bytes: &[u8]) -> Read {
    let mut pack = Pack::open(bytes)?;
    pack.noise_images()?;
    let blocks: Result<Vec<Block>, _> = (0..pack.blocks()).map(|index| pack.block(index)).collect();
    Ok((pack.manifest().clone(), blocks?))
}

/// A 1×1 convolution with kernel 0.5.
fn halving(input: Shape) -> Block {
    let mut builder = BlockBuilder::new("halve", Role::Neighbourhood, input);
    let kernel = Weight::new("w", &[1, 1, 1, 1], vec![0.5]);
    builder.push("conv", Op::Conv(Conv::square(1, 0)), &[0], vec![kernel]).unwrap();
    builder.finish().unwrap()
}

fn example_manifest() -> Manifest {
    Manifest {
        contents: Contents::Network,
        architecture: "example".into(),
        mean: vec![0.5],
        std: vec![0.25],
        classes: vec!["cat".into()],
        source: "x.th".into(),
        source_sha256: std::array::from_fn(|i| i as u8),
        made_from: None,
        interface: None,
    }
}

/// The pack of docs/pack-format.md: one block.
pub fn example_pack() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = PackWriter::new(&mut bytes, &example_manifest(), 1).unwrap();
    writer.add(0, &halving(Shape::new(1, 2, 2)), Encoding::F32).unwrap();
    writer.finish().unwrap();
    bytes
}

/// The same with two noise images, of one pixel each.
pub fn noisy_pack() -> Vec<u8> {
    let (mut bytes, blocks) = (Vec::new(), [halving(Shape::new(1, 1, 1))]);
    let calibration = Calibration { batch: 2, ..Calibration::new(1, 0) };
    let probabilities = Some(Probabilities::LogSoftmax);
    let interface = Interface { input: "image".into(), output: "p".into(), rank: 4, probabilities };
    let manifest = Manifest { interface: Some(interface), ..example_manifest() };
    let images = Calibrator::new(&blocks).batch(0, &calibration, &manifest.pixels(), |_| {});
    let mut writer = PackWriter::with_noise(&mut bytes, &manifest, 1).unwrap();
    writer.add(0, &blocks[0], Encoding::F32).unwrap();
    writer.add_noise(calibration, &images, 0.0).unwrap();
    writer.finish().unwrap();
    bytes
}

#[test]
fn f32_weights_come_back_exactly() {
    let blocks = distill_tests::teacher();
    let (manifest, found) = read(&distill_tests::pack(&blocks, Encoding::F32)).unwrap();
    assert_eq!(manifest, distill_tests::manifest());
    assert_eq!(found, blocks);
}

#[test]
fn f16_weights_come_back_rounded_to_nearest() {
    let blocks = distill_tests::teacher();
    let (_, found) = read(&distill_tests::pack(&blocks, Encoding::F16)).unwrap();
    let weights = |blocks: &[Block]| -> Vec<f64> {
        blocks.iter().flat_map(Block::weights).flat_map(|weight| widen(&weight.data)).collect()
    };
    for (stored, original) in weights(&found).iter().zip(weights(&blocks)) {
        // Half a unit in the last of 11 bits (of 2^-24 for subnormals): truncation would be off by a whole one.
        let tolerance = (original.abs() * 2f64.powi(-11)).max(2f64.powi(-25));
        assert!((stored - original).abs() <= tolerance, "{original} became {stored}");
    }
    assert_eq!(found[1].nodes(), blocks[1].nodes());
}

#[test]
fn a_value_too_large_for_f16_keeps_its_weight_in_f32() {
    let mut weights = distill_tests::teacher()[1].weights().to_vec();
    weights[1].data[0] = 1e5;
    let block = distill_tests::teacher()[1].with_weights(weights).unwrap();
    let (_, found) = read(&distill_tests::pack(std::slice::from_ref(&block), Encoding::F16)).unwrap();
    assert_eq!(found[0].weights()[1], block.weights()[1]);
    assert_ne!(found[0].weights()[0], block.weights()[0], "the others are rounded");
}

#[test]
fn same_input_gives_same_bytes() {
    let write = || distill_tests::pack(&distill_tests::teacher(), Encoding::F32);
    assert_eq!(write(), write());
}

/// A disk that fails at its `remaining`-th write or sync, after half of the bytes.
struct FailingDisk {
    bytes: Vec<u8>,
    remaining: usize,
}

impl FailingDisk {
    fn operate(&mut self) -> io::Result<()> {
        self.remaining = self.remaining.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        Ok(())
    }
}

impl ReadAt for FailingDisk {
    type Error = io::Error;

    fn length(&mut self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.bytes.read_at(offset, buffer).map_err(io::Error::other)
    }
}

impl WriteAt for FailingDisk {
    fn clear(&mut self) -> io::Result<()> {
        self.operate()?;
        self.bytes.clear();
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let result = self.operate();
        let written = if result.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        self.bytes.write_at(offset, written).unwrap();
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        self.operate()
    }
}

#[test]
fn what_a_failing_disk_holds_is_no_pack() {
    let blocks = distill_tests::teacher();
    let attempt = |disk: &mut FailingDisk| -> Result<(), PackError<io::Error>> {
        let mut writer = PackWriter::new(disk, &distill_tests::manifest(), blocks.len())?;
        blocks.iter().enumerate().try_for_each(|(position, block)| writer.add(position, block, Encoding::F32))?;
        writer.finish().map(|_| ())
    };
    let mut disk = FailingDisk { bytes: Vec::new(), remaining: usize::MAX };
    attempt(&mut disk).unwrap();
    let operations = usize::MAX - disk.remaining;
    assert!(operations > 2 * blocks.len(), "each block writes metadata and weights");
    for remaining in 0..operations {
        let mut disk = FailingDisk { bytes: Vec::new(), remaining };
        assert!(matches!(attempt(&mut disk), Err(PackError::Storage(_))), "operation {remaining} did not fail");
        // Only the last operation, a sync, comes after all bytes are there.
        assert_eq!(read(&disk.bytes).is_ok(), remaining == operations - 1, "after operation {remaining}");
    }
}

#[test]
fn writer_refuses_another_number_of_blocks() {
    let block = &distill_tests::teacher()[1];
    let mut bytes = Vec::new();
    let writer = PackWriter::new(&mut bytes, &distill_tests::manifest(), 1).unwrap();
    assert!(matches!(writer.finish(), Err(PackError::SectionCount { expected: 1, found: 0 })));
    let mut writer = PackWriter::new(&mut bytes, &distill_tests::manifest(), 1).unwrap();
    writer.add(0, block, Encoding::F32).unwrap();
    assert!(matches!(writer.add(1, block, Encoding::F32), Err(PackError::SectionCount { .. })));
    let many = PackWriter::new(&mut bytes, &distill_tests::manifest(), 5000);
    assert!(matches!(many, Err(PackError::SectionCount { .. })));
}

/// That file, imported now. Before version 5, it lost its interface, and its fully connected layers were a head.
fn imported(version: u16) -> Network {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/onnx/plain-legacy-11.onnx");
    let mut network = import(&path, &ImportOptions::default()).unwrap();
    if version >= 5 {
        return network;
    }
    network.manifest.interface = None;
    let connected = network.blocks.pop().unwrap();
    let mut head = BlockBuilder::new("head", Role::Head, connected.input());
    for (index, node) in connected.nodes().iter().enumerate() {
        let weights = connected.weights_of(index).into_iter().cloned().collect();
        head.push(&node.name, node.op.clone(), &node.inputs, weights).unwrap();
    }
    network.blocks.push(head.finish().unwrap());
    network
}

#[test]
fn packs_of_older_versions_are_read_without_what_those_lack() {
    for Older { version, teacher, students, made_from } in OLDER {
        assert!(version < VERSION && [teacher, students].iter().all(|pack| pack[4..6] == version.to_le_bytes()));
        let Network { manifest, blocks } = imported(version);
        // Every field of the manifest and every weight: a manifest read one byte short is another.
        assert_eq!(read(teacher).unwrap(), (manifest.clone(), blocks.clone()));
        let (of_students, students) = read(students).unwrap();
        let contents = of_students.contents;
        assert_eq!(of_students, Manifest { contents, made_from, ..manifest.clone() });
        let Contents::Neighbourhoods { teacher: theirs } = contents else { panic!("{contents:?}") };
        assert_eq!(matches!(theirs, Fingerprint::Crc(_)), version < 6);
        assert!(Pack::open(teacher).unwrap().is(&theirs).unwrap());
        assert_eq!((students[0].name(), students[0].output()), (blocks[1].name(), blocks[1].output()));
        assert!(students[0].parameters() < blocks[1].parameters());
    }
}

#[test]
fn students_of_older_versions_take_their_places_in_their_teacher() {
    let folder = tempfile::tempdir().unwrap();
    for older in OLDER {
        let [teacher, students] =
            [("teacher.ndp", older.teacher), ("students.ndp", older.students)].map(|(name, bytes)| {
                let path = folder.path().join(name);
                std::fs::write(&path, bytes).unwrap();
                path
            });
        let whole = recompose(&teacher, std::slice::from_ref(&students)).unwrap();
        assert_eq!(whole.blocks[1], read(older.students).unwrap().1[0]);
        assert_eq!(whole.manifest.made_from, older.made_from);
        // Written again it is of this version, with the same blocks.
        whole.write_pack(&teacher, Encoding::F32).unwrap();
        let bytes = std::fs::read(&teacher).unwrap();
        assert_eq!(bytes[4..6], VERSION.to_le_bytes());
        assert_eq!(read(&bytes).unwrap(), (whole.manifest, whole.blocks));
    }
}

/// What `calibrate` does to an older teacher, or importing its file again, must not make it another teacher: its students would no
/// longer be its own, and the images of an earlier run would be thrown away.
#[test]
fn an_older_teacher_written_or_imported_again_is_the_same_teacher() {
    let fingerprint = |bytes: &[u8]| Pack::open(bytes).unwrap().fingerprint();
    for older in OLDER {
        let Network { manifest, blocks } = imported(older.version);
        let interface = imported(VERSION).manifest.interface;
        assert!(interface.is_some());
        for interface in [None, interface] {
            let mut bytes = Vec::new();
            let mut writer =
                PackWriter::new(&mut bytes, &Manifest { interface, ..manifest.clone() }, blocks.len()).unwrap();
            blocks.iter().enumerate().for_each(|(position, block)| writer.add(position, block, Encoding::F32).unwrap());
            writer.finish().unwrap();
            assert_eq!(fingerprint(&bytes), fingerprint(older.teacher), "version {}", older.version);
            let contents = read(older.students).unwrap().0.contents;
            let Contents::Neighbourhoods { teacher } = contents else { panic!("{contents:?}") };
            assert!(Pack::open(bytes.as_slice()).unwrap().is(&teacher).unwrap(), "version {}", older.version);
        }
    }
}

#[test]
fn student_pack_is_no_network() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("student.ndp");
    let mut bytes = Vec::new();
    let manifest = Manifest {
        contents: Contents::Neighbourhoods { teacher: Fingerprint::Sha256([1; 32]) },
        ..distill_tests::manifest()
    };
    PackWriter::new(&mut bytes, &manifest, 0).unwrap().finish().unwrap();
    std::fs::write(&path, bytes).unwrap();
    let error = Network::read_pack(&path).unwrap_err();
    assert!(format!("{error:#}").contains("not a whole network"), "{error:#}");
}

#[test]
fn worked_example_in_the_document() {
    let document = include_str!("../../docs/pack-format.md");
    let dump = document.split("```hex\n").nth(1).unwrap().split("```").next().unwrap();
    let mut bytes = Vec::new();
    for line in dump.lines() {
        let mut words = line.split('|').next().unwrap().split_whitespace();
        assert_eq!(usize::from_str_radix(words.next().unwrap(), 16).unwrap(), bytes.len(), "offset of {line}");
        bytes.extend(words.map(|word| u8::from_str_radix(word, 16).unwrap()));
    }
    assert_eq!(bytes, example_pack());
}
