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
    /// Table 3a.
    Sparsity,
}

/// How much of a student is there: what the rows of a table differ in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Size {
    /// Bottleneck multiplier.
    pub width: f32,
    /// Share of the weights of its convolutions that are zero.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sparsity: f32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(share: &f32) -> bool {
    *share == 0.0
}

/// What the paper reports, of a teacher of its own.
pub struct Paper {
    /// Where in Shao et al. 2020, and what to know of it.
    pub title: &'static str,
    pub columns: &'static [&'static str],
    /// Accuracies in percent by width, or by sparsity.
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

const SPARSITY: Paper = Paper {
    title: "table 3a, a ResNet-50 on ImageNet",
    columns: &["ND", "KD"],
    rows: &[
        (0.1, &[76.00, 75.63]),
        (0.2, &[76.03, 75.94]),
        (0.3, &[75.82, 75.69]),
        (0.4, &[75.63, 75.45]),
        (0.5, &[75.26, 75.20]),
        (0.6, &[73.78, 74.60]),
        (0.7, &[69.52, 69.61]),
        (0.8, &[49.83, 70.33]),
        (0.9, &[0.60, 0.10]),
    ],
    beside: 0,
};

impl Kind {
    /// The base of its files' names.
    pub fn name(self) -> &'static str {
        match self {
            Self::DataFree => "data-free",
            Self::ParameterReduction => "parameter-reduction",
            Self::LookAhead => "look-ahead",
            Self::Timing => "timing",
            Self::Sparsity => "sparsity",
        }
    }

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::DataFree => "Distillation without data",
            Self::ParameterReduction => "Fewer parameters, with data",
            Self::LookAhead => "Looking ahead",
            Self::Timing => "How long it takes",
            Self::Sparsity => "Sparse students",
        }
    }

    /// Its students, in the order of the columns.
    pub fn methods(self) -> &'static [Method] {
        use Method::{
            Ce, Distilled, FineTuned, GnKd, Kd, Magnitude, MagnitudeFt, Nd, NdAhead, NdAheadFt, NdFt, Propagated, Ramp,
            Solved, Standard, Zskd,
        };
        match self {
            Self::DataFree => &[Standard, Propagated, Solved, Distilled, FineTuned, GnKd, Zskd],
            Self::ParameterReduction => &[Nd, NdFt, Kd, Ce, Distilled, FineTuned],
            Self::LookAhead => &[Nd, NdAhead, NdFt, NdAheadFt],
            Self::Timing => &[Nd, NdFt, Kd, Ce],
            Self::Sparsity => &[Magnitude, Ramp, Solved, Distilled, FineTuned, Nd, NdFt, MagnitudeFt],
        }
    }

    /// The widths of its rows unless told otherwise, or their sparsities: the paper's.
    pub fn rows(self) -> &'static [f32] {
        match self {
            Self::Sparsity => &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
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
            Self::Sparsity => &SPARSITY,
        }
    }

    /// The student of a row.
    pub fn size(self, row: f32) -> Size {
        match self {
            Self::Sparsity => Size { width: 1.0, sparsity: row },
            _ => Size { width: row, sparsity: 0.0 },
        }
    }

    /// The row of a student.
    pub fn row(self, size: Size) -> f32 {
        if self == Self::Sparsity { size.sparsity } else { size.width }
    }

    /// What the rows are called in tables, and on the axis of a plot.
    pub fn axis(self) -> [&'static str; 2] {
        match self {
            Self::Sparsity => ["sparsity", "share of zeros in the blocks' convolutions"],
            _ => ["k", "share of inner channels kept, k"],
        }
    }

    /// Whether some of its students learn from data.
    pub fn takes_data(self) -> bool {
        self != Self::DataFree
    }
}

impl Paper {
    /// The accuracies of a width or sparsity.
    pub fn row(&self, share: f32) -> Option<&'static [f64]> {
        self.rows.iter().find(|(row, _)| *row == share).map(|(_, row)| *row)
    }
}
