//! What `--version` says.

/// The package's version, and in parentheses the commit that it was built from, if known, and its features.
pub const VERSION: &str = env!("DISTILL_VERSION");
