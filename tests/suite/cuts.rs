//! Where networks of every kind are cut, and what a width changes in their blocks (`fixtures/make_onnx_cuts.py`).

use std::path::Path;

use distill_core::{
    Block, BlockBuilder, Encoding, Op, PlanError, Purpose, Role, RunError, Settings, Shape, SourceKind, Stream,
    Unchanged, Width, fold_batch_norms, inner_channels, solvable,
};
use distill_host::{
    import::{ImportOptions, Split, import},
    network::Network,
    show::SizeTable,
};
use distill_tests::{Task, gaussian, pack, residual, teacher};

fn network(kind: &str, split: Split) -> Network {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/onnx/cut-{kind}.onnx"));
    import(&path, &ImportOptions { split, ..ImportOptions::default() }).unwrap()
}

fn half() -> Settings {
    Settings::new(Width::new(0.5).unwrap(), 0)
}

/// Asserts the inner channels of each block, and whether a head follows them.
fn check(kind: &str, inner: &[&[usize]], head: bool) {
    let network = network(kind, Split::Unit);
    let found: Vec<Vec<usize>> = network.neighbourhoods().map(|(_, block)| inner_channels(block)).collect();
    assert_eq!(found, inner, "{kind}");
    assert_eq!(network.blocks.last().unwrap().role() == Role::Head, head, "{kind}");
    let student = network.student(&half()).unwrap();
    assert!(10 * student.parameters() < 9 * network.parameters(), "{kind}: {} parameters", student.parameters());
}

#[test]
fn gates_are_no_head() {
    check("gates", &[&[8, 2, 8], &[8, 2, 8]], true);
}

#[test]
fn every_layer_of_a_dense_block_is_a_block() {
    check("dense", &[[4].as_slice(); 8], true);
}

#[test]
fn fire_modules_and_whole_groups_shrink() {
    check("fire", &[&[4], &[4]], true);
    check("groups", &[&[16], &[12, 2]], true);
}

#[test]
fn fully_connected_layers_are_a_block_and_the_last_is_solved() {
    check("connected", &[&[4], &[12, 8]], false);
    let network = network("connected", Split::Unit);
    let teacher = fold_batch_norms(network.blocks.last().unwrap()).unwrap();
    let student = half().recipe.student(&teacher).unwrap();
    let solved = solvable(&student, &teacher).unwrap();
    assert_eq!(student.nodes()[solved.student].op, Op::Linear);
    assert_eq!(solved.student, student.nodes().len() - 1);
}

#[test]
fn a_solve_improves_fully_connected_layers() {
    let network = network("connected", Split::Unit);
    let bytes = pack(&network.blocks, Encoding::F32);
    let error = |solve| {
        let task = Task::new(SourceKind::Propagated, |settings| {
            (settings.recipe.images, settings.recipe.solve) = (256, solve);
        });
        task.run(&bytes).unwrap().0[1].relative_error
    };
    let (solved, pruned) = (error(true), error(false));
    assert!(solved < 0.9 * pruned, "{solved} and {pruned}");
}

#[test]
fn propagated_noise_needs_no_statistics_in_the_last_block_only() {
    let network = network("connected", Split::Unit);
    let (_, first) = network.neighbourhoods().next().unwrap();
    let mut blocks = network.blocks.clone();
    blocks[1] = fold_batch_norms(first).unwrap();
    let error = Task::new(SourceKind::Propagated, |_| {}).run(&pack(&blocks, Encoding::F32)).unwrap_err();
    assert!(matches!(error, RunError::Plan(PlanError::NoStatistics { .. })), "{error:?}");
}

#[test]
fn a_gate_is_solved_only_where_nothing_else_is() {
    // After a residual branch, as in SE-ResNet: the convolution before the gate is solved, not the gate's.
    let stream = &mut Stream::new(4, Purpose::Images, 0);
    let mut builder = BlockBuilder::new("gated", Role::Neighbourhood, Shape::new(4, 4, 4));
    let mut push = |name: &str, op: Op, inputs: &[u8], dims: [usize; 4]| {
        let weights = vec![gaussian(stream, name, &dims), gaussian(stream, &format!("{name}.bias"), &dims[..1])];
        builder.push(name, op.clone(), inputs, if op.is_layer() { weights } else { vec![] }).unwrap()
    };
    let pointwise = Op::Conv(distill_core::Conv::square(1, 0));
    let x = push("first", pointwise.clone(), &[0], [8, 4, 1, 1]);
    let x = push("second", pointwise.clone(), &[x], [4, 8, 1, 1]);
    let mean = push("mean", Op::GlobalAveragePool, &[x], [1; 4]);
    let down = push("down", pointwise.clone(), &[mean], [2, 4, 1, 1]);
    let up = push("up", pointwise, &[down], [4, 2, 1, 1]);
    push("gated", Op::Mul, &[x, up], [1; 4]);
    let block = builder.finish().unwrap();
    let student = half().recipe.student(&block).unwrap();
    assert_eq!(student.nodes()[solvable(&student, &block).unwrap().student].name, "second");
}

#[test]
fn a_network_without_two_layers_in_a_row_has_no_blocks() {
    assert_eq!(network("single", Split::Unit).neighbourhoods().count(), 0);
    let network = network("single", Split::Layer);
    let table = SizeTable::new(&network, &half()).unwrap();
    assert_eq!(table.blocks[1].unchanged, Some(Unchanged::SingleLayer));
    assert_eq!(table.student.bytes, table.teacher.bytes);
}

#[test]
fn sizes_are_those_of_the_students_that_a_run_makes() {
    let stream = &mut Stream::new(4, Purpose::Images, 0);
    let [stem, _, _, _, head]: [Block; 5] = teacher().try_into().unwrap();
    let block = residual(stream, "block", stem.output(), 8);
    let network = Network::new(distill_tests::manifest(), vec![stem, block, head]).unwrap();
    let table = SizeTable::new(&network, &half()).unwrap();
    let (reports, _) = Task::new(SourceKind::Standard, |_| {}).run(&pack(&network.blocks, Encoding::F32)).unwrap();
    let line = &table.blocks[1];
    assert_eq!(line.index, Some(0));
    assert_eq!(
        (line.teacher.parameters, line.student.parameters),
        (reports[0].teacher_parameters, reports[0].parameters)
    );
    assert_eq!((line.teacher.macs, line.student.macs), (reports[0].teacher_macs, reports[0].macs));
    assert_eq!(table.student.parameters, network.student(&half()).unwrap().parameters());
    assert!(table.teacher.milliseconds > 0.0 && line.student.milliseconds > 0.0);
    let unknown = Settings { widths: vec![("blok".into(), Width::FULL)], ..half() };
    assert!(SizeTable::new(&network, &unknown).unwrap_err().to_string().contains("blok"));
    assert!(SizeTable::new(&network, &Settings { blocks: vec![1], ..half() }).is_err());
}
