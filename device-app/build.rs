//! Names the commit and the features of a build, for `--version`.
//!
//! Only release builds ask git: a development build would be made anew after every commit.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

/// The features that change what the programs do.
const FEATURES: [&str; 4] = ["small", "flex", "ndarray", "wgpu"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let origin = if is_release { commit() } else { Some("development build".to_owned()) };
    let is_on = |name: &&str| env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase())).is_some();
    let on: Vec<&str> = FEATURES.into_iter().filter(is_on).collect();
    let features = if on.is_empty() { "default features".to_owned() } else { format!("features: {}", on.join(", ")) };
    let parts: Vec<String> = origin.into_iter().chain([features]).collect();
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    println!("cargo::rustc-env=DISTILL_VERSION={version} ({})", parts.join(", "));
}

/// The commit of the repository that this file is in; `None` outside one, as in an unpacked archive.
fn commit() -> Option<String> {
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    // The log of HEAD grows with every commit and checkout.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=10", "HEAD"])
}

/// What git prints, if it is there and succeeds.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
