//! A network's graph, cut into blocks: stem, neighbourhoods, head.
//!
//! The network can be cut where only one value is still read: every path leads through it. Between two cuts is either one
//! operator of a chain, or everything from a value that is read twice to where its branches join. [`Split`] says how many of
//! these pieces make a block. Neighbourhoods smaller than a residual unit are parts of its block: some layers of a branch.
//!
//! The head begins at the last layer that cannot shrink. Fully connected layers before it are cut like a chain.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    ops::Range,
    str::FromStr,
};

use anyhow::{Context, Result, bail, ensure};
use distill_core::{Block, BlockBuilder, MAX_NODES, Op, Part, Parts, Role};

use super::graph::{Graph, GraphNode};

/// Layers after which a unit ends in a chain where nothing else ends it.
const CHAIN_LAYERS: usize = 3;

/// How large a neighbourhood is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// A residual unit; in a chain two or three layers, ended by a pool or a convolution without an activation.
    #[default]
    Unit,
    /// One layer.
    Layer,
    /// This many layers in a row: whole residual units, or parts of a unit that has more.
    Layers(usize),
}

impl FromStr for Split {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("unit", _) => Ok(Self::Unit),
            ("layer", _) => Ok(Self::Layer),
            (_, Ok(layers)) if layers > 0 => Ok(Self::Layers(layers)),
            _ => Err(format!("{text} is neither unit, layer nor a number of layers")),
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit => f.write_str("unit"),
            Self::Layer => f.write_str("layer"),
            Self::Layers(layers) => write!(f, "{layers}"),
        }
    }
}

/// The blocks of a network, in order.
///
/// # Errors
/// A block would have more operators than it can hold.
pub fn split(graph: &Graph, split: Split) -> Result<Vec<Block>> {
    let pieces = pieces(graph);
    ensure!(!pieces.is_empty(), "the network has no operators");
    // Rows and columns end here; a gate's are still read after it.
    let ends = |op: &Op| matches!(op, Op::GlobalAveragePool | Op::Flatten | Op::Linear);
    let ends_images = |piece: &Piece| piece.nodes.len() == 1 && ends(&graph.nodes()[piece.nodes.start].op);
    let vectors = pieces.iter().position(ends_images).unwrap_or(pieces.len());
    let first_layer = pieces.iter().position(|piece| piece.layers > 0);
    let stem_layer = first_layer.filter(|&first| !pieces[first].branches && first < vectors);
    let stem_end = stem_layer.map_or(0, |layer| after_trailing(&pieces, layer + 1).min(vectors));
    let mut units = units(&pieces, stem_end..vectors, split);
    let mut head = without_single_layer(&pieces, &mut units, split).unwrap_or(vectors);
    if split != Split::Layer && layers(&pieces[vectors..]) > 1 {
        units.extend(self::units(&pieces, head..pieces.len(), split));
        head = without_single_layer(&pieces, &mut units, split).unwrap_or(pieces.len());
    }
    let nodes = |range: Range<usize>| pieces[range.start].nodes.start..pieces[range.end - 1].nodes.end;
    let mut names = Names::new(graph);
    let mut blocks = Vec::new();
    if stem_end > 0 {
        blocks.push(block(graph, &pieces[..stem_end], Role::Stem, "stem")?);
    }
    for unit in units {
        let name = names.of(&graph.nodes()[nodes(unit.clone())]);
        let block = block(graph, &pieces[unit], Role::Neighbourhood, &name)?;
        let parts = match split {
            Split::Unit => Parts::new(),
            Split::Layer => parts(&block, 1),
            Split::Layers(layers) => parts(&block, layers),
        };
        blocks.push(block.with_parts(parts).with_context(|| format!("block {name}"))?);
    }
    if head < pieces.len() {
        blocks.push(block(graph, &pieces[head..], Role::Head, "head")?);
    }
    Ok(blocks)
}

/// Takes a last unit of a single layer away, which has no inner channels to shrink; returns its first piece.
fn without_single_layer(pieces: &[Piece], units: &mut Vec<Range<usize>>, split: Split) -> Option<usize> {
    let last = &pieces[units.last().filter(|_| split == Split::Unit)?.clone()];
    let is_single = layers(last) < 2 && last.iter().all(|piece| !piece.branches);
    units.pop_if(|_| is_single).map(|last| last.start)
}

fn layers(pieces: &[Piece]) -> usize {
    pieces.iter().map(|piece| piece.layers).sum()
}

/// The operators between two cuts.
struct Piece {
    nodes: Range<usize>,
    /// Layers on its longest path; 0 for a gate.
    layers: usize,
    /// Whether branches join in it, in a sum or a concatenation.
    branches: bool,
    /// Whether it is one layer without an activation after it, or after its batch norm.
    linear: bool,
    /// Whether it has a pool with a window.
    pools: bool,
}

fn pieces(graph: &Graph) -> Vec<Piece> {
    let last_readers = graph.last_readers();
    let nodes = graph.nodes();
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut start, mut last_reader) = (0, last_readers[0].unwrap_or(0));
    for index in 0..nodes.len() {
        let reader = last_readers[index + 1].unwrap_or(0);
        // An earlier value is still read after this node: no cut.
        if last_reader > index {
            last_reader = last_reader.max(reader);
            continue;
        }
        last_reader = reader;
        let range = start..index + 1;
        start = index + 1;
        let branches =
            nodes[range.clone()].iter().any(|node| matches!(node.op, Op::Add | Op::Concat)) && range.len() > 1;
        let layers = if range.len() == 1 || branches { longest(graph, &range) } else { 0 };
        let pools = nodes[range.clone()].iter().any(|node| matches!(node.op, Op::MaxPool(_) | Op::AveragePool(_)));
        let follows = nodes[index + 1..].iter().find(|node| !matches!(node.op, Op::BatchNorm(_)));
        let activated = follows.is_some_and(|node| matches!(node.op, Op::Activation(_)));
        let linear = range.len() == 1 && layers == 1 && !activated;
        pieces.push(Piece { nodes: range, layers, branches, linear, pools });
    }
    pieces
}

/// Layers on the longest path through some nodes.
fn longest(graph: &Graph, range: &Range<usize>) -> usize {
    let mut depth = vec![0; range.len()];
    for (place, node) in graph.nodes()[range.clone()].iter().enumerate() {
        let before =
            node.inputs.iter().filter_map(|value| value.checked_sub(range.start + 1)).map(|input| depth[input]);
        depth[place] = before.max().unwrap_or(0) + usize::from(node.op.is_layer());
    }
    depth.last().copied().unwrap_or(0)
}

/// The first piece from `first` on that has a layer or branches.
fn after_trailing(pieces: &[Piece], first: usize) -> usize {
    (first..pieces.len())
        .find(|&index| pieces[index].layers > 0 || pieces[index].nodes.len() > 1)
        .unwrap_or(pieces.len())
}

/// The neighbourhoods among a range of pieces.
fn units(pieces: &[Piece], range: Range<usize>, split: Split) -> Vec<Range<usize>> {
    let mut units: Vec<Range<usize>> = Vec::new();
    let (mut start, mut layers, mut index) = (range.start, 0, range.start);
    let pieces = &pieces[..range.end];
    while index < pieces.len() {
        let piece = &pieces[index];
        // A residual unit does not join the chain before it, but a fire module's branches join the layer that they read.
        if split == Split::Unit && piece.branches && layers + piece.layers > 2 && layers > 0 {
            units.push(start..index);
            (start, layers) = (index, 0);
        }
        layers += piece.layers;
        let next = after_trailing(pieces, index + 1);
        let pools = pieces[index..next].iter().any(|piece| piece.pools);
        let ends = match split {
            Split::Unit => piece.branches || layers >= 2 && (piece.linear || pools) || layers >= CHAIN_LAYERS,
            Split::Layer => layers > 0,
            Split::Layers(wanted) => layers >= wanted,
        };
        // A gate belongs to the layer whose value it gates.
        let is_gated = pieces.get(next).is_some_and(|piece| piece.layers == 0);
        index = next;
        if ends && !is_gated {
            units.push(start..index);
            (start, layers) = (index, 0);
        }
    }
    if start < pieces.len() {
        match units.last_mut() {
            // Too few layers are left for another neighbourhood.
            Some(last) if matches!(split, Split::Layers(_)) => last.end = pieces.len(),
            _ => units.push(start..pieces.len()),
        }
    }
    units
}

/// The parts of a block: runs of `layers` layers on each branch that has more, each with the operators that follow it.
fn parts(block: &Block, layers: usize) -> Parts {
    let nodes = block.nodes();
    let readers = |value: usize| {
        nodes.iter().flat_map(|node| &node.inputs).filter(move |&&input| usize::from(input) == value).count()
    };
    let is_layer = |value: usize| value > 0 && nodes[value - 1].op.is_layer();
    let mut parts = Parts::new();
    let Some(join) = nodes.iter().find(|node| matches!(node.op, Op::Add | Op::Concat)) else { return parts };
    for &end in &join.inputs {
        // The values of the branch, followed back from the join as long as it is a chain.
        let mut branch = vec![usize::from(end)];
        while let Some(&value) = branch.last().filter(|&&value| value > 0 && readers(value) == 1) {
            let [input] = nodes[value - 1].inputs[..] else { break };
            branch.push(input.into());
        }
        branch.reverse();
        let total = branch[1..].iter().filter(|&&value| is_layer(value)).count();
        if total <= layers && (layers > 1 || total == 0) {
            continue;
        }
        let (mut start, mut taken) = (branch[0], 0);
        for (place, &value) in branch.iter().enumerate().skip(1) {
            taken += usize::from(is_layer(value));
            let ends = branch.get(place + 1).is_none_or(|&next| is_layer(next));
            let enough = taken == layers || place + 1 == branch.len();
            if taken > 0 && enough && ends && parts.push(Part { from: start as u8, to: value as u8 }).is_ok() {
                (start, taken) = (value, 0);
            }
        }
    }
    parts.sort_unstable_by_key(|part| part.to);
    parts
}

/// Consecutive pieces as a block; the only outside value they may read is the one before their first node.
fn block(graph: &Graph, pieces: &[Piece], role: Role, name: &str) -> Result<Block> {
    let range = pieces[0].nodes.start..pieces[pieces.len() - 1].nodes.end;
    if range.len() > MAX_NODES {
        let divides = role == Role::Neighbourhood && pieces.iter().filter(|piece| piece.layers > 0).count() > 1;
        let fits = pieces.iter().all(|piece| piece.nodes.len() <= MAX_NODES);
        bail!(
            "block {name} would have {} operators, from {} to {}, but a block can have at most {MAX_NODES}: {}",
            range.len(),
            graph.nodes()[range.start].name,
            graph.nodes()[range.end - 1].name,
            if divides && fits {
                "take a finer --split"
            } else {
                "no single value connects one part of them with the next"
            }
        );
    }
    let mut builder = BlockBuilder::new(name, role, graph.shape(range.start));
    for node in &graph.nodes()[range.clone()] {
        let place = |&value: &usize| {
            let place = value.checked_sub(range.start).and_then(|place| u8::try_from(place).ok());
            place.with_context(|| format!("{} reads a value from before its block", node.name))
        };
        let inputs: Vec<u8> = node.inputs.iter().map(place).collect::<Result<_>>()?;
        builder.push(&node.name, node.op.clone(), &inputs, node.weights.clone())?;
    }
    builder.finish().with_context(|| format!("block {name}"))
}

struct Names<'a> {
    /// Those of all nodes with weights, sorted: the ones inside a module follow each other.
    nodes: Vec<&'a str>,
    used: HashSet<String>,
    /// How many blocks wanted the name.
    wanted: HashMap<String, usize>,
}

impl<'a> Names<'a> {
    fn new(graph: &'a Graph) -> Self {
        let named = graph.nodes().iter().filter(|node| !node.weights.is_empty());
        let mut nodes: Vec<&str> = named.map(|node| node.name.as_str()).collect();
        nodes.sort_unstable();
        Self { nodes, used: HashSet::from(["stem".to_owned(), "head".to_owned()]), wanted: HashMap::new() }
    }

    /// The module that holds exactly the block's layers, else the name of its first layer.
    fn of(&mut self, nodes: &[GraphNode]) -> String {
        let named: Vec<&GraphNode> = nodes.iter().filter(|node| !node.weights.is_empty()).collect();
        let named = if named.is_empty() { nodes.iter().collect() } else { named };
        let mut module: Vec<&str> = named[0].name.split('.').collect();
        for node in &named[1..] {
            let shared = module.iter().zip(node.name.split('.')).take_while(|(a, b)| **a == *b).count();
            module.truncate(shared);
        }
        let module = module.join(".");
        let inside = format!("{module}.");
        let first = self.nodes.partition_point(|&name| name < inside.as_str());
        let everywhere = self.nodes[first..].partition_point(|name| name.starts_with(&inside));
        let own = named.iter().filter(|node| node.name.starts_with(&inside)).count();
        let name = if module.is_empty() || everywhere > own { named[0].name.clone() } else { module };
        let number = self.wanted.entry(name.clone()).or_default();
        let mut unique = name.clone();
        while !self.used.insert(unique.clone()) {
            *number += 1;
            unique = format!("{name}#{number}");
        }
        unique
    }
}
