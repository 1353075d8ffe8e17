//! What to type when the core refuses: it knows no options.

use std::error::Error;

use anyhow::anyhow;
use distill_core::{PackError, PlanError, RunError};

/// An error of the core, with what to do about it.
pub trait Advised: Error + Send + Sync + Sized + 'static {
    /// What to do, where there is something.
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
            Self::NoStatistics { .. } => Some("take standard noise (--noise standard)"),
            Self::TooFewImages { .. } => Some("make more with `distill calibrate`, or take another --noise"),
            Self::NoSuchName { .. } => Some("`distill inspect` lists the names"),
            // The feature's groups are of four images.
            Self::Budget { .. } if cfg!(not(feature = "small")) => Some("a build with --features small needs less"),
            Self::BudgetOfDevice => Some("leave out --budget, or --device"),
            _ => None,
        }
    }
}

impl<E: Error + Send + Sync + 'static> Advised for PackError<E> {
    fn advice(&self) -> Option<&'static str> {
        matches!(self, Self::Unfinished).then_some("`distill-device run` continues it with --resume")
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
            Self::Student(PackError::OtherJob) => Some("use those, or start again without --resume"),
            _ => None,
        }
    }
}
