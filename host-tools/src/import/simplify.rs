//! Fewer operators for the same function: exporters write some of ours as several, and leave operators that nothing reads.

use std::collections::HashMap;

use anyhow::Result;
use distill_core::{Activation, AveragePool, Conv, Op, Pad, Slice, Weight};

use super::graph::{Graph, GraphNode};

/// The same function with fewer operators.
pub fn simplify(graph: Graph) -> Result<Graph> {
    let graph = without_repeated(without_identities(without_unread(graph)?)?)?;
    let readers = graph.readers();
    let mut simple = Graph::new(graph.shape(0));
    // Each old value's place in the new graph.
    let mut renamed = vec![0];
    for mut node in graph.into_nodes() {
        let is_only_reader = node.inputs.len() == 1 && readers[node.inputs[0]] == 1;
        node.inputs.iter_mut().for_each(|value| *value = renamed[*value]);
        // Only the last node can be replaced, and only if nothing else reads its value.
        let before = simple.nodes().last().filter(|_| is_only_reader && node.inputs[0] == simple.nodes().len());
        if let Some(merged) = before.and_then(|before| merged(&simple, before, &node)) {
            simple.pop();
            node = merged;
        } else if let Some((activation, value)) = gated(&simple, &node) {
            node = GraphNode { op: Op::Activation(activation), inputs: vec![value], ..node };
        }
        renamed.push(simple.push(&node.name, node.op, &node.inputs, node.weights)?);
    }
    without_unread(simple)
}

/// A convolution and the operator before it, the last of the graph, as one operator.
fn merged(graph: &Graph, before: &GraphNode, node: &GraphNode) -> Option<GraphNode> {
    let Op::Conv(conv) = &node.op else { return None };
    if is_affine(conv, &node.weights) {
        return scaled(before, &node.weights);
    }
    let padded = GraphNode { op: Op::Conv(padded(before, conv)?), inputs: before.inputs.clone(), ..node.clone() };
    graph.fits(&padded).then_some(padded)
}

/// Whether a convolution is `scale · x + shift` for each channel.
fn is_affine(conv: &Conv, weights: &[Weight]) -> bool {
    let dims: Vec<usize> = weights[0].dims.iter().map(|&extent| extent as usize).collect();
    let channels = usize::from(conv.groups);
    *conv == Conv::square(1, 0).grouped(conv.groups)
        && dims == [channels, 1, 1, 1]
        && weights.len() == 2
        && channels > 1
}

/// The layer `before`, with the affine map after it in its weights.
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

/// The convolution with the padding of the operator before it added to its own.
fn padded(before: &GraphNode, conv: &Conv) -> Option<Conv> {
    let Op::Pad(Pad { before: [0, top, left], after: [0, bottom, right] }) = before.op else { return None };
    let mut padding = conv.padding;
    for (own, more) in padding.iter_mut().zip([top, left, bottom, right]) {
        *own = own.checked_add(more)?;
    }
    Some(Conv { padding, ..*conv })
}

/// `x · sigmoid(x)` and `x · hardsigmoid(x)` are activations of `x`.
fn gated(graph: &Graph, node: &GraphNode) -> Option<(Activation, usize)> {
    let (Op::Mul, &[first, second]) = (&node.op, node.inputs.as_slice()) else { return None };
    let activation = |gate: usize, value: usize| {
        let node = graph.nodes().get(gate.checked_sub(1)?).filter(|node| node.inputs == [value])?;
        let is_sixth = |alpha: f32, beta: f32| (alpha - 1.0 / 6.0).abs() < 1e-6 && beta == 0.5;
        match node.op {
            Op::Activation(Activation::Sigmoid) => Some((Activation::Silu, value)),
            Op::Activation(Activation::HardSigmoid { alpha, beta }) if is_sixth(alpha, beta) => {
                Some((Activation::HardSwish, value))
            }
            _ => None,
        }
    };
    activation(second, first).or_else(|| activation(first, second))
}

/// Without the operators that are the identity.
fn without_identities(graph: Graph) -> Result<Graph> {
    let mut rest = Graph::new(graph.shape(0));
    let mut renamed = vec![0];
    for node in graph.into_nodes() {
        let inputs: Vec<usize> = node.inputs.iter().map(|&value| renamed[value]).collect();
        let is_identity = match &node.op {
            Op::AveragePool(AveragePool { window, .. }) => {
                (window.kernel, window.stride, window.padding) == ([1; 2], [1; 2], [0; 4])
            }
            Op::Slice(slice) => *slice == Slice::ALL,
            Op::Pad(pad) => (pad.before, pad.after) == ([0; 3], [0; 3]),
            _ => false,
        };
        renamed.push(if is_identity { inputs[0] } else { rest.push(&node.name, node.op, &inputs, node.weights)? });
    }
    Ok(rest)
}

/// Without the operators that compute a value once more, such as the concatenations of a dense block, each of which begins
/// like the one before: sharing them, a single value leads from each layer to the next.
fn without_repeated(graph: Graph) -> Result<Graph> {
    let mut rest = Graph::new(graph.shape(0));
    let mut renamed = vec![0];
    // The operators that read the same values.
    let mut readers: HashMap<Vec<usize>, Vec<usize>> = HashMap::new();
    let last = graph.nodes().len();
    for node in graph.into_nodes() {
        let inputs: Vec<usize> = node.inputs.iter().map(|&value| renamed[value]).collect();
        let is_last = renamed.len() == last;
        let is_same = |other: &GraphNode| other.weights.is_empty() && other.op == node.op && other.inputs == inputs;
        let same = readers.get(&inputs).and_then(|nodes| nodes.iter().copied().find(|&at| is_same(&rest.nodes()[at])));
        renamed.push(match same.filter(|_| node.weights.is_empty() && !is_last) {
            Some(same) => same + 1,
            None => {
                readers.entry(inputs.clone()).or_default().push(rest.nodes().len());
                rest.push(&node.name, node.op, &inputs, node.weights)?
            }
        });
    }
    Ok(rest)
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
        let inputs: Vec<usize> = node.inputs.iter().map(|&value| renamed[value]).collect();
        let is_wanted = wanted[index + 1];
        renamed.push(if is_wanted { read.push(&node.name, node.op, &inputs, node.weights)? } else { usize::MAX });
    }
    Ok(read)
}
