//! What exporters write in several operators, as one; and what nothing reads, gone.

use anyhow::Result;
use distill_core::{Activation, AveragePool, Conv, Op, Pad, Slice, Weight};

use super::graph::{Graph, GraphNode};

/// The same function with fewer operators.
///
/// # Errors
/// Only a defect of this file.
pub fn simplify(graph: Graph) -> Result<Graph> {
    let graph = without_idle(without_unread(graph)?)?;
    let readers = graph.readers();
    let mut simple = Graph::new(graph.shape(0));
    // Where each value of the old graph is in the new one.
    let mut renamed = vec![0];
    for node in graph.into_nodes() {
        let GraphNode { name, op, mut inputs, weights } = node;
        let alone = inputs.len() == 1 && readers[inputs[0]] == 1;
        inputs.iter_mut().for_each(|value| *value = renamed[*value]);
        let before = inputs.first().and_then(|&value| value.checked_sub(1)).map(|node| &simple.nodes()[node]);
        // The value of the node before, which nothing else reads, is the last one: it can be taken back.
        let last = alone && inputs[0] == simple.nodes().len();
        let replaced = match (before.filter(|_| last), &op) {
            (Some(before), Op::Conv(conv)) if is_affine(conv, &weights) => scaled(before, &weights),
            (Some(before), Op::Conv(conv)) => padded(before, conv)
                .map(|(conv, inputs)| GraphNode {
                    name: name.clone(),
                    op: Op::Conv(conv),
                    inputs,
                    weights: weights.clone(),
                })
                .filter(|node| simple.fits(node)),
            _ => None,
        };
        if let Some(node) = replaced {
            simple.pop();
            renamed.push(simple.push(&node.name, node.op, &node.inputs, node.weights)?);
            continue;
        }
        if let Some((activation, value)) = gated(&simple, &op, &inputs) {
            renamed.push(simple.push(&name, Op::Activation(activation), &[value], weights)?);
            continue;
        }
        renamed.push(simple.push(&name, op, &inputs, weights)?);
    }
    without_unread(simple)
}

/// `scale · x + shift` for each channel.
fn is_affine(conv: &Conv, weights: &[Weight]) -> bool {
    let dims: Vec<usize> = weights[0].dims.iter().map(|&extent| extent as usize).collect();
    let channels = usize::from(conv.groups);
    *conv == Conv::square(1, 0).grouped(conv.groups)
        && dims == [channels, 1, 1, 1]
        && weights.len() == 2
        && channels > 1
}

/// The layer `before` with an affine map of its channels in its weights.
fn scaled(before: &GraphNode, affine: &[Weight]) -> Option<GraphNode> {
    if !before.op.is_layer() {
        return None;
    }
    let (scale, shift) = (&affine[0].data, &affine[1].data);
    let mut weights = before.weights.clone();
    let per_channel = weights[0].data.len() / scale.len();
    for (row, scale) in weights[0].data.chunks_exact_mut(per_channel).zip(scale) {
        row.iter_mut().for_each(|weight| *weight *= scale);
    }
    if weights.len() == 1 {
        weights.push(Weight::new(format!("{}.bias", before.name), &[scale.len()], vec![0.0; scale.len()]));
    }
    let terms = scale.iter().zip(shift);
    weights[1].data.iter_mut().zip(terms).for_each(|(bias, (scale, shift))| *bias = *bias * scale + shift);
    Some(GraphNode { weights, ..before.clone() })
}

/// A convolution that pads by itself what the operator before it padded.
fn padded(before: &GraphNode, conv: &Conv) -> Option<(Conv, Vec<usize>)> {
    let Op::Pad(Pad { before: [0, top, left], after: [0, bottom, right] }) = before.op else { return None };
    let sum = |own: u16, more: u16| own.checked_add(more);
    let [a, b, c, d] = conv.padding;
    let padding = [sum(a, top)?, sum(b, left)?, sum(c, bottom)?, sum(d, right)?];
    Some((Conv { padding, ..*conv }, before.inputs.clone()))
}

/// `x · sigmoid(x)` and `x · hardsigmoid(x)` are activations of `x`.
fn gated(graph: &Graph, op: &Op, inputs: &[usize]) -> Option<(Activation, usize)> {
    let (Op::Mul, &[first, second]) = (op, inputs) else { return None };
    let of = |gate: usize, value: usize| {
        let node = graph.nodes().get(gate.checked_sub(1)?).filter(|node| node.inputs == [value])?;
        let sixth = |alpha: f32, beta: f32| (alpha - 1.0 / 6.0).abs() < 1e-6 && beta == 0.5;
        match node.op {
            Op::Activation(Activation::Sigmoid) => Some((Activation::Silu, value)),
            Op::Activation(Activation::HardSigmoid { alpha, beta }) if sixth(alpha, beta) => {
                Some((Activation::HardSwish, value))
            }
            _ => None,
        }
    };
    of(second, first).or_else(|| of(first, second))
}

/// Without the operators that change nothing.
fn without_idle(graph: Graph) -> Result<Graph> {
    let mut busy = Graph::new(graph.shape(0));
    let mut renamed = vec![0];
    for node in graph.into_nodes() {
        let inputs: Vec<usize> = node.inputs.iter().map(|&value| renamed[value]).collect();
        let idle = match &node.op {
            Op::AveragePool(AveragePool { window, .. }) => {
                (window.kernel, window.stride, window.padding) == ([1; 2], [1; 2], [0; 4])
            }
            Op::Slice(slice) => *slice == Slice::ALL,
            Op::Pad(pad) => (pad.before, pad.after) == ([0; 3], [0; 3]),
            _ => false,
        };
        renamed.push(if idle { inputs[0] } else { busy.push(&node.name, node.op, &inputs, node.weights)? });
    }
    Ok(busy)
}

/// Without the operators whose value nothing reads.
fn without_unread(graph: Graph) -> Result<Graph> {
    let mut wanted = vec![false; graph.nodes().len() + 1];
    wanted[graph.nodes().len()] = true;
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        if wanted[index + 1] {
            node.inputs.iter().for_each(|&value| wanted[value] = true);
        }
    }
    let mut read = Graph::new(graph.shape(0));
    let mut renamed = vec![0];
    for (index, node) in graph.into_nodes().into_iter().enumerate() {
        if !wanted[index + 1] {
            renamed.push(usize::MAX);
            continue;
        }
        let inputs: Vec<usize> = node.inputs.iter().map(|&value| renamed[value]).collect();
        renamed.push(read.push(&node.name, node.op, &inputs, node.weights)?);
    }
    Ok(read)
}
