//! A picture as SVG: blocks under each other, in columns that make it fit a screen.

use std::fmt::{self, Write};

use distill_core::Role;

use super::{
    Colour, Count, Drawing, DrawnBlock, INNER, Operator, SHORTCUT, Style,
    layout::{BOX, Layout, Point, Route, Widths, layout},
};

/// Space between two blocks of a column.
const BETWEEN: i32 = 34;
/// Space between two columns, and around the picture.
const MARGIN: i32 = 28;
/// Height of the title and the legend.
const HEADER: i32 = 104;
/// Height of a line of text.
const LINE: i32 = 16;
/// Aspect ratio that the columns approach.
const ASPECT: f32 = 1.4;
/// Most columns of an operator's name; the rest is cut off.
const LONGEST_NAME: usize = 22;
/// The same for an operator's kind, and for a line of a block's text.
const LONGEST_LINE: usize = 28;

/// Styles. Every system has one of the fonts; their characters are at most 0.61 em wide.
const STYLE: &str = "text{font:11px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#475569}\
.t{font-weight:bold;fill:#0f172a}.h{font-size:16px}.e{text-anchor:end}\
.i{font-weight:bold;fill:#c2410c}path{fill:none;stroke:#64748b;stroke-width:1.3;marker-end:url(#a)}\
.s{stroke-width:2;marker-end:url(#s)}.w{stroke:#475569;stroke-width:4;marker-end:url(#w)}\
.o{marker-end:none}.f{fill:#fff;stroke:#94a3b8}.g{fill:#f1f5f9;stroke:#94a3b8}";

/// Columns of a text; beyond Latin, Greek and Cyrillic a character may take two.
fn columns(text: &str) -> usize {
    text.chars().map(|c| 1 + usize::from(c > '\u{2fff}')).sum()
}

/// Width of this many columns at 11 px.
fn pixels(columns: usize) -> i32 {
    (columns as i32 * 67 + 9) / 10
}

/// A text without its beginning if it is too long: the end of a name is more specific.
fn cut(text: &str, longest: usize) -> String {
    let mut rest = text;
    while columns(rest) > longest - usize::from(rest.len() < text.len()) {
        let mut chars = rest.chars();
        chars.next();
        rest = chars.as_str();
    }
    if rest.len() < text.len() { format!("…{rest}") } else { text.to_owned() }
}

/// Columns of the three texts in a box.
struct Fields {
    name: usize,
    kind: usize,
    channels: usize,
}

impl Fields {
    fn width(&self) -> i32 {
        pixels(self.name + self.kind + self.channels + 5) + 10
    }
}

/// A block in its place.
struct Placed<'a> {
    block: &'a DrawnBlock<'a>,
    layout: Layout,
    corner: Point,
}

impl Placed<'_> {
    fn entry(&self) -> Point {
        (self.corner.0 + self.layout.axis, self.corner.1)
    }

    fn exit(&self) -> Point {
        (self.corner.0 + self.layout.axis, self.corner.1 + self.layout.height)
    }
}

pub(super) fn write(out: &mut String, drawing: &Drawing<'_>) -> fmt::Result {
    let operators = || drawing.blocks.iter().flat_map(|block| &block.operators);
    let widest =
        |text: &dyn Fn(&Operator<'_>) -> String| operators().map(|o| columns(&text(o))).max().unwrap_or_default();
    let fields = Fields {
        name: widest(&|operator| cut(operator.name, LONGEST_NAME)),
        kind: widest(&|operator| cut(&operator.kind, LONGEST_LINE)),
        channels: widest(&|operator| operator.channels.to_string()),
    };
    let texts = drawing.blocks.iter().flat_map(DrawnBlock::text).map(|line| columns(&cut(&line, LONGEST_LINE)));
    let widths = Widths { text: pixels(1 + texts.max().unwrap_or_default()), boxes: fields.width() };
    let layouts: Vec<Layout> = drawing.blocks.iter().map(|block| layout(block, widths, 6 * LINE)).collect();
    let corners = corners(&layouts);
    let blocks = drawing.blocks.iter().zip(layouts).zip(corners);
    let placed: Vec<Placed<'_>> = blocks.map(|((block, layout), corner)| Placed { block, layout, corner }).collect();
    let right = placed.iter().map(|placed| placed.corner.0 + placed.layout.width).max().unwrap_or_default();
    let bottom = placed.iter().map(|placed| placed.exit().1).max().unwrap_or_default();
    let (width, height) = ((right + MARGIN).max(620), bottom + BETWEEN + MARGIN);
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">"
    )?;
    definitions(out)?;
    writeln!(out, "<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>")?;
    header(out, drawing)?;
    for placed in &placed {
        frame(out, placed, &fields)?;
    }
    if drawing.joined {
        boundaries(out, &placed)?;
    }
    writeln!(out, "</svg>")
}

/// Styles and arrow heads.
fn definitions(out: &mut String) -> fmt::Result {
    writeln!(out, "<style>{STYLE}.s{{stroke:{SHORTCUT}}}")?;
    for Style { class, fill, stroke, .. } in Colour::ALL.map(Colour::style) {
        writeln!(out, ".{class}{{fill:{fill};stroke:{stroke}}}")?;
    }
    writeln!(out, ".n{{stroke:{INNER};stroke-width:2}}</style>\n<defs>")?;
    for (id, size, fill) in [("a", 7, "#64748b"), ("s", 8, SHORTCUT), ("w", 14, "#475569")] {
        writeln!(
            out,
            "<marker id=\"{id}\" viewBox=\"0 0 8 8\" refX=\"7.5\" refY=\"4\" markerWidth=\"{size}\" markerHeight=\"{size}\" \
             markerUnits=\"userSpaceOnUse\" orient=\"auto\"><polygon points=\"0,0.5 8,4 0,7.5\" fill=\"{fill}\"/></marker>"
        )?;
    }
    writeln!(out, "</defs>")
}

/// Upper left corner of each block.
fn corners(layouts: &[Layout]) -> Vec<Point> {
    let width = layouts.iter().map(|layout| layout.width).max().unwrap_or_default() + 2 * MARGIN;
    let total: i32 = layouts.iter().map(|layout| layout.height + BETWEEN).sum();
    let columns = (ASPECT * total as f32 / width as f32).sqrt().round().max(1.0) as i32;
    let (mut before, mut column, mut y) = (0, 0, HEADER + BETWEEN);
    let mut place = |layout: &Layout| {
        let height = layout.height + BETWEEN;
        let here = (before + height / 2) * columns / total;
        if here > column {
            (column, y) = (here, HEADER + BETWEEN);
        }
        let corner = (MARGIN + column * width, y);
        (before, y) = (before + height, y + height);
        corner
    };
    layouts.iter().map(&mut place).collect()
}

/// Title and legend.
fn header(out: &mut String, drawing: &Drawing<'_>) -> fmt::Result {
    let inspection = drawing.inspection;
    let (parameters, macs) = (Count(inspection.parameters as u64), Count(inspection.macs));
    let title = escaped(&cut(&inspection.architecture, 40));
    writeln!(out, "<text x=\"{MARGIN}\" y=\"34\" class=\"t h\">{title}</text>")?;
    let blocks = drawing.blocks.len();
    writeln!(out, "<text x=\"{MARGIN}\" y=\"54\">{blocks} blocks, {parameters} parameters, {macs} MACs</text>")?;
    let mut x = MARGIN;
    let drawn =
        |colour: &Colour| drawing.blocks.iter().any(|block| block.operators.iter().any(|o| o.colour == *colour));
    for colour in Colour::ALL.into_iter().filter(drawn) {
        let Style { meaning, class, .. } = colour.style();
        writeln!(out, "<rect x=\"{x}\" y=\"68\" width=\"14\" height=\"12\" class=\"{class}\"/>")?;
        writeln!(out, "<text x=\"{}\" y=\"78\">{meaning}</text>", x + 19)?;
        x += 36 + pixels(columns(meaning));
    }
    let inner = "a smaller width takes from its channels";
    writeln!(out, "<rect x=\"{MARGIN}\" y=\"87\" width=\"14\" height=\"12\" class=\"c n\"/>")?;
    writeln!(out, "<text x=\"{}\" y=\"97\">{inner}</text>", MARGIN + 19)?;
    let x = MARGIN + 36 + pixels(columns(inner));
    writeln!(out, "<path class=\"s\" d=\"M{x} 93H{}\"/><text x=\"{}\" y=\"97\">shortcut</text>", x + 22, x + 28)
}

/// A block.
fn frame(out: &mut String, placed: &Placed<'_>, fields: &Fields) -> fmt::Result {
    let Placed { block, layout, corner: (x, y) } = placed;
    let Layout { width, height, .. } = layout;
    let class_of_frame = if block.line.role == Role::Neighbourhood { "f" } else { "g" };
    writeln!(out, "<g transform=\"translate({x} {y})\">")?;
    writeln!(out, "<rect width=\"{width}\" height=\"{height}\" rx=\"8\" class=\"{class_of_frame}\"/>")?;
    for (line, text) in (0..).zip(block.text()) {
        let (y, class) = (22 + line * LINE, if line == 0 { " class=\"t\"" } else { "" });
        writeln!(out, "<text x=\"14\" y=\"{y}\"{class}>{}</text>", escaped(&cut(&text, LONGEST_LINE)))?;
    }
    for Route { corners, shortcut } in &layout.routes {
        let class = if *shortcut { " class=\"s\"" } else { "" };
        writeln!(out, "<path{class} d=\"{}\"/>", path(corners))?;
    }
    writeln!(out, "<path class=\"o\" d=\"{}\"/>", path(&layout.exit))?;
    let inside = fields.width();
    let kind_at = 8 + pixels(fields.name + 2);
    let mut boxes: Vec<(&Operator<'_>, &Point)> = block.operators.iter().zip(&layout.corners).collect();
    // Marked boxes come last, so that no neighbour covers their outline.
    boxes.sort_by_key(|(operator, _)| operator.inner);
    for (operator, &(x, y)) in boxes {
        let (mark, channels) = if operator.inner { (" n", "e i") } else { ("", "e") };
        let baseline = y + 14;
        writeln!(
            out,
            "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{inside}\" height=\"{BOX}\" rx=\"3\" class=\"{}{mark}\"/>\
             <text x=\"{}\" y=\"{baseline}\" class=\"t\">{}</text><text x=\"{}\" y=\"{baseline}\">{}</text>\
             <text x=\"{}\" y=\"{baseline}\" class=\"{channels}\">{}</text></g>",
            escaped(operator.full_name),
            operator.colour.style().class,
            x + 8,
            escaped(&cut(operator.name, LONGEST_NAME)),
            x + kind_at,
            escaped(&cut(&operator.kind, LONGEST_LINE)),
            x + inside - 8,
            operator.channels,
        )?;
    }
    writeln!(out, "</g>")
}

/// Thick edges into, between and out of the blocks, with the shapes of their values.
fn boundaries(out: &mut String, blocks: &[Placed<'_>]) -> fmt::Result {
    let mut edge = |corners: &[Point], shape: &dyn fmt::Display| -> fmt::Result {
        let (x, y) = corners.last().copied().unwrap_or_default();
        writeln!(out, "<path class=\"w\" d=\"{}\"/>", path(corners))?;
        writeln!(out, "<text x=\"{}\" y=\"{}\" class=\"t\">{shape}</text>", x + 12, y - BETWEEN / 2 + 4)
    };
    let mut before: Option<Point> = None;
    for placed in blocks {
        let (x, y) = placed.entry();
        let corners = match before {
            None => vec![(x, y - BETWEEN), (x, y)],
            Some((before_x, before_y)) if before_x != x => {
                let (under, between, over) = (before_y + BETWEEN / 2, placed.corner.0 - MARGIN, y - BETWEEN / 2);
                vec![(before_x, before_y), (before_x, under), (between, under), (between, over), (x, over), (x, y)]
            }
            Some(before) => vec![before, (x, y)],
        };
        edge(&corners, &placed.block.line.input)?;
        before = Some(placed.exit());
    }
    let (Some(last), Some((x, y))) = (blocks.last(), before) else { return Ok(()) };
    edge(&[(x, y), (x, y + BETWEEN)], &last.block.line.output)
}

/// A line along these corners, which are rounded.
fn path(corners: &[Point]) -> String {
    let mut corners = corners.to_vec();
    corners.dedup();
    let mut path = String::new();
    let towards = |(x, y): Point, (to_x, to_y): Point| {
        let shorter = |from: i32, to: i32| from + ((to - from) / 2).clamp(-5, 5);
        (shorter(x, to_x), shorter(y, to_y))
    };
    for (place, &(x, y)) in corners.iter().enumerate() {
        let (before, after) = (place.checked_sub(1).map(|before| corners[before]), corners.get(place + 1));
        path += &match (before, after) {
            (None, _) => format!("M{x} {y}"),
            (_, None) => format!("L{x} {y}"),
            (Some(before), Some(&after)) => {
                let ((ax, ay), (bx, by)) = (towards((x, y), before), towards((x, y), after));
                format!("L{ax} {ay}Q{x} {y} {bx} {by}")
            }
        };
    }
    path
}

fn escaped(text: &str) -> String {
    super::escaped(text, &[('<', "&lt;"), ('>', "&gt;"), ('&', "&amp;"), ('"', "&quot;")])
}
