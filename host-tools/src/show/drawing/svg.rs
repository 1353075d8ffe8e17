//! A picture as SVG: blocks under each other, in as many columns as make it fit a screen.

use std::fmt::{self, Write};

use distill_core::Role;

use super::{
    Colour, Count, Drawing, DrawnBlock, INNER, Operator, SHORTCUT,
    layout::{self, BOX, Layout, Point, Widths, layout},
    printable,
};

/// Between two blocks of a column.
const BETWEEN: i32 = 34;
/// Between two columns, and around everything.
const MARGIN: i32 = 28;
/// Height of title and legend.
const HEADER: i32 = 104;
/// Height of a line of text.
const LINE: i32 = 16;
/// Width over height that the columns are chosen for.
const ASPECT: f32 = 1.4;
/// Most characters of a name and of a kind; what is longer is cut.
const LONGEST: [usize; 2] = [22, 28];

/// Styles; the fonts are those of every system, with characters at most 0.61 em wide.
const STYLE: &str = "text{font:11px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#475569}\
.t{font-weight:bold;fill:#0f172a}.h{font-size:16px}.e{text-anchor:end}\
.i{font-weight:bold;fill:#c2410c}path{fill:none;stroke:#64748b;stroke-width:1.3;marker-end:url(#a)}\
.s{stroke-width:2;marker-end:url(#s)}.w{stroke:#475569;stroke-width:4;marker-end:url(#w)}\
.o{marker-end:none}.f{fill:#fff;stroke:#94a3b8}.g{fill:#f1f5f9;stroke:#94a3b8}";

/// Columns that `text` takes; beyond Latin, Greek and Cyrillic a character may be two wide.
fn columns(text: &str) -> usize {
    text.chars().map(|c| 1 + usize::from(c > '\u{2fff}')).sum()
}

/// Pixels that so many columns take, at 11 px.
fn pixels(columns: usize) -> i32 {
    (columns as i32 * 67 + 9) / 10
}

/// The end of a name that is too long tells more than its beginning.
fn cut(text: &str, longest: usize) -> String {
    let mut rest = text;
    while columns(rest) > longest - usize::from(rest.len() < text.len()) {
        let mut chars = rest.chars();
        chars.next();
        rest = chars.as_str();
    }
    if rest.len() < text.len() { format!("…{rest}") } else { text.to_owned() }
}

/// Widths of a box's three texts.
struct Fields {
    name: usize,
    kind: usize,
    channels: usize,
}

impl Fields {
    /// Of the box.
    fn width(&self) -> i32 {
        pixels(self.name + self.kind + self.channels + 5) + 10
    }
}

/// Writes the file.
pub(super) fn write(out: &mut String, drawing: &Drawing<'_>) -> fmt::Result {
    let operators = || drawing.blocks.iter().flat_map(|block| &block.operators);
    let widest =
        |text: &dyn Fn(&Operator<'_>) -> String| operators().map(|o| columns(&text(o))).max().unwrap_or_default();
    let fields = Fields {
        name: widest(&|operator| cut(operator.name, LONGEST[0])),
        kind: widest(&|operator| cut(&operator.kind, LONGEST[1])),
        channels: widest(&|operator| operator.channels.to_string()),
    };
    let texts =
        drawing.blocks.iter().flat_map(|block| block.text().into_iter().map(|line| columns(&cut(&line, LONGEST[1]))));
    let widths = Widths { text: pixels(1 + texts.max().unwrap_or_default()), boxes: fields.width() };
    let layouts: Vec<Layout> = drawing.blocks.iter().map(|block| layout(block, widths, 6 * LINE)).collect();
    let places = places(&layouts);
    let right = places.iter().zip(&layouts).map(|((x, _), layout)| x + layout.width).max().unwrap_or_default();
    let bottom = places.iter().zip(&layouts).map(|((_, y), layout)| y + layout.height).max().unwrap_or_default();
    let (width, height) = ((right + MARGIN).max(620), bottom + BETWEEN + MARGIN);
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">"
    )?;
    writeln!(out, "<style>{STYLE}.s{{stroke:{SHORTCUT}}}")?;
    for colour in Colour::ALL {
        let [fill, stroke] = colour.fill_and_stroke();
        writeln!(out, ".{}{{fill:{fill};stroke:{stroke}}}", class(colour))?;
    }
    writeln!(out, ".n{{stroke:{INNER};stroke-width:2}}</style>\n<defs>")?;
    for (id, size, fill) in [("a", 7, "#64748b"), ("s", 8, SHORTCUT), ("w", 14, "#475569")] {
        writeln!(
            out,
            "<marker id=\"{id}\" viewBox=\"0 0 8 8\" refX=\"7.5\" refY=\"4\" markerWidth=\"{size}\" markerHeight=\"{size}\" \
             markerUnits=\"userSpaceOnUse\" orient=\"auto\"><polygon points=\"0,0.5 8,4 0,7.5\" fill=\"{fill}\"/></marker>"
        )?;
    }
    writeln!(out, "</defs>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>")?;
    header(out, drawing)?;
    for ((block, layout), &place) in drawing.blocks.iter().zip(&layouts).zip(&places) {
        frame(out, block, layout, place, &fields)?;
    }
    let ends: Vec<[Point; 2]> = places
        .iter()
        .zip(&layouts)
        .map(|(&(x, y), layout)| [(x + layout::axis(widths), y), (x + layout::axis(widths), y + layout.height)])
        .collect();
    if drawing.joined {
        boundaries(out, drawing, &places, &ends)?;
    }
    writeln!(out, "</svg>")
}

/// Corners of the blocks.
fn places(layouts: &[Layout]) -> Vec<Point> {
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

fn class(colour: Colour) -> &'static str {
    match colour {
        Colour::Conv => "c",
        Colour::GroupedConv => "d",
        Colour::Linear => "l",
        Colour::BatchNorm => "b",
        Colour::Weightless => "p",
    }
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
        let meaning = colour.meaning();
        writeln!(out, "<rect x=\"{x}\" y=\"68\" width=\"14\" height=\"12\" class=\"{}\"/>", class(colour))?;
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
fn frame(out: &mut String, block: &DrawnBlock<'_>, layout: &Layout, (x, y): Point, fields: &Fields) -> fmt::Result {
    let Layout { width, height, .. } = layout;
    let class_of_frame = if block.line.role == Role::Neighbourhood { "f" } else { "g" };
    writeln!(out, "<g transform=\"translate({x} {y})\">")?;
    writeln!(out, "<rect width=\"{width}\" height=\"{height}\" rx=\"8\" class=\"{class_of_frame}\"/>")?;
    for (line, text) in (0..).zip(block.text()) {
        let (y, class) = (22 + line * LINE, if line == 0 { " class=\"t\"" } else { "" });
        writeln!(out, "<text x=\"14\" y=\"{y}\"{class}>{}</text>", escaped(&cut(&text, LONGEST[1])))?;
    }
    for (link, shortcut) in &layout.links {
        let class = if *shortcut { " class=\"s\"" } else { "" };
        writeln!(out, "<path{class} d=\"{}\"/>", path(link))?;
    }
    writeln!(out, "<path class=\"o\" d=\"{}\"/>", path(&layout.exit))?;
    let inside = fields.width();
    let kind_at = 8 + pixels(fields.name + 2);
    let mut boxes: Vec<(&Operator<'_>, &Point)> = block.operators.iter().zip(&layout.corners).collect();
    // No neighbour covers a marked outline.
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
            class(operator.colour),
            x + 8,
            escaped(&cut(operator.name, LONGEST[0])),
            x + kind_at,
            escaped(&cut(&operator.kind, LONGEST[1])),
            x + inside - 8,
            operator.channels,
        )?;
    }
    writeln!(out, "</g>")
}

/// Thick edges into, between and out of blocks, with the shapes that cross there.
fn boundaries(out: &mut String, drawing: &Drawing<'_>, places: &[Point], ends: &[[Point; 2]]) -> fmt::Result {
    let mut edge = |corners: &[Point], shape: &dyn fmt::Display| -> fmt::Result {
        let (x, y) = corners.last().copied().unwrap_or_default();
        writeln!(out, "<path class=\"w\" d=\"{}\"/>", path(corners))?;
        writeln!(out, "<text x=\"{}\" y=\"{}\" class=\"t\">{shape}</text>", x + 12, y - BETWEEN / 2 + 4)
    };
    for (index, (block, &[(x, y), (_, bottom)])) in drawing.blocks.iter().zip(ends).enumerate() {
        let before = index.checked_sub(1).map(|before| ends[before][1]);
        match before {
            Some((last_x, last_y)) if last_x != x => {
                let (under, between, over) = (last_y + BETWEEN / 2, places[index].0 - MARGIN, y - BETWEEN / 2);
                edge(
                    &[(last_x, last_y), (last_x, under), (between, under), (between, over), (x, over), (x, y)],
                    &block.line.input,
                )?;
            }
            Some(last) => edge(&[last, (x, y)], &block.line.input)?,
            None => edge(&[(x, y - BETWEEN), (x, y)], &block.line.input)?,
        }
        if index + 1 == ends.len() {
            edge(&[(x, bottom), (x, bottom + BETWEEN)], &block.line.output)?;
        }
    }
    Ok(())
}

/// A line along these corners, rounded.
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
    let mut escaped = String::new();
    for c in printable(text) {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}
