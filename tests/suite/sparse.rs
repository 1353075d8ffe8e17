//! Sparse students: which weights go, that they stay away through everything after it, and that files get smaller.

use std::{collections::BTreeMap, fs};

use distill_core::{Block, Encoding, Op, Weight, fold_batch_norms};
use distill_host::{
    import::{ImportOptions, import},
    network::Network,
};

use super::desk::{Desk, failed};

/// The kernels of the convolutions in some blocks of the built-in ResNet-20 (a stem comes before them).
fn kernels(blocks: &[Block]) -> Vec<Weight> {
    let of_block = |block: &Block| -> Vec<Weight> {
        let convolutions = (0..block.nodes().len()).filter(|&node| matches!(block.nodes()[node].op, Op::Conv(_)));
        convolutions.filter_map(|node| block.weight(node, 0).cloned()).collect()
    };
    blocks.iter().flat_map(of_block).collect()
}

/// Which weights are zero.
fn zeros(network: &Network) -> Vec<Vec<bool>> {
    let is_zero = |kernel: &Weight| kernel.data.iter().map(|value| *value == 0.0).collect();
    kernels(&network.blocks[1..4]).iter().map(is_zero).collect()
}

fn share(zeros: &[Vec<bool>]) -> f64 {
    let (all, zero) =
        zeros.iter().flatten().fold((0, 0), |(all, zero), is_zero| (all + 1, zero + usize::from(*is_zero)));
    zero as f64 / f64::from(all)
}

const RUN: &str = "distill run teacher.ndp -o blocks.ndp --width 1 --images 64 --projections 0 --blocks 0-2";

#[test]
fn zeros_stay_through_everything_and_make_packs_small() {
    let desk = Desk::new();
    let read = |name: &str| match name.ends_with(".ndp") {
        true => Network::read_pack(&desk.path(name)).unwrap(),
        false => import(&desk.path(name), &ImportOptions::default()).unwrap(),
    };
    let size = |name: &str| fs::metadata(desk.path(name)).unwrap().len() as f64;
    desk.json("distill run teacher.ndp -o dense.ndp --width 1 --images 64 --blocks 0-2 --noise standard");
    // Bitmap and values: 0.2 + 1/32 and 0.1 + 1/32 of the dense weights, beside the rest of a pack.
    for (sparsity, most) in [(0.9, 0.15), (0.8, 0.26)] {
        desk.json(&format!("{RUN} --sparsity {sparsity} --fresh"));
        let ratio = (size("blocks.ndp") - 3000.0) / (size("dense.ndp") - 3000.0);
        assert!(ratio <= most, "{ratio} of the dense pack at {sparsity}");
    }
    desk.json("distill recompose teacher.ndp blocks.ndp -o student.ndp");
    let expected = zeros(&read("student.ndp"));
    // Each kernel on its own, to the nearest weight.
    for zeros in &expected {
        assert!((share(std::slice::from_ref(zeros)) - 0.8).abs() < 0.5 / zeros.len() as f64 + 1e-6);
    }
    for name in ["student.onnx", "student.safetensors"] {
        desk.json(&format!("distill recompose teacher.ndp blocks.ndp -o {name}"));
        assert!(zeros(&read(name)) == expected, "{name}");
    }
    // A fine-tune of what was exported, too; its blocks are other ones to the teacher.
    for (student, more) in [("student.ndp", ""), ("student.onnx", " --features 0")] {
        desk.json(&format!(
            "distill finetune teacher.ndp {student} -o tuned.ndp --noise standard --steps 3 --batch 8 --rate 1e-4{more}"
        ));
        assert!(zeros(&read("tuned.ndp")) == expected, "{student}");
    }
    // In half precision as well.
    read("student.ndp").write_pack(&desk.path("half.ndp"), Encoding::F16).unwrap();
    assert!(zeros(&read("half.ndp")) == expected);
    assert!(size("half.ndp") < 0.7 * size("student.ndp"));
}

#[test]
fn gradient_steps_and_a_width_keep_the_zeros_of_a_solve() {
    let desk = Desk::new();
    let student = |more: &str| {
        desk.json(&format!("{} --fresh {more}", RUN.replace("--width 1", "--width 0.5")));
        desk.json("distill recompose teacher.ndp blocks.ndp -o student.ndp");
        Network::read_pack(&desk.path("student.ndp")).unwrap()
    };
    let (solved, trained) = (student("--sparsity 50%"), student("--sparsity 50% --steps 3 --batch 8"));
    let (before, after) = (zeros(&solved), zeros(&trained));
    assert!((share(&before) - 0.5).abs() < 0.01 && before == after);
    assert!(kernels(&solved.blocks[1..4]) != kernels(&trained.blocks[1..4]), "nothing was trained");
}

#[test]
fn projections_fit_sparse_layers_together() {
    let desk = Desk::new();
    let student = |projections: usize| {
        let run = RUN.replace("--projections 0", &format!("--projections {projections}"));
        let run = desk.json(&format!("{run} --sparsity 0.8 --noise standard --fresh"));
        desk.json("distill recompose teacher.ndp blocks.ndp -o student.ndp");
        let errors = run["blocks"].as_array().unwrap().iter().map(|block| block["relative_error"].as_f64().unwrap());
        (zeros(&Network::read_pack(&desk.path("student.ndp")).unwrap()), errors.collect::<Vec<_>>())
    };
    let ((cut, before), (projected, after)) = (student(0), student(4));
    assert!(cut == projected);
    assert!(before.iter().zip(&after).all(|(before, after)| after < before), "{before:?} and {after:?}");
}

#[test]
fn without_a_solve_the_smallest_weights_go_in_the_course_of_the_steps() {
    let desk = Desk::new();
    let student = |more: &str| {
        desk.json(&format!("{RUN} --noise standard --no-solve --fresh {more}"));
        desk.json("distill recompose teacher.ndp blocks.ndp -o student.ndp");
        Network::read_pack(&desk.path("student.ndp")).unwrap()
    };
    let teacher = Network::read_pack(&desk.path("teacher.ndp")).unwrap();
    let folded: Vec<Block> = teacher.blocks.iter().map(|block| fold_batch_norms(block).unwrap()).collect();
    for (kernel, whole) in kernels(&student("--sparsity 0.75").blocks[1..4]).iter().zip(kernels(&folded[1..4])) {
        let size = |gone: bool| {
            let here = kernel.data.iter().zip(&whole.data).filter(move |(now, _)| (**now == 0.0) == gone);
            here.map(|(_, before)| before.abs())
        };
        assert!(size(true).fold(0.0, f32::max) <= size(false).fold(f32::INFINITY, f32::min), "{}", kernel.name);
        assert_eq!(size(true).count(), kernel.data.len() * 3 / 4, "{}", kernel.name);
        assert!(kernel.data.iter().zip(&whole.data).all(|(now, before)| *now == 0.0 || now == before));
    }
    for optimizer in ["adam", "sgd --rate 1e-4"] {
        let student = student(&format!("--sparsity 0.75 --steps 8 --batch 8 --optimizer {optimizer}"));
        assert!((share(&zeros(&student)) - 0.75).abs() < 1e-3, "{optimizer}: {}", share(&zeros(&student)));
    }
}

#[test]
fn single_layers_have_their_own_sparsity() {
    let desk = Desk::new();
    let teacher = desk.json("distill inspect teacher.ndp");
    let name =
        |block: usize, kernel: usize| teacher["blocks"][block]["kernels"][kernel]["name"].as_str().unwrap().to_owned();
    let of = |list: &[(String, f32)]| {
        fs::write(
            desk.path("sparsities.json"),
            serde_json::to_string(&list.iter().cloned().collect::<BTreeMap<_, _>>()).unwrap(),
        )
        .unwrap();
    };
    of(&[(name(1, 0), 0.0), (name(2, 1), 0.9)]);
    for solve in ["", " --no-solve"] {
        desk.json(&format!("{RUN} --sparsity 0.5 --sparsities sparsities.json --fresh{solve}"));
        desk.json("distill recompose teacher.ndp blocks.ndp -o student.ndp");
        let zeros = zeros(&Network::read_pack(&desk.path("student.ndp")).unwrap());
        for (place, wanted) in [0.0, 0.5, 0.5, 0.9].into_iter().enumerate() {
            let share = share(std::slice::from_ref(&zeros[place]));
            assert!((share - wanted).abs() < 0.001, "{place}: {share}{solve}");
        }
    }
    // Another list is another job.
    of(&[(name(1, 0), 0.1)]);
    desk.json(&format!("{RUN} --sparsities sparsities.json"));
    let blocks = Network::read_pack(&desk.path("teacher.ndp")).unwrap().blocks.len();
    assert!(blocks > 4);
    for (wrong, why) in [((name(1, 0), 1.0), "below 1"), (("layer9".to_owned(), 0.5), "layer9, which is no kernel")] {
        of(&[wrong]);
        let error =
            desk.failure("distill run teacher.ndp -o other.ndp --width 1 --images 64 --sparsities sparsities.json", 1);
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn shares_are_allocated_where_the_output_suffers_least() {
    let desk = Desk::new();
    Network::new(distill_tests::manifest(), distill_tests::teacher())
        .unwrap()
        .write_pack(&desk.path("small.ndp"), Encoding::F32)
        .unwrap();
    let allocate = "distill allocate noisy.ndp --images 64";
    let refused = desk.failure("distill allocate small.ndp --sparsity 0.5 -o shares.json", 1);
    assert!(refused.contains("distill calibrate small.ndp"), "{refused}");
    desk.json("distill calibrate small.ndp -o noisy.ndp --images 192 --batch 64 --steps 4");
    for (wrong, why) in
        [("0", "removes nothing"), ("0.99", "lower --sparsity"), ("0.5 --pattern 2:4", "same in every layer")]
    {
        let error = desk.failure(&format!("{allocate} -o shares.json --sparsity {wrong}"), 1);
        assert!(error.contains(why), "{wrong}: {error}");
    }
    let allocated = desk.json(&format!("{allocate} -o shares.json --sparsity 0.6"));
    let layers = allocated["layers"].as_array().unwrap();
    let shares: Vec<f64> = layers.iter().map(|layer| layer["share"].as_f64().unwrap()).collect();
    let least = shares.iter().copied().fold(1.0, f64::min);
    assert!((allocated["sparsity"].as_f64().unwrap() - 0.6).abs() < 1e-6 && least < 0.59, "{allocated}");
    desk.json("distill run noisy.ndp -o blocks.ndp --width 1 --images 64 --projections 0 --sparsities shares.json");
    desk.json("distill recompose noisy.ndp blocks.ndp -o student.ndp");
    let blocks = desk.json("distill inspect student.ndp")["blocks"].clone();
    for layer in layers {
        let mut all = blocks.as_array().unwrap().iter().flat_map(|block| block["kernels"].as_array().unwrap());
        let kernel = all.find(|kernel| kernel["name"] == layer["name"]).unwrap();
        let expected = layer["share"].as_f64().unwrap() * layer["weights"].as_f64().unwrap();
        assert!((kernel["zeros"].as_f64().unwrap() - expected).abs() < 1.0, "{kernel} of {layer}");
    }
}

#[test]
fn a_pattern_holds_everywhere() {
    let desk = Desk::new();
    let kernels = |more: &str| {
        desk.json(&format!("{RUN} --fresh {more}"));
        desk.json("distill recompose teacher.ndp blocks.ndp -o student.ndp");
        kernels(&Network::read_pack(&desk.path("student.ndp")).unwrap().blocks[1..4])
    };
    for kernel in kernels("--pattern 2:4") {
        let taps: usize = kernel.dims[2..].iter().map(|&extent| extent as usize).product();
        for group in kernel.data.chunks(4 * taps) {
            for tap in 0..taps {
                let there = group.iter().skip(tap).step_by(taps).filter(|value| **value != 0.0).count();
                assert_eq!(there, 2, "{}", kernel.name);
            }
        }
    }
    for kernel in kernels("--sparsity 0.5 --pattern kernels") {
        let taps: usize = kernel.dims[2..].iter().map(|&extent| extent as usize).product();
        let whole =
            |kernel: &[f32]| kernel.iter().all(|value| *value == 0.0) || kernel.iter().all(|value| *value != 0.0);
        assert!(kernel.data.chunks(taps).all(whole), "{}", kernel.name);
    }
}

#[test]
fn what_is_no_sparsity_is_refused() {
    let desk = Desk::new();
    for (wrong, why) in [
        ("--sparsity 1", "at least 0 and below 1"),
        ("--sparsity 0", "removes nothing"),
        ("--sparsity 0.5 --pattern 2:4", "says the sparsity itself"),
        ("--pattern 4:4", "from 1 to M - 1"),
        ("--pattern 0:4", "from 1 to M - 1"),
        ("--pattern kernels", "say how much goes with --sparsity"),
        ("--sparsity 0.5 --no-solve --steps 2 --stop", "early stop"),
    ] {
        let error = desk.failure(&format!("{RUN} {wrong}"), 1);
        assert!(error.contains(why), "{wrong}: {error}");
    }
    for wrong in ["--pattern half", "--pattern 2:x"] {
        failed(&desk.run(&format!("{RUN} {wrong}")), wrong, 2);
    }
}
