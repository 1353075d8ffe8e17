//! How the students of reports are made: the columns of their tables.

use distill_core::SourceKind;
use serde::{Deserialize, Serialize};

use crate::learn::Baseline;

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Standard noise, gradient steps alone: the paper's recipe.
    Standard,
    /// Propagated noise, solve, gradient steps.
    Propagated,
    /// Calibrated noise, solve alone.
    Solved,
    /// Calibrated noise, solve, gradient steps.
    Distilled,
    /// The same, then the whole network fine-tuned on that noise.
    FineTuned,
    /// Knowledge distillation on noise images.
    GnKd,
    /// Zero-shot knowledge distillation.
    Zskd,
    /// Labels alone, from random weights.
    Ce,
    /// Knowledge distillation on images and labels, from random weights.
    Kd,
    /// Recorded activations, solve, gradient steps.
    Nd,
    /// The same, then the whole network fine-tuned on images and labels.
    NdFt,
    /// Recorded activations, solve, gradient steps that look two blocks ahead.
    NdAhead,
    /// The same, fine-tuned likewise.
    NdAheadFt,
    /// The smallest weights removed, nothing else.
    Magnitude,
    /// The same, then knowledge distillation of the whole network on images and labels.
    MagnitudeFt,
    /// Recorded activations, gradient steps in the course of which the smallest weights go: the paper's recipe.
    Ramp,
}

impl Method {
    /// The baseline that it is, if any.
    pub fn baseline(self) -> Option<Baseline> {
        match self {
            Self::GnKd => Some(Baseline::GnKd),
            Self::Zskd => Some(Baseline::Zskd),
            Self::Ce => Some(Baseline::Ce),
            Self::Kd => Some(Baseline::Kd),
            _ => None,
        }
    }

    /// The method whose students it fine-tunes.
    pub fn before(self) -> Option<Self> {
        match self {
            Self::FineTuned => Some(Self::Distilled),
            Self::NdFt => Some(Self::Nd),
            Self::NdAheadFt => Some(Self::NdAhead),
            Self::MagnitudeFt => Some(Self::Magnitude),
            _ => None,
        }
    }

    /// What its neighbourhoods are distilled from, or its students fine-tuned on.
    pub fn source(self) -> SourceKind {
        match self {
            Self::Standard | Self::GnKd | Self::Magnitude => SourceKind::Standard,
            Self::Propagated => SourceKind::Propagated,
            Self::Solved | Self::Distilled | Self::FineTuned | Self::Zskd => SourceKind::Calibrated,
            Self::Ce
            | Self::Kd
            | Self::Nd
            | Self::NdFt
            | Self::NdAhead
            | Self::NdAheadFt
            | Self::MagnitudeFt
            | Self::Ramp => SourceKind::Recorded,
        }
    }

    /// Whether its students are made from calibrated noise in the teacher's pack.
    pub fn takes_noise(self) -> bool {
        self.source() == SourceKind::Calibrated && self.baseline().is_none()
    }

    /// Its name in files and options.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Its name in the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Standard => "standard noise, steps",
            Self::Propagated => "propagated, solve + steps",
            Self::Solved => "calibrated, solve only",
            Self::Distilled => "calibrated, solve + steps",
            Self::FineTuned => "calibrated, fine-tuned",
            Self::GnKd => "GN-KD",
            Self::Zskd => "ZSKD",
            Self::Ce => "CE",
            Self::Kd => "KD",
            Self::Nd => "ND",
            Self::NdFt => "ND+FT",
            Self::NdAhead => "ND, 2 ahead",
            Self::NdAheadFt => "ND+FT, 2 ahead",
            Self::Magnitude => "magnitude, untrained",
            Self::MagnitudeFt => "magnitude, KD",
            Self::Ramp => "magnitude in the course of steps",
        }
    }
}
