//! The host's side: networks come in as files, students go out as files people can run.

// In data-flow order: a file comes in, is looked at, its students go out; then the images to measure them on.
mod graph;

pub mod checkpoint;
pub mod normalisation;
pub mod onnx;
mod pytorch;

mod simplify;
pub mod split;

pub mod import;
pub mod network;

pub mod drawing;
pub mod inspect;
pub mod plan_table;

pub mod calibrate;

pub mod baseline;
pub mod export;
pub mod finetune;
pub mod recompose;
pub mod safetensors_file;

pub mod download;
pub mod fetch;

pub mod cifar10;
pub mod crop;
pub mod image_folder;
pub mod picture;
pub mod resample;

pub mod data;
pub mod images;

pub mod evaluate;
pub mod interface;
pub mod quickstart;
pub mod report;
