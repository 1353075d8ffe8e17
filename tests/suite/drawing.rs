//! What `inspect --draw` writes: every operator once, well-formed whatever the names.

use std::path::Path;

use distill_core::{
    Block, BlockBuilder, Contents, Conv, Fingerprint, Manifest, Op, Purpose, Role, Shape, Stream, inner_nodes,
};
use distill_host::show::{Format, draw, inspect};
use distill_tests::{gaussian, manifest, teacher};

fn drawn(blocks: &[Block], format: Format) -> String {
    draw(&inspect(&manifest(), blocks), blocks, format).unwrap()
}

/// Every tag closed in its order, no stray markup in texts and attributes.
fn check_well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    for piece in svg.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').unwrap_or_else(|| panic!("no end of <{piece}"));
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of <{tag}>");
        assert!(!text.contains('>'), "stray > in {text}");
        let name = tag.split([' ', '/']).next().unwrap();
        match tag.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed)),
            None if tag.ends_with('/') => {}
            None => open.push(name),
        }
        for entity in piece.split('&').skip(1) {
            let known = ["lt;", "gt;", "amp;", "quot;"].iter().any(|known| entity.starts_with(known));
            assert!(known, "stray & before {entity}");
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    assert!(!svg.chars().any(|c| c.is_control() && c != '\n'));
}

/// Whether the quoted strings of every line end, and its braces, too.
fn check_dot(dot: &str) {
    let mut depth = 0;
    for line in dot.lines() {
        let (mut quoted, mut chars) = (false, line.chars());
        while let Some(c) = chars.next() {
            match c {
                '\\' if quoted => drop(chars.next()),
                '"' => quoted = !quoted,
                '{' if !quoted => depth += 1,
                '}' if !quoted => depth -= 1,
                _ => {}
            }
        }
        assert!(!quoted, "a string goes past {line}");
    }
    assert_eq!(depth, 0);
}

#[test]
fn every_operator_is_drawn_once_in_the_frame_of_its_block() {
    let blocks = teacher();
    let (svg, dot) = (drawn(&blocks, Format::Svg), drawn(&blocks, Format::Dot));
    check_well_formed(&svg);
    check_dot(&dot);
    assert_eq!(svg.matches("<g transform=").count(), blocks.len());
    assert_eq!(dot.matches("subgraph cluster_").count(), blocks.len());
    for node in blocks.iter().flat_map(Block::nodes) {
        assert_eq!(svg.matches(&format!("<title>{}</title>", node.name)).count(), 1, "{}", node.name);
        assert_eq!(dot.matches(&format!("tooltip=\"{}\"", node.name)).count(), 1, "{}", node.name);
    }
    // The names in the boxes leave out the block's.
    assert_eq!(svg.matches(">conv1</text>").count(), 4);
    assert_eq!(svg.matches("pad channels 2+2").count(), 1);
    // Into, between and out of the blocks.
    assert_eq!(svg.matches("class=\"w\"").count(), blocks.len() + 1);
    assert_eq!(dot.matches("penwidth=4").count(), blocks.len() - 1);
    // Two identities, and an option-A shortcut of three edges; in the picture two of them join stacks. One is the legend's.
    assert_eq!(dot.matches("#16a34a").count(), 2 + 3);
    assert_eq!(svg.matches("class=\"s\"").count(), 1 + 2 + 2);
}

#[test]
fn the_layers_a_smaller_width_takes_from_are_marked() {
    let blocks = teacher();
    // The first convolution of each neighbourhood, with what follows it.
    assert_eq!(inner_nodes(&blocks[1]), [true, true, true, false, false, false, false]);
    let svg = drawn(&blocks, Format::Svg);
    assert_eq!(svg.matches("class=\"e i\"").count(), 3);
    assert_eq!(drawn(&blocks, Format::Dot).matches("penwidth=2];").count(), 3 + 5);
}

#[test]
fn names_of_foreign_files_are_escaped() {
    let name = "a<b>&\"c\"\\d]]>";
    let mut builder = BlockBuilder::new(name, Role::Neighbourhood, Shape::new(3, 8, 8));
    let kernel = gaussian(&mut Stream::new(1, Purpose::Images, 0), "w", &[3, 3, 1, 1]);
    builder.push(name, Op::Conv(Conv::square(1, 0)), &[0], vec![kernel]).unwrap();
    let blocks = [builder.finish().unwrap()];
    let manifest = Manifest { architecture: name.into(), ..manifest() };
    let [svg, dot] =
        [Format::Svg, Format::Dot].map(|format| draw(&inspect(&manifest, &blocks), &blocks, format).unwrap());
    check_well_formed(&svg);
    check_dot(&dot);
    assert!(svg.contains("<title>a&lt;b&gt;&amp;&quot;c&quot;\\d]]&gt;</title>"), "{svg}");
    assert!(dot.contains(r#"tooltip="a<b>&amp;\"c\"\\d"#), "{dot}");
}

#[test]
fn students_stand_alone() {
    let blocks = &teacher()[1..4];
    let manifest = Manifest { contents: Contents::Neighbourhoods { teacher: Fingerprint::Crc(0) }, ..manifest() };
    let svg = draw(&inspect(&manifest, blocks), blocks, Format::Svg).unwrap();
    check_well_formed(&svg);
    assert_eq!(svg.matches("class=\"w\"").count(), 0);
}

#[test]
fn a_picture_of_another_kind_is_refused() {
    assert_eq!(Format::of(Path::new("a.svg")).unwrap(), Format::Svg);
    let error = Format::of(Path::new("a.png")).unwrap_err();
    assert_eq!(error.to_string(), "cannot draw a.png: unknown ending \"png\" (known: dot, svg)");
}
