//! What each report holds: its students, and what the paper says of its own.

use serde::{Deserialize, Serialize};

use super::method::Method;

/// A table of the paper that is measured again with our students.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Table 3b.
    DataFree,
    /// Table 1.
    ParameterReduction,
    /// Table 5.
    LookAhead,
    /// Table 6.
    Timing,
}

/// What the paper reports, of a teacher of its own.
pub struct Paper {
    /// Where in Shao et al. 2020, and what to know of it.
    pub title: &'static str,
    pub columns: &'static [&'static str],
    /// Accuracies in percent by width.
    pub rows: &'static [(f32, &'static [f64])],
    /// The column that stands beside ours.
    pub beside: usize,
}

/// For CIFAR-10 and a ResNet-20.
const DATA_FREE: Paper = Paper {
    title: "table 3b; CE sees the data",
    columns: &["CE", "G-ND", "G-ND+FT", "GN-KD", "ZSKD"],
    rows: &[
        (1.0, &[91.60, 91.51, 91.51, 16.00, 21.50]),
        (0.9, &[91.31, 88.78, 88.78, 12.97, 22.77]),
        (0.75, &[90.89, 80.64, 83.74, 13.00, 21.54]),
        (0.5, &[90.17, 53.40, 54.83, 12.74, 22.17]),
    ],
    beside: 2,
};

const PARAMETER_REDUCTION: Paper = Paper {
    title: "table 1",
    columns: &["CE", "KD", "ND+FT", "ND"],
    rows: &[
        (1.0, &[91.6, 91.9, 91.6, 91.6]),
        (0.9, &[91.3, 91.7, 91.7, 91.3]),
        (0.8, &[90.8, 91.5, 91.7, 90.7]),
        (0.75, &[90.9, 91.6, 91.7, 87.6]),
        (0.6, &[90.5, 90.6, 91.1, 90.8]),
        (0.5, &[90.2, 91.0, 91.0, 88.2]),
        (0.4, &[89.3, 89.7, 90.0, 83.5]),
    ],
    beside: 2,
};

const LOOK_AHEAD: Paper = Paper {
    title: "table 5",
    columns: &["ND", "ND+FT", "ND, 2 ahead", "ND+FT, 2 ahead"],
    rows: &[(0.9, &[91.1, 92.0, 91.4, 92.1]), (0.75, &[89.7, 91.9, 90.6, 91.8]), (0.5, &[85.7, 91.3, 87.1, 91.5])],
    beside: 3,
};

impl Kind {
    /// The base of its files' names.
    pub fn name(self) -> &'static str {
        match self {
            Self::DataFree => "data-free",
            Self::ParameterReduction => "parameter-reduction",
            Self::LookAhead => "look-ahead",
            Self::Timing => "timing",
        }
    }

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::DataFree => "Distillation without data",
            Self::ParameterReduction => "Fewer parameters, with data",
            Self::LookAhead => "Looking ahead",
            Self::Timing => "How long it takes",
        }
    }

    /// Its students, in the order of the columns.
    pub fn methods(self) -> &'static [Method] {
        use Method::{
            Ce, Distilled, FineTuned, GnKd, Kd, Nd, NdAhead, NdAheadFt, NdFt, Propagated, Solved, Standard, Zskd,
        };
        match self {
            Self::DataFree => &[Standard, Propagated, Solved, Distilled, FineTuned, GnKd, Zskd],
            Self::ParameterReduction => &[Nd, NdFt, Kd, Ce, Distilled, FineTuned],
            Self::LookAhead => &[Nd, NdAhead, NdFt, NdAheadFt],
            Self::Timing => &[Nd, NdFt, Kd, Ce],
        }
    }

    /// Its widths unless told otherwise, the paper's.
    pub fn widths(self) -> &'static [f32] {
        match self {
            Self::DataFree => &[1.0, 0.9, 0.75, 0.5],
            Self::ParameterReduction => &[1.0, 0.9, 0.8, 0.75, 0.6, 0.5, 0.4],
            Self::LookAhead => &[0.9, 0.75, 0.5],
            Self::Timing => &[0.5],
        }
    }

    /// The paper's accuracies.
    pub fn paper(self) -> &'static Paper {
        match self {
            Self::DataFree => &DATA_FREE,
            Self::ParameterReduction | Self::Timing => &PARAMETER_REDUCTION,
            Self::LookAhead => &LOOK_AHEAD,
        }
    }

    /// Whether some of its students learn from data.
    pub fn takes_data(self) -> bool {
        self != Self::DataFree
    }
}

impl Paper {
    /// A width's accuracies.
    pub fn row(&self, k: f32) -> Option<&'static [f64]> {
        self.rows.iter().find(|(width, _)| *width == k).map(|(_, row)| *row)
    }
}
