//! A bound on a student's size.

use std::{fmt, str::FromStr};

/// A number, or a share of the teacher's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// At most so many.
    Count(u64),
    /// At most this share, above 0 and at most 1.
    Share(f64),
}

impl FromStr for Amount {
    type Err = String;

    /// `50%`, `0.5`, `135000`, `135k` or `1.5M`.
    fn from_str(text: &str) -> Result<Self, String> {
        let units = [('%', 0.01), ('k', 1e3), ('K', 1e3), ('M', 1e6), ('G', 1e9)];
        let unit = units.into_iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
        let (digits, factor) = unit.unwrap_or((text, 1.0));
        let number = digits.trim().parse::<f64>().map(|number| number * factor);
        let (is_percent, is_number) = (text.ends_with('%'), factor > 1.0);
        match number {
            Ok(share) if share > 0.0 && share <= 1.0 && !is_number => Ok(Self::Share(share)),
            Ok(count) if count >= 1.0 && !is_percent && (is_number || count.fract() == 0.0) => {
                Ok(Self::Count(count as u64))
            }
            _ => Err(format!("{text} is neither a share such as 50% or 0.5 nor a number such as 135000 or 135k")),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Share(share) => write!(f, "{}%", 100.0 * share),
        }
    }
}

impl Amount {
    /// The number, of a teacher that has so many.
    pub fn of(self, teacher: u64) -> u64 {
        match self {
            Self::Count(count) => count,
            Self::Share(share) => (share * teacher as f64) as u64,
        }
    }
}
