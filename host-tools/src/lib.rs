//! The host's side: trained networks come in as files, and their students go out as files that other runtimes open.
//!
//! Imports between these modules run one way: each uses only those above it.

pub mod network;

pub mod onnx;

pub mod images;

pub mod import;

pub mod export;

pub mod learn;

pub mod measure;

pub mod show;

pub mod quickstart;

pub mod search;

pub mod compress;
