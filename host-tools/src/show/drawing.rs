//! Pictures of blocks, as SVG or as Graphviz source: a box for each operator, a frame for each block.
//!
//! A [`Drawing`] is what both formats show: texts, colours, and which edges are shortcuts. The SVG is laid out here
//! ([`svg`]), a `.dot` file by Graphviz ([`dot`]).

mod dot;
mod label;
mod layout;
mod svg;

use std::{fmt, path::Path};

use anyhow::{Result, bail};
use distill_core::{Block, Op, Role, inner_nodes};
use distill_device::sparse;

use super::inspect::{BlockLine, Inspection};
use crate::network::ending;

/// The format of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Graphviz source.
    Dot,
    /// Scalable vector graphics.
    Svg,
}

impl Format {
    /// The format that a file's ending names.
    pub fn of(path: &Path) -> Result<Self> {
        match ending(path) {
            "dot" => Ok(Self::Dot),
            "svg" => Ok(Self::Svg),
            other => bail!("cannot draw {}: unknown ending {other:?} (known: dot, svg)", path.display()),
        }
    }
}

/// The content of a file that shows `blocks`; `inspection` is of the same blocks.
pub fn draw(inspection: &Inspection, blocks: &[Block], format: Format) -> Result<String> {
    let drawing = Drawing::new(inspection, blocks);
    let mut text = String::new();
    match format {
        Format::Dot => dot::write(&mut text, &drawing)?,
        Format::Svg => svg::write(&mut text, &drawing)?,
    }
    Ok(text)
}

struct Drawing<'a> {
    inspection: &'a Inspection,
    blocks: Vec<DrawnBlock<'a>>,
    /// Whether each block reads the output of the one before it; students do not.
    joined: bool,
}

/// A frame.
struct DrawnBlock<'a> {
    line: &'a BlockLine,
    operators: Vec<Operator<'a>>,
    /// In the order of the operators that they lead to.
    edges: Vec<Edge>,
}

/// A box.
struct Operator<'a> {
    full_name: &'a str,
    /// The same without its block's name.
    name: &'a str,
    /// Such as `conv 3x3 /2, 96 groups`.
    kind: String,
    channels: usize,
    colour: Colour,
    /// Whether a smaller width reduces the channels of this layer.
    inner: bool,
}

struct Edge {
    /// 0 for the block's input, `i + 1` for the output of operator `i`.
    from: usize,
    to: usize,
    /// Whether it is part of a residual connection: the shorter path to a sum.
    shortcut: bool,
}

/// The kinds of operators that differ in colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    Conv,
    GroupedConv,
    Linear,
    BatchNorm,
    Weightless,
}

const SHORTCUT: &str = "#16a34a";
/// Colour of the layers whose channels a smaller width reduces.
const INNER: &str = "#ea580c";

impl Colour {
    const ALL: [Self; 5] = [Self::Conv, Self::GroupedConv, Self::Linear, Self::BatchNorm, Self::Weightless];

    fn of(op: &Op) -> Self {
        match op {
            Op::Conv(conv) if conv.groups > 1 => Self::GroupedConv,
            Op::Conv(_) => Self::Conv,
            Op::Linear => Self::Linear,
            Op::BatchNorm(_) => Self::BatchNorm,
            _ => Self::Weightless,
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Conv => Style { meaning: "convolution", class: "c", fill: "#dbeafe", stroke: "#60a5fa" },
            Self::GroupedConv => {
                Style { meaning: "grouped convolution", class: "d", fill: "#ccfbf1", stroke: "#2dd4bf" }
            }
            Self::Linear => Style { meaning: "linear", class: "l", fill: "#ede9fe", stroke: "#a78bfa" },
            Self::BatchNorm => Style { meaning: "batch norm", class: "b", fill: "#fef9c3", stroke: "#facc15" },
            Self::Weightless => Style { meaning: "no weights", class: "p", fill: "#f8fafc", stroke: "#cbd5e1" },
        }
    }
}

/// How a colour is written.
struct Style {
    meaning: &'static str,
    /// The class in an SVG's style sheet.
    class: &'static str,
    fill: &'static str,
    stroke: &'static str,
}

impl<'a> Drawing<'a> {
    fn new(inspection: &'a Inspection, blocks: &'a [Block]) -> Self {
        let drawn = |(line, block)| DrawnBlock::new(line, block);
        let blocks = inspection.blocks.iter().zip(blocks).map(drawn).collect();
        Self { inspection, blocks, joined: !inspection.noise.is_empty() }
    }
}

impl<'a> DrawnBlock<'a> {
    fn new(line: &'a BlockLine, block: &'a Block) -> Self {
        let (inner, distilled) = (inner_nodes(block), block.role() == Role::Neighbourhood);
        let operators = block.nodes().iter().enumerate().map(|(index, node)| Operator {
            full_name: &node.name,
            name: node.name.strip_prefix(block.name()).and_then(|rest| rest.strip_prefix('.')).unwrap_or(&node.name),
            kind: label::kind(block, index),
            channels: block.shape(index + 1).channels,
            colour: Colour::of(&node.op),
            inner: distilled && node.op.is_layer() && inner[index],
        });
        Self { line, operators: operators.collect(), edges: edges(block) }
    }

    /// The lines of text in the frame, first its title.
    fn text(&self) -> Vec<String> {
        let BlockLine { index, name, role, input, output, parameters, zeros, macs, .. } = self.line;
        let number = index.map_or_else(String::new, |index| format!("{index} · "));
        let role = format!("{role:?}").to_lowercase();
        let mut lines = vec![format!("{number}{name}")];
        // The role is often the name.
        lines.extend(Some(role).filter(|role| role != name));
        lines.push(format!("{input} → {output}"));
        lines.push(format!("{} parameters", Count(*parameters as u64)));
        lines.extend(sparse(*zeros, *parameters));
        lines.push(format!("{} MACs", Count(*macs)));
        lines
    }
}

/// The edges of a block. Of the paths into a sum, all but the longest are shortcuts, back to where they branch off.
fn edges(block: &Block) -> Vec<Edge> {
    let mut depth = vec![0];
    let mut edges = Vec::new();
    for (to, node) in block.nodes().iter().enumerate() {
        let deepest = node.inputs.iter().map(|&value| depth[usize::from(value)]).max().unwrap_or_default();
        let main = node.inputs.iter().position(|&value| depth[usize::from(value)] == deepest);
        let shortcut = |slot| matches!(node.op, Op::Add) && Some(slot) != main;
        let edge = |(slot, &value): (usize, &u8)| Edge { from: value.into(), to, shortcut: shortcut(slot) };
        edges.extend(node.inputs.iter().enumerate().map(edge));
        depth.push(deepest + 1);
    }
    // The edges into an operator whose value only shortcuts read are shortcuts too. Nothing reads the last operator.
    for node in (0..block.nodes().len().saturating_sub(1)).rev() {
        if edges.iter().filter(|edge| edge.from == node + 1).all(|edge| edge.shortcut) {
            edges.iter_mut().filter(|edge| edge.to == node).for_each(|edge| edge.shortcut = true);
        }
    }
    edges
}

/// A number with three significant digits: `464`, `13.9 k`, `4.72 M`.
struct Count(u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut units) = (self.0 as f64, ["", " k", " M", " G", " T"].iter());
        let mut unit = units.next();
        // 999.5 would be rounded to 1000.
        while value >= 999.5 && units.len() > 0 {
            (value, unit) = (value / 1000.0, units.next());
        }
        let unit = unit.copied().unwrap_or_default();
        let digits = if unit.is_empty() || value >= 99.95 { 0 } else { 1 + usize::from(value < 9.995) };
        write!(f, "{value:.digits$}{unit}")
    }
}

/// A name from the network's file with some characters escaped, and those replaced that no text file should hold.
fn escaped(text: &str, escapes: &[(char, &str)]) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match escapes.iter().find(|(special, _)| *special == c) {
            Some((_, escape)) => escaped.push_str(escape),
            None if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push(char::REPLACEMENT_CHARACTER),
            None => escaped.push(c),
        }
    }
    escaped
}
