//! One binary for every test at a boundary: linking once is most of what it costs.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

#[path = "suite/naive.rs"]
mod naive;

#[path = "suite/blocks.rs"]
mod blocks;
#[path = "suite/calibrated.rs"]
mod calibrated;
#[path = "suite/calibration.rs"]
mod calibration;
#[path = "suite/checkpoints.rs"]
mod checkpoints;
#[path = "suite/commands.rs"]
mod commands;
#[path = "suite/compress.rs"]
mod compress;
#[path = "suite/cuts.rs"]
mod cuts;
#[path = "suite/damaged_packs.rs"]
mod damaged_packs;
#[path = "suite/data.rs"]
mod data;
#[path = "suite/desk.rs"]
mod desk;
#[path = "suite/drawing.rs"]
mod drawing;
#[path = "suite/export.rs"]
mod export;
#[path = "suite/graphs.rs"]
mod graphs;
#[path = "suite/image_folders.rs"]
mod image_folders;
#[path = "suite/import.rs"]
mod import;
#[path = "suite/inputs.rs"]
mod inputs;
#[path = "suite/json.rs"]
mod json;
#[path = "suite/kept_files.rs"]
mod kept_files;
#[path = "suite/kernels.rs"]
mod kernels;
#[path = "suite/network.rs"]
mod network;
#[path = "suite/onnx_import.rs"]
mod onnx_import;
#[path = "suite/options.rs"]
mod options;
#[path = "suite/packs.rs"]
mod packs;
#[path = "suite/parts.rs"]
mod parts;
#[path = "suite/pytorch_names.rs"]
mod pytorch_names;
#[path = "suite/recorded.rs"]
mod recorded;
#[path = "suite/run.rs"]
mod run;
#[path = "suite/search.rs"]
mod search;
#[path = "suite/signed_packs.rs"]
mod signed_packs;
#[path = "suite/solve.rs"]
mod solve;
#[path = "suite/sparse.rs"]
mod sparse;
#[path = "suite/training.rs"]
mod training;
#[path = "suite/transforms.rs"]
mod transforms;
#[path = "suite/whole_students.rs"]
mod whole_students;
#[cfg(feature = "burn")]
#[path = "suite/with_burn.rs"]
mod with_burn;
#[path = "suite/with_data.rs"]
mod with_data;
