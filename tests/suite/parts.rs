//! Neighbourhoods smaller than a residual unit, other inner changes, and widths block by block.

use std::path::Path;

use distill_core::{
    Activation, Batch, Block, BlockError, Device, DeviceBlock, Encoding, Op, Pack, PackWriter, Part, Parts, Purpose,
    Recipe, Settings, SourceKind, Statistics, Stream, Unchanged, Width, fold_batch_norms, replace_activations,
    without_layers,
};
use distill_host::{
    import::{ImportOptions, Split, import},
    network::Network,
};
use distill_tests::Task;

/// A network of bottlenecks, the first with a convolution in its shortcut.
fn bottlenecks(split: Split) -> Network {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/onnx/bottleneck-legacy-13.onnx");
    import(&path, &ImportOptions { split, ..ImportOptions::default() }).unwrap()
}

fn neighbourhood(network: &Network, number: usize) -> Block {
    network.neighbourhoods().nth(number).unwrap().1.clone()
}

/// Students of a network's neighbourhoods on standard noise, and their reports' errors.
fn distilled(network: &Network, settings: &Settings) -> (Vec<Block>, Vec<f64>) {
    let mut bytes = Vec::new();
    let mut writer = PackWriter::new(&mut bytes, &network.manifest, network.blocks.len()).unwrap();
    for (position, block) in network.blocks.iter().enumerate() {
        writer.add(position, block, Encoding::F32).unwrap();
    }
    writer.finish().unwrap();
    let task = Task { kind: SourceKind::Standard, settings: settings.clone() };
    let (reports, student) = task.run(&bytes).unwrap();
    let mut students = Pack::open(student.as_slice()).unwrap();
    let blocks = (0..students.blocks()).map(|index| students.block(index).unwrap()).collect();
    (blocks, reports.into_iter().map(|report| report.relative_error).collect())
}

/// Channels that the convolutions of a block write.
fn widths(block: &Block) -> Vec<usize> {
    let layers = block.nodes().iter().enumerate().filter(|(_, node)| node.op.is_layer());
    layers.map(|(index, _)| block.shape(index + 1).channels).collect()
}

fn settings() -> Settings {
    Settings::new(Width::new(0.5).unwrap(), 0)
}

#[test]
fn a_bottleneck_falls_into_parts_of_two_layers_and_of_one() {
    let parts = |split| bottlenecks(split).neighbourhoods().map(|(_, block)| block.parts().len()).collect::<Vec<_>>();
    assert_eq!(parts(Split::Unit), [0, 0]);
    // The shortcut's convolution is a layer, too.
    assert_eq!(parts(Split::Layer), [4, 3]);
    assert_eq!(parts(Split::Layers(2)), [2, 2]);
    assert_eq!(parts(Split::Layers(3)), [0, 0]);
    assert_eq!(bottlenecks(Split::Layers(5)).neighbourhoods().count(), 1);
}

#[test]
fn a_part_narrows_inside_its_own_boundary_only() {
    let whole = widths(&distilled(&bottlenecks(Split::Unit), &settings()).0[1]);
    let network = bottlenecks(Split::Layers(2));
    let teacher = widths(&neighbourhood(&network, 1));
    let (students, errors) = distilled(&network, &settings());
    // Of the two layers of a part only what lies between them; the second layer's output is the part's.
    assert_eq!(widths(&students[1]), [teacher[0] / 2, teacher[1], teacher[2]]);
    assert_eq!(whole, [teacher[0] / 2, teacher[1] / 2, teacher[2]]);
    assert!(errors.iter().all(|error| error.is_finite() && *error > 0.0));
    assert_eq!(students[1].parts().len(), 2);
}

#[test]
fn single_layers_have_nothing_to_narrow_and_stay_the_teachers() {
    let network = bottlenecks(Split::Layer);
    let (students, errors) = distilled(&network, &Settings::new(Width::new(0.5).unwrap(), 3));
    for (index, (student, error)) in students.iter().zip(errors).enumerate() {
        let folded = fold_batch_norms(&neighbourhood(&network, index)).unwrap();
        assert_eq!(*student, folded);
        assert_eq!(settings().recipe.unchanged(&folded).unwrap(), Some(Unchanged::SingleLayer));
        assert_eq!(error, 0.0);
    }
}

#[test]
fn parts_learn_from_what_the_teacher_feeds_them() {
    let trained = Settings::new(Width::new(0.5).unwrap(), 60);
    let network = bottlenecks(Split::Layers(2));
    let (solved, trained) = (distilled(&network, &settings()).1, distilled(&network, &trained).1);
    let pruned = Settings { recipe: Recipe { solve: false, ..settings().recipe }, ..settings() };
    let pruned = distilled(&network, &pruned).1;
    for block in 0..2 {
        assert!(solved[block] < pruned[block], "block {block}: {} and pruned {}", solved[block], pruned[block]);
        assert!(trained[block] < solved[block], "block {block}: {} and solved {}", trained[block], solved[block]);
    }
}

#[test]
fn what_is_no_neighbourhood_is_refused() {
    let block = neighbourhood(&bottlenecks(Split::Unit), 0);
    let last = block.nodes().len() as u8;
    let refused = |parts: &[[u8; 2]]| {
        let error = block.clone().with_parts(parts.iter().copied().map(Part::from).collect()).unwrap_err();
        assert!(matches!(error, BlockError::Part { .. }), "{parts:?}: {error}");
    };
    refused(&[[1, 1]]);
    refused(&[[2, 1]]);
    refused(&[[0, last + 1]]);
    refused(&[[1, last]]); // the shortcut reaches into it
    refused(&[[0, 3], [1, 2]]); // overlap
    block.clone().with_parts(Parts::from_iter([Part { from: 0, to: last }])).unwrap();
}

#[test]
fn widths_by_block_take_the_place_of_the_common_one() {
    let network = bottlenecks(Split::Unit);
    let name = neighbourhood(&network, 1).name().to_owned();
    let widths_of = |list| distilled(&network, &Settings { widths: list, ..settings() }).0;
    let (common, own) = (widths_of(vec![]), widths_of(vec![(name, Width::FULL)]));
    assert_eq!(widths(&own[0]), widths(&common[0]));
    assert_eq!(widths(&own[1]), widths(&neighbourhood(&network, 1)));
}

#[test]
fn other_activations_and_fewer_layers_keep_the_boundary() {
    let network = bottlenecks(Split::Unit);
    let block = fold_batch_norms(&neighbourhood(&network, 1)).unwrap();
    let swapped = replace_activations(&block, Activation::HardSwish).unwrap();
    let kinds: Vec<&Op> =
        swapped.nodes().iter().map(|node| &node.op).filter(|op| matches!(op, Op::Activation(_))).collect();
    let hard_swish = Op::Activation(Activation::HardSwish);
    assert_eq!(kinds, [&hard_swish, &hard_swish, &Op::RELU], "the output's stays");
    let shorter = without_layers(&block, 1).unwrap();
    assert_eq!(widths(&shorter).len(), widths(&block).len() - 1);
    assert_eq!((shorter.input(), shorter.output()), (block.input(), block.output()));
    assert_eq!(without_layers(&block, 9).unwrap(), shorter, "no other layer keeps its shape");
    // The last convolution is solved for what is gone.
    let recipe =
        Recipe { fewer_layers: 1, activation: Some(Activation::HardSwish), width: Width::FULL, ..settings().recipe };
    let errors = |solve| {
        let recipe = Recipe { images: 256, solve, ..recipe.clone() };
        distilled(&network, &Settings { recipe, ..settings() }).1
    };
    let (solved, pruned) = (errors(true), errors(false));
    assert!(solved[1] < 0.9 * pruned[1], "{} and {}", solved[1], pruned[1]);
    let images = Batch::from_values(&Stream::new(1, Purpose::Images, 0).images(2, shorter.input()), shorter.input());
    assert!(DeviceBlock::new(&shorter, &Device::Cpu).forward(&images, Statistics::Running).to_values()[0].is_finite());
}
