//! A network's graph, cut into blocks: stem, neighbourhoods, head.
//!
//! A cut lies where one value alone goes on: every path leads through it. Between two cuts lies an operator of a chain, or
//! all that stands between a value that is read twice and where its ways meet again. How many of these make a block is
//! [`Split`]'s affair. Neighbourhoods smaller than a residual unit are parts of its block: some layers of a branch at a time.

use std::{collections::HashSet, fmt, ops::Range, str::FromStr};

use anyhow::{Context, Result, bail, ensure};
use distill_core::{Block, BlockBuilder, MAX_NODES, Op, Parts, Role};

use super::graph::{Graph, GraphNode};

/// Layers of a chain that make a unit where nothing else ends it.
const CHAIN_LAYERS: usize = 3;

/// How large a neighbourhood is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// A residual unit; in a chain, what a pool or a convolution without an activation ends, of two or three layers.
    Unit,
    /// One layer.
    Layer,
    /// So many layers, one after another: whole residual units while they are enough, else parts of one.
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
/// A block has more operators than a block can hold.
pub fn split(graph: &Graph, split: Split) -> Result<Vec<Block>> {
    let pieces = pieces(graph);
    ensure!(!pieces.is_empty(), "the network has no operators");
    // What goes on once rows and columns are gone is the head.
    let ends = |op: &Op| matches!(op, Op::GlobalAveragePool | Op::Flatten | Op::Linear);
    let is_head = |piece: &&Piece| !piece.branches && ends(&graph.nodes()[piece.nodes.start].op);
    let mut body = pieces.iter().position(|piece| is_head(&piece)).unwrap_or(pieces.len());
    let stem =
        pieces.iter().position(|piece| piece.layers > 0).filter(|&first| !pieces[first].branches && first < body);
    let stem = stem.map_or(0, |first| after_trailing(&pieces, first + 1).min(body));
    let mut units = units(&pieces[stem..body], split);
    // A last layer alone has nothing inside to shrink.
    if let (Split::Unit, Some(last)) = (split, units.last()) {
        let alone = pieces[stem..][last.clone()].iter().all(|piece| !piece.branches);
        if alone && pieces[stem..][last.clone()].iter().map(|piece| piece.layers).sum::<usize>() < 2 {
            body = stem + last.start;
            units.pop();
        }
    }
    let nodes = |pieces_of: Range<usize>| pieces[pieces_of.start].nodes.start..pieces[pieces_of.end - 1].nodes.end;
    let mut names = Names::new(graph);
    let mut blocks = Vec::new();
    if stem > 0 {
        blocks.push(block(graph, nodes(0..stem), Role::Stem, "stem")?);
    }
    for unit in units {
        let range = nodes(stem + unit.start..stem + unit.end);
        let name = names.of(&graph.nodes()[range.clone()]);
        let block = block(graph, range, Role::Neighbourhood, &name)?;
        let parts = match split {
            Split::Unit => Parts::new(),
            Split::Layer => parts(&block, 1),
            Split::Layers(layers) => parts(&block, layers),
        };
        blocks.push(block.with_parts(parts).with_context(|| format!("block {name}"))?);
    }
    if body < pieces.len() {
        blocks.push(block(graph, nodes(body..pieces.len()), Role::Head, "head")?);
    }
    Ok(blocks)
}

/// What lies between two cuts.
struct Piece {
    nodes: Range<usize>,
    /// Layers on the longest way through it; those of a gate do not count.
    layers: usize,
    /// Whether ways meet in it in a sum or a concatenation.
    branches: bool,
    /// A lone layer, its norm left aside, whose value no activation follows.
    linear: bool,
    /// Whether a window slides over its value.
    pools: bool,
}

fn pieces(graph: &Graph) -> Vec<Piece> {
    let last = graph.last_readers();
    let nodes = graph.nodes();
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut start, mut busy) = (0, last[0].unwrap_or(0));
    for index in 0..nodes.len() {
        // Values before this node's are still read after it.
        if busy > index {
            busy = busy.max(last[index + 1].unwrap_or(0));
            continue;
        }
        busy = last[index + 1].unwrap_or(0);
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

/// Layers on the longest way through some nodes.
fn longest(graph: &Graph, range: &Range<usize>) -> usize {
    let mut depth = vec![0; range.len()];
    for (place, node) in graph.nodes()[range.clone()].iter().enumerate() {
        let before =
            node.inputs.iter().filter_map(|value| value.checked_sub(range.start + 1)).map(|input| depth[input]);
        depth[place] = before.max().unwrap_or(0) + usize::from(node.op.is_layer());
    }
    depth.last().copied().unwrap_or(0)
}

/// The first piece from `first` on that has a layer or a gate in it.
fn after_trailing(pieces: &[Piece], first: usize) -> usize {
    (first..pieces.len())
        .find(|&index| pieces[index].layers > 0 || pieces[index].nodes.len() > 1)
        .unwrap_or(pieces.len())
}

/// Runs of pieces that make a neighbourhood each.
fn units(pieces: &[Piece], split: Split) -> Vec<Range<usize>> {
    let mut units = Vec::new();
    let (mut start, mut layers) = (0, 0);
    let mut index = 0;
    while index < pieces.len() {
        let piece = &pieces[index];
        // A unit with ways of its own does not join the chain before it.
        if split == Split::Unit && piece.branches && layers > 0 {
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
        // What gates a layer's value belongs to the layer.
        let gated = pieces.get(next).is_some_and(|piece| piece.layers == 0);
        index = next;
        if ends && !gated {
            units.push(start..index);
            (start, layers) = (index, 0);
        }
    }
    if start < pieces.len() {
        match units.last_mut() {
            // Too few layers are left for a neighbourhood of their own.
            Some(last) if matches!(split, Split::Layers(_)) => last.end = pieces.len(),
            _ => units.push(start..pieces.len()),
        }
    }
    units
}

/// The parts of a block that has ways of more than `layers` layers: on each way, so many of them at a time, each with what
/// follows it. None for a block without ways of its own, or with shorter ones.
fn parts(block: &Block, layers: usize) -> Parts {
    let nodes = block.nodes();
    let readers = |value: usize| {
        nodes.iter().flat_map(|node| &node.inputs).filter(move |&&input| usize::from(input) == value).count()
    };
    let meets = nodes.iter().position(|node| matches!(node.op, Op::Add | Op::Concat));
    let mut parts = Parts::new();
    let Some(meeting) = meets else { return parts };
    for &end in &nodes[meeting].inputs {
        // The way back from where ways meet, as long as it is a chain.
        let mut way = vec![usize::from(end)];
        while let Some(&value) = way.last().filter(|&&value| value > 0 && readers(value) == 1) {
            let [input] = nodes[value - 1].inputs[..] else { break };
            way.push(input.into());
        }
        way.reverse();
        let is_layer = |value: usize| value > 0 && nodes[value - 1].op.is_layer();
        let total = way[1..].iter().filter(|&&value| is_layer(value)).count();
        if total <= layers && (layers > 1 || total == 0) {
            continue;
        }
        let (mut start, mut taken) = (way[0], 0);
        for (place, &value) in way.iter().enumerate().skip(1) {
            taken += usize::from(is_layer(value));
            let ends = way.get(place + 1).is_none_or(|&next| is_layer(next));
            let enough = taken == layers || place + 1 == way.len();
            if taken > 0 && enough && ends && parts.push([start as u8, value as u8]).is_ok() {
                (start, taken) = (value, 0);
            }
        }
    }
    parts.sort_unstable_by_key(|part| part[1]);
    parts
}

/// Some nodes in a row as a block: they read one value from outside.
fn block(graph: &Graph, range: Range<usize>, role: Role, name: &str) -> Result<Block> {
    if range.len() > MAX_NODES {
        bail!(
            "block {name} would have {} operators, from {} to {}; a block holds {MAX_NODES}: take a finer --split, or the \
             network has no cut in between",
            range.len(),
            graph.nodes()[range.start].name,
            graph.nodes()[range.end - 1].name
        );
    }
    let mut builder = BlockBuilder::new(name, role, graph.shape(range.start));
    for node in &graph.nodes()[range.clone()] {
        let inputs: Result<Vec<u8>> = node
            .inputs
            .iter()
            .map(|&value| {
                let place = value.checked_sub(range.start).and_then(|place| u8::try_from(place).ok());
                place.with_context(|| format!("{} reads a value from before its block", node.name))
            })
            .collect();
        builder.push(&node.name, node.op.clone(), &inputs?, node.weights.clone())?;
    }
    builder.finish().with_context(|| format!("block {name}"))
}

/// Names for blocks, each once.
struct Names<'a> {
    graph: &'a Graph,
    used: HashSet<String>,
}

impl<'a> Names<'a> {
    fn new(graph: &'a Graph) -> Self {
        Self { graph, used: HashSet::from(["stem".to_owned(), "head".to_owned()]) }
    }

    /// The module that all layers of a block are in and no other, else its first layer's name.
    fn of(&mut self, nodes: &[GraphNode]) -> String {
        let named: Vec<&GraphNode> = nodes.iter().filter(|node| !node.weights.is_empty()).collect();
        let named = if named.is_empty() { nodes.iter().collect() } else { named };
        let mut module: Vec<&str> = named[0].name.split('.').collect();
        for node in &named[1..] {
            let shared = module.iter().zip(node.name.split('.')).take_while(|(a, b)| **a == *b).count();
            module.truncate(shared);
        }
        let module = module.join(".");
        let inside = |node: &&GraphNode| node.name.strip_prefix(&module).is_some_and(|rest| rest.starts_with('.'));
        let everywhere = self.graph.nodes().iter().filter(|node| !node.weights.is_empty()).filter(inside).count();
        let own = named.iter().filter(|node| inside(node)).count();
        let name = if module.is_empty() || everywhere > own { named[0].name.clone() } else { module };
        let unique = (0..).map(|number| if number == 0 { name.clone() } else { format!("{name}#{number}") });
        let name = unique.into_iter().find(|name| !self.used.contains(name)).unwrap_or(name);
        self.used.insert(name.clone());
        name
    }
}
