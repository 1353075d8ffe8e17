//! A picture as Graphviz source: `dot -Tpdf network.dot -o network.pdf`.

use std::fmt::{self, Write};

use super::{Drawing, DrawnBlock, INNER, SHORTCUT, Style};

pub(super) fn write(out: &mut String, drawing: &Drawing<'_>) -> fmt::Result {
    writeln!(out, "digraph {} {{", quoted(&drawing.inspection.architecture))?;
    writeln!(out, "  graph [fontname=\"Helvetica\", compound=true, nodesep=0.2, ranksep=0.25];")?;
    writeln!(
        out,
        "  node [fontname=\"Helvetica\", fontsize=10, shape=box, style=filled, height=0.3, margin=\"0.1,0.04\"];"
    )?;
    writeln!(out, "  edge [fontname=\"Helvetica\", fontsize=10, color=\"#475569\", arrowsize=0.6];")?;
    for (number, block) in drawing.blocks.iter().enumerate() {
        cluster(out, number, block)?;
    }
    let pairs = drawing.blocks.windows(2).enumerate().filter(|_| drawing.joined);
    for (number, pair) in pairs {
        let (last, next) = (pair[0].operators.len(), number + 1);
        let shape = pair[1].line.input;
        writeln!(
            out,
            "  b{number}v{last} -> b{next}v0 [penwidth=4, label=\"  {shape}\", ltail=cluster_{number}, lhead=cluster_{next}];"
        )?;
    }
    writeln!(out, "}}")
}

/// A block: `b3v0` is its input, `b3v1` the output of its first operator.
fn cluster(out: &mut String, number: usize, block: &DrawnBlock<'_>) -> fmt::Result {
    let text = block.text().iter().map(|line| escaped(line)).collect::<Vec<_>>().join("\\l");
    writeln!(out, "  subgraph cluster_{number} {{")?;
    writeln!(out, "    label=\"{text}\\l\"; labeljust=l; fontsize=11; color=\"#94a3b8\"; style=rounded;")?;
    writeln!(out, "    b{number}v0 [shape=point, width=0.08, label=\"\"];")?;
    for (index, operator) in block.operators.iter().enumerate() {
        let label = [operator.name, &operator.kind].map(escaped).join("\\n");
        let Style { fill, stroke, .. } = operator.colour.style();
        let (stroke, width) = if operator.inner { (INNER, 2) } else { (stroke, 1) };
        writeln!(
            out,
            "    b{number}v{} [label=\"{label} → {}\", tooltip={}, fillcolor=\"{fill}\", color=\"{stroke}\", penwidth={width}];",
            index + 1,
            operator.channels,
            quoted(operator.full_name),
        )?;
    }
    for edge in &block.edges {
        let style = if edge.shortcut { format!(" [color=\"{SHORTCUT}\", penwidth=2]") } else { String::new() };
        writeln!(out, "    b{number}v{} -> b{number}v{}{style};", edge.from, edge.to + 1)?;
    }
    writeln!(out, "  }}")
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// In quotes, Graphviz interprets backslashes and HTML entities.
fn escaped(text: &str) -> String {
    super::escaped(text, &[('"', "\\\""), ('\\', "\\\\"), ('&', "&amp;")])
}
