//! Advice on command-line options for the core's errors: the core does not know the options.

use std::error::Error;

use anyhow::anyhow;
use distill_core::{PackError, PlanError, RunError};

/// An error of the core with advice.
pub trait Advised: Error + Send + Sync + Sized + 'static {
    /// What the user can do, if anything.
    fn advice(&self) -> Option<&'static str>;

    /// The error with its advice.
    fn advised(self) -> anyhow::Error {
        match self.advice() {
            Some(advice) => anyhow!("{self}: {advice}"),
            None => self.into(),
        }
    }
}

impl<R: Error + Send + Sync + 'static> Advised for PlanError<R> {
    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::NoStatistics { .. } => {
                Some("make images with `distill calibrate` (--noise calibrated), or use --noise standard")
            }
            Self::TooFewImages { .. } => Some("make more with `distill calibrate`, or choose another --noise"),
            Self::Teacher(error) => error.advice(),
            Self::NoSuchName { .. } | Self::NoSuchLayer { .. } => {
                Some("`distill inspect` lists the blocks, and with --json their kernels")
            }
            // The feature reduces groups to four images.
            Self::Budget { .. } if cfg!(not(feature = "small")) => Some(
                "`cargo build --release -p distill-device --features small` makes a distill-device that needs less",
            ),
            Self::BudgetOfDevice => Some("leave out --budget, or --device"),
            _ => None,
        }
    }
}

impl<E: Error + Send + Sync + 'static> Advised for PackError<E> {
    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Unfinished => Some("the same `distill run` resumes it"),
            Self::Unsignable(_) => Some("`distill import` or `calibrate` writes a teacher, `run` its students"),
            Self::NotAPack => Some("`distill import` makes packs of models"),
            _ => None,
        }
    }
}

impl<R, W> Advised for RunError<R, W>
where
    R: Error + Send + Sync + 'static,
    W: Error + Send + Sync + 'static,
{
    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Plan(error) => error.advice(),
            Self::Student(PackError::OtherJob) => Some("use the same ones, or start over with --fresh"),
            Self::Useless(_) => Some("keep more of it (a larger --width), and leave the solve on"),
            _ => None,
        }
    }
}
