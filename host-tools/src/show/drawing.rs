//! Pictures of blocks: every operator a box, every block a frame, as SVG or as source for Graphviz.
//!
//! [`Drawing`] is what both show: what a box says, its colour, which edges are shortcuts. The SVG is laid out here
//! ([`svg`]); a `.dot` file leaves that to its reader ([`dot`]).

mod dot;
mod label;
mod layout;
mod svg;

use std::{fmt, path::Path};

use anyhow::{Result, bail};
use distill_core::{Block, Op, Role, inner_nodes};

use super::inspect::{BlockLine, Inspection};

/// What a picture is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Graphviz source.
    Dot,
    /// Scalable vector graphics.
    Svg,
}

impl Format {
    /// By the file's ending.
    ///
    /// # Errors
    /// An unknown ending.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|ending| ending.to_str()).unwrap_or_default() {
            "dot" => Ok(Self::Dot),
            "svg" => Ok(Self::Svg),
            other => bail!("cannot draw {}: unknown ending {other:?} (known: dot, svg)", path.display()),
        }
    }
}

/// Draws `blocks`, of which `inspection` is what `inspect` says: the text of a file.
///
/// # Errors
/// None in practice: formatting into memory.
pub fn draw(inspection: &Inspection, blocks: &[Block], format: Format) -> Result<String> {
    let drawing = Drawing::new(inspection, blocks);
    let mut text = String::new();
    match format {
        Format::Dot => dot::write(&mut text, &drawing)?,
        Format::Svg => svg::write(&mut text, &drawing)?,
    }
    Ok(text)
}

/// What a picture shows.
struct Drawing<'a> {
    inspection: &'a Inspection,
    blocks: Vec<DrawnBlock<'a>>,
    /// Whether a block reads what the one before it gives; students stand alone.
    joined: bool,
}

/// One frame.
struct DrawnBlock<'a> {
    line: &'a BlockLine,
    operators: Vec<Operator<'a>>,
    /// In the order of the operators they go to.
    edges: Vec<Edge>,
}

/// One box.
struct Operator<'a> {
    /// The teacher's name.
    full_name: &'a str,
    /// The same without its block's.
    name: &'a str,
    /// Such as `conv 3x3 /2, 96 groups`.
    kind: String,
    /// Channels written.
    channels: usize,
    colour: Colour,
    /// A layer of a neighbourhood whose channels a smaller width takes from.
    inner: bool,
}

/// An operator reads a value.
struct Edge {
    /// 0 for the block's input, `i + 1` for what operator `i` gives.
    from: usize,
    /// The operator.
    to: usize,
    /// Whether it is part of a residual connection: the shorter way into a sum.
    shortcut: bool,
}

/// What a box's colour tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    Conv,
    GroupedConv,
    Linear,
    BatchNorm,
    Weightless,
}

/// Colour of shortcuts.
const SHORTCUT: &str = "#16a34a";
/// Colour that marks the layers a smaller width takes from.
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

    fn meaning(self) -> &'static str {
        match self {
            Self::Conv => "convolution",
            Self::GroupedConv => "grouped convolution",
            Self::Linear => "linear",
            Self::BatchNorm => "batch norm",
            Self::Weightless => "no weights",
        }
    }

    /// Of the box, and of its outline.
    fn fill_and_stroke(self) -> [&'static str; 2] {
        match self {
            Self::Conv => ["#dbeafe", "#60a5fa"],
            Self::GroupedConv => ["#ccfbf1", "#2dd4bf"],
            Self::Linear => ["#ede9fe", "#a78bfa"],
            Self::BatchNorm => ["#fef9c3", "#facc15"],
            Self::Weightless => ["#f8fafc", "#cbd5e1"],
        }
    }
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

    /// The lines beside or above its operators, the first its title.
    fn text(&self) -> Vec<String> {
        let BlockLine { index, name, role, input, output, parameters, macs, .. } = self.line;
        let number = index.map_or_else(String::new, |index| format!("{index} · "));
        let role = format!("{role:?}").to_lowercase();
        let mut lines = vec![format!("{number}{name}")];
        // A stem is mostly called that.
        lines.extend(Some(role).filter(|role| role != name));
        lines.push(format!("{input} → {output}"));
        lines.push(format!("{} parameters", Count(*parameters as u64)));
        lines.push(format!("{} MACs", Count(*macs)));
        lines
    }
}

/// Every edge of a block. The longest way into a sum is no shortcut, the other is, with all that leads only there.
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
    // The last operator is read by none of them.
    for node in (0..block.nodes().len().saturating_sub(1)).rev() {
        if edges.iter().filter(|edge| edge.from == node + 1).all(|edge| edge.shortcut) {
            edges.iter_mut().filter(|edge| edge.to == node).for_each(|edge| edge.shortcut = true);
        }
    }
    edges
}

/// A number to three digits: `464`, `13.9 k`, `4.72 M`.
struct Count(u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut units) = (self.0 as f64, ["", " k", " M", " G", " T"].iter());
        let mut unit = units.next();
        // What would be rounded to 1000 is one of the next unit.
        while value >= 999.5 && units.len() > 0 {
            (value, unit) = (value / 1000.0, units.next());
        }
        let unit = unit.copied().unwrap_or_default();
        let digits = if unit.is_empty() || value >= 99.95 { 0 } else { 1 + usize::from(value < 9.995) };
        write!(f, "{value:.digits$}{unit}")
    }
}

/// A name from a foreign file, without what no text file should hold.
fn printable(text: &str) -> impl Iterator<Item = char> {
    let unfit = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    text.chars().map(move |c| if unfit(c) { char::REPLACEMENT_CHARACTER } else { c })
}
