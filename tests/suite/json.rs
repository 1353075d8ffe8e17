//! docs/json.md against what the programs print: `check` reads the table of a command and compares an object with it.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};

/// A row of a table.
struct Row {
    kind: String,
    may_be_null: bool,
    optional: bool,
}

/// The tables of the document: each heading's commands, and the rows by key.
fn tables() -> Vec<(Vec<String>, BTreeMap<String, Row>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
    let text = fs::read_to_string(path).unwrap();
    let table = |section: &str| {
        let (title, body) = section.split_once('\n').unwrap();
        let commands = title.split(',').map(|command| command.trim().trim_matches('`').to_owned()).collect();
        let rows = body.lines().filter(|line| line.starts_with("| `")).map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let (kind, rest) = cells[2].split_once([' ', ',']).unwrap_or((cells[2], ""));
            let row = Row {
                kind: kind.to_owned(),
                may_be_null: rest.contains("or null"),
                optional: rest.contains("optional"),
            };
            (cells[1].trim_matches('`').to_owned(), row)
        });
        (commands, rows.collect())
    };
    text.split("\n## ").skip(1).map(table).collect()
}

/// Every value inside `value` that is no object and no array, by its path; `shape`s and empty arrays are values, too.
fn leaves<'a>(value: &'a Value, path: &str, rows: &BTreeMap<String, Row>, found: &mut Vec<(String, &'a Value)>) {
    match value {
        _ if rows.contains_key(path) => found.push((path.to_owned(), value)),
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            leaves(value, &path, rows, found);
        }),
        Value::Array(items) => items.iter().for_each(|item| leaves(item, &format!("{path}[]"), rows, found)),
        _ => found.push((path.to_owned(), value)),
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "shape" => {
            let keys = value.as_object().map(|shape| shape.keys().map(String::as_str).collect::<Vec<_>>());
            keys.is_some_and(|keys| keys == ["channels", "height", "width"])
        }
        "any" => true,
        other => panic!("docs/json.md names the type {other}"),
    }
}

/// Panics unless `object`, printed by `line`, is as its table says; `line` starts with the program's name.
pub fn check(line: &str, object: &Value) {
    let arguments = line.split_once(' ').map_or("", |(_, arguments)| arguments);
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let is_called = |command: &String| command.split(' ').all(|word| words.contains(&word));
    let tables = tables();
    // The longest heading: `inspect --budget` before `inspect`.
    let called = tables.iter().flat_map(|(commands, rows)| commands.iter().map(move |command| (command, rows)));
    let (_, rows) = called
        .filter(|(command, _)| is_called(command) && words.first() == command.split(' ').next().as_ref())
        .max_by_key(|(command, _)| command.len())
        .unwrap_or_else(|| panic!("docs/json.md has no table for {line}"));
    compare(line, rows, object);
}

/// Panics unless `object` is as the table of errors says.
pub fn check_error(line: &str, object: &Value) {
    let tables = tables();
    let (_, rows) = tables.iter().find(|(commands, _)| commands[0] == "Errors").unwrap();
    compare(line, rows, object);
}

fn compare(line: &str, rows: &BTreeMap<String, Row>, object: &Value) {
    let mut found = Vec::new();
    leaves(object, "", rows, &mut found);
    for (path, value) in &found {
        let row = rows.get(path).unwrap_or_else(|| panic!("{line}: {path} is not in docs/json.md"));
        let fits = if value.is_null() { row.may_be_null } else { is_of(&row.kind, value) };
        assert!(fits, "{line}: {path} is {value}, docs/json.md says {}", row.kind);
    }
    for (path, _) in rows.iter().filter(|(_, row)| !row.optional) {
        let is_there = found.iter().any(|(name, _)| name == path) || is_in_empty_array(object, path);
        assert!(is_there, "{line}: {path} is missing");
    }
}

/// Whether the path leads through an array without items.
fn is_in_empty_array(object: &Value, path: &str) -> bool {
    path.split_once("[]").is_some_and(|(array, rest)| {
        let value = array.split('.').try_fold(object, |value, key| value.get(key));
        value.and_then(Value::as_array).is_some_and(|items| {
            items.iter().all(|item| !rest.is_empty() && is_in_empty_array(item, rest.trim_start_matches('.')))
        })
    })
}

#[test]
fn objects_that_differ_from_their_table_are_found() {
    let good = json!({"folder": "d", "source": null, "images": 1});
    check("distill data fetch cifar10", &good);
    check_error("distill run", &json!({"error": "no", "causes": []}));
    for wrong in [
        json!({"folder": "d", "images": 1}),
        json!({"folder": null, "source": null, "images": 1}),
        json!({"folder": "d", "source": null, "images": 1.5}),
        json!({"folder": "d", "source": null, "images": 1, "more": 1}),
    ] {
        assert!(std::panic::catch_unwind(|| check("distill data fetch cifar10", &wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn every_command_has_a_table() {
    let documented: Vec<String> = tables().into_iter().flat_map(|(commands, _)| commands).collect();
    for command in super::commands::all_commands() {
        assert!(documented.contains(&command), "docs/json.md has no table for `{command}`");
    }
}
