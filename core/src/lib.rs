//! Neighbourhood distillation without data, on the device itself.
//!
//! A teacher network, cut into neighbourhoods, comes in as a [`Pack`]. [`run`] takes one block at
//! a time: [`Inputs`] gives it noise, [`fold_batch_norms`] and [`shrink`] make a narrower student,
//! [`NormalEquations`] solves its last convolution in closed form, [`train`] refines it by gradient, and the
//! student block goes into another pack. A [`Calibrator`] makes the noise that looks like data to the teacher, and
//! [`finetune`] lets a whole student learn from it once more. Method: Shao, Moroz, Elad, Movshovitz-Attias,
//! "Neighbourhood Distillation" (2020).
//!
//! The crate is `no_std` with `alloc`. It opens nothing, prints nothing, reads no clock and owns no
//! global randomness: bytes, seeds and devices come in as arguments.

#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "std"))]
extern crate std;

mod block;
mod block_error;
mod boundary;
mod builder;
#[cfg(feature = "burn")]
mod burn_device;
mod calibrate;
mod chain;
mod closed_form;
mod cpu;
mod device;
mod distill;
mod eliminate;
mod finetune;
mod fold;
mod forward;
mod gather;
mod heap;
mod images;
mod inputs;
mod kernels;
mod network;
mod noise;
mod noise_images;
mod op;
mod optimizer;
mod pack;
mod plan;
mod project;
mod recipe;
mod report;
mod ridge;
mod run;
mod settings;
mod shrink;
mod solve;
mod stage;
mod storage;
mod tensor;
mod train;
mod variant;

pub use block::{Block, MAX_PARTS, Node, Nodes, Parts, Role};
pub use block_error::{BlockError, MAX_NODES};
pub use boundary::{Boundary, Cache};
pub use builder::BlockBuilder;
pub use calibrate::{Calibration, Calibrator, Pull, Start};
pub use chain::Chain;
pub use device::{Device, Statistics};
pub use distill::{Distilled, distill};
pub use finetune::{Lessons, Tuning, finetune, learn};
pub use fold::fold_batch_norms;
pub use forward::DeviceBlock;
pub use heap::CountingAllocator;
pub use images::Images;
pub use inputs::{Batches, Inputs, MEASURED_INPUTS, Source};
pub use network::NetworkTrainer;
pub use noise::{NOISE_BATCH, Noise, Purpose, Stream};
pub use noise_images::{NoiseImages, Pixels};
#[cfg(feature = "onnx")]
pub use op::onnx;
pub use op::{Activation, AveragePool, BatchNorm, Conv, MaxPool, Op, Pad, Slice, Window};
pub use optimizer::{Optimizer, Schedule, Training, Update};
pub use pack::{Calibrated, Contents, Encoding, MAGIC, Manifest, Outline, Pack, PackError, PackWriter, VERSION};
pub use plan::{BlockPlan, CachePlan, Plan, PlanError, plan};
pub use recipe::{Recipe, Selection, replace_activations, without_layers};
pub use report::BlockReport;
pub use ridge::Ridge;
pub use run::{Event, RunError, RunFailure, run};
pub use settings::{Budget, MAX_INPUTS, Settings, SettingsError};
pub use shrink::{Width, WidthError, inner_channels, inner_nodes, shrink};
pub use solve::{NormalEquations, solvable_nodes};
pub use stage::{DistillError, MICRO_BATCH, Portions};
pub use storage::{ReadAt, Scratch, ScratchError, WriteAt};
pub use tensor::{Dims, MAX_ELEMENTS, MAX_EXTENT, Shape, Weight};
pub use train::{BlockTrainer, train};
