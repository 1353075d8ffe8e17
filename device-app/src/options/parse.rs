//! Options that are parsed from text or a file.

use std::{collections::BTreeMap, fmt, path::Path};

use anyhow::{Context, Result, bail, ensure};
use distill_core::{Pattern, Ridge, Width};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};

/// `4096` as `4,096`.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

/// Parses `0.5` or `50%`.
///
/// # Errors
/// It is neither.
pub fn parse_share(text: &str) -> Result<f32> {
    let (digits, factor) = text.strip_suffix('%').map_or((text, 1.0), |digits| (digits.trim(), 100.0));
    let number: f32 = digits.parse().context("neither a number such as 0.5 nor a share such as 50%")?;
    Ok(number / factor)
}

/// Parses `auto` or a strength.
pub fn parse_ridge(text: &str) -> Result<Ridge> {
    if text == "auto" {
        return Ok(Ridge::HeldOut);
    }
    Ok(Ridge::Strength(text.parse().context("neither auto nor a number")?))
}

/// Parses `0-3,7` to `[0, 1, 2, 3, 7]`.
pub fn parse_blocks(list: &str) -> Result<Vec<usize>> {
    let wrong = || format!("--blocks {list} is not a list like 0-3,7");
    let mut blocks = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) =
            (first.trim().parse().with_context(wrong)?, last.trim().parse().with_context(wrong)?);
        ensure!(first <= last && last < 4096, wrong());
        blocks.extend(first..=last);
    }
    Ok(blocks)
}

/// `weights`, `kernels` or `2:4`.
pub fn parse_pattern(text: &str) -> Result<Pattern> {
    const WRONG: &str = "neither weights, nor kernels, nor N:M such as 2:4";
    let number = |text: &str| text.parse::<u8>().context(WRONG);
    match (text, text.split_once(':')) {
        ("weights", _) => Ok(Pattern::Weights),
        ("kernels", _) => Ok(Pattern::Kernels),
        (_, Some((kept, of))) => Ok(Pattern::OfEach { kept: number(kept)?, of: number(of)? }),
        _ => bail!(WRONG),
    }
}

/// Reads a file of widths by block.
///
/// # Errors
/// The file, its JSON, or a number out of range.
pub fn read_widths(path: &Path) -> Result<Vec<(String, Width)>> {
    let context = || format!("cannot read the widths in {}", path.display());
    let width = |(name, k)| Ok((name, Width::new(k)?));
    read_numbers(path).and_then(|widths| widths.into_iter().map(width).collect()).with_context(context)
}

/// Reads a file of sparsities by kernel.
///
/// # Errors
/// The file, its JSON, or a number out of range.
pub fn read_sparsities(path: &Path) -> Result<Vec<(String, f32)>> {
    let context = || format!("cannot read the sparsities in {}", path.display());
    let checked = |(name, share)| {
        ensure!((0.0..1.0).contains(&share), "the share of {name} is {share}, not at least 0 and below 1");
        Ok((name, share))
    };
    read_numbers(path).and_then(|shares| shares.into_iter().map(checked).collect()).with_context(context)
}

/// Reads a JSON object of numbers, in the order of their names.
fn read_numbers(path: &Path) -> Result<BTreeMap<String, f32>> {
    let Numbers(numbers) = serde_json::from_slice(&std::fs::read(path)?)?;
    Ok(numbers)
}

/// A JSON object of numbers in which no name comes twice, which people who edit it would not want.
struct Numbers(BTreeMap<String, f32>);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Numbers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of numbers such as {\"name\": 0.5}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Numbers, A::Error> {
                let mut numbers = BTreeMap::new();
                while let Some((name, number)) = entries.next_entry::<String, f32>()? {
                    if numbers.contains_key(&name) {
                        return Err(Error::custom(format_args!("{name} comes twice")));
                    }
                    numbers.insert(name, number);
                }
                Ok(Numbers(numbers))
            }
        }
        from.deserialize_map(Object)
    }
}
