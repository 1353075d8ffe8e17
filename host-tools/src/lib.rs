//! The host's side: networks come in as files, students go out as files people can run.

// In data-flow order.
pub mod checkpoint;
pub mod drawing;
pub mod export;
mod graph;
pub mod import;
pub mod inspect;
pub mod network;
pub mod onnx;
pub mod plan_table;
mod pytorch;
pub mod recompose;
pub mod safetensors_file;
mod simplify;
pub mod split;

pub mod cifar10;
pub mod crop;
pub mod download;
pub mod evaluate;
pub mod fetch;
pub mod image_folder;
pub mod images;
pub mod picture;
mod resample;

pub mod quickstart;
