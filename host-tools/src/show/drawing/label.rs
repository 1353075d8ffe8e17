//! Short descriptions of operators.

use distill_core::{Activation, Block, Op, Pad, Slice, Window};

use distill_device::sparse;

const AXES: [&str; 3] = ["channels", "rows", "columns"];

/// A description such as `conv 3x3 /2, 96 groups` of operator `index`.
pub(super) fn kind(block: &Block, index: usize) -> String {
    match &block.nodes()[index].op {
        Op::Conv(conv) => {
            let dims = block.weight(index, 0).map_or(&[] as &[u32], |kernel| &kernel.dims);
            let taps: Vec<String> = dims.iter().skip(2).map(u32::to_string).collect();
            let dilation =
                if conv.dilation == [1; 2] { String::new() } else { format!(", dilated{}", pair(conv.dilation)) };
            let groups = if conv.groups == 1 { String::new() } else { format!(", {} groups", conv.groups) };
            format!("conv {}{}{dilation}{groups}{}", taps.join("x"), step(conv.stride), sparsity(block, index))
        }
        Op::Linear => format!("linear{}", sparsity(block, index)),
        Op::BatchNorm(_) => "batch norm".into(),
        Op::Activation(activation) => function(*activation),
        Op::Add => "add".into(),
        Op::Mul => "mul".into(),
        Op::Concat => "concat".into(),
        Op::MaxPool(pool) => format!("max pool {}", window(&pool.window)),
        Op::AveragePool(pool) => format!("average pool {}", window(&pool.window)),
        Op::GlobalAveragePool => "global average pool".into(),
        Op::Slice(slice) => format!("slice {}", places(slice)),
        Op::Pad(pad) => format!("pad {}", zeros(pad)),
        Op::Flatten => "flatten".into(),
    }
}

/// `, 80 % zero`, or nothing for a dense kernel.
fn sparsity(block: &Block, index: usize) -> String {
    let kernel = block.weight(index, 0);
    let share = kernel.and_then(|kernel| sparse(kernel.zeros(), kernel.data.len()));
    share.map_or_else(String::new, |share| format!(", {share}"))
}

fn function(activation: Activation) -> String {
    match activation {
        Activation::Relu => "relu".into(),
        Activation::Clip { low, high } => format!("clip {low}..{high}"),
        Activation::Sigmoid => "sigmoid".into(),
        Activation::Silu => "silu".into(),
        Activation::HardSigmoid { .. } => "hard sigmoid".into(),
        Activation::HardSwish => "hard swish".into(),
        Activation::LeakyRelu { slope } => format!("leaky relu {slope}"),
    }
}

fn window(window: &Window) -> String {
    let [rows, columns] = window.kernel;
    format!("{rows}x{columns}{}", step(window.stride))
}

/// ` /2`, or nothing for 1.
fn step(stride: [u16; 2]) -> String {
    if stride == [1; 2] { String::new() } else { format!(" /{}", pair(stride).trim_start()) }
}

/// ` 2`, or ` 2x1` where rows and columns differ.
fn pair([rows, columns]: [u16; 2]) -> String {
    if rows == columns { format!(" {rows}") } else { format!(" {rows}x{columns}") }
}

/// `/2` for every second row and column, else each axis that is cut: `channels 0..48`.
fn places(slice: &Slice) -> String {
    let Slice { start, end, step } = slice;
    if *slice == Slice::strided(step[1]) {
        return format!("/{}", step[1]);
    }
    let cut = |axis: &usize| (start[*axis], end[*axis], step[*axis]) != (0, u32::MAX, 1);
    let text = |axis: usize| {
        let end = if end[axis] == u32::MAX { String::new() } else { end[axis].to_string() };
        let step = if step[axis] == 1 { String::new() } else { format!(" /{}", step[axis]) };
        format!("{} {}..{end}{step}", AXES[axis], start[axis])
    };
    (0..3).filter(cut).map(text).collect::<Vec<_>>().join(", ")
}

/// Each axis that is padded: `channels 8+8`.
fn zeros(Pad { before, after }: &Pad) -> String {
    let grows = |axis: &usize| (before[*axis], after[*axis]) != (0, 0);
    let text = |axis: usize| format!("{} {}+{}", AXES[axis], before[axis], after[axis]);
    (0..3).filter(grows).map(text).collect::<Vec<_>>().join(", ")
}
