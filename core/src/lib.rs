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
mod engine;
mod heap;
mod kernels;
mod noise;
mod pack;
mod recipe;
mod run;
mod solve;
mod storage;
mod student;
mod tensor;
mod train;

#[cfg(feature = "onnx")]
pub use block::op::onnx;
pub use block::op::{Activation, AveragePool, BatchNorm, MaxPool, Op, Pad, Slice, Window};
pub use block::{Block, BlockBuilder, BlockError, MAX_NODES, MAX_PARTS, Node, Nodes, Parts, Role, Statistics};
pub use engine::{Chain, Device, DeviceBlock, DistillError, Images, MICRO_BATCH, NetworkTrainer, Optimizer, Portions};
pub use heap::CountingAllocator;
pub use kernels::conv::Conv;
pub use noise::{
    Batches, Boundary, Cache, Inputs, MEASURED_INPUTS, NOISE_BATCH, NoiseImages, Pixels, Purpose, Source, Stream,
};
pub use pack::{Calibrated, Contents, Encoding, MAGIC, Manifest, Outline, Pack, PackError, PackWriter, VERSION};
pub use recipe::{
    Calibration, Noise, Pull, Recipe, Ridge, Schedule, Selection, Start, Training, Update, Width, WidthError,
};
pub use run::{
    BlockPlan, BlockReport, Budget, CachePlan, Distilled, Event, MAX_INPUTS, Plan, PlanError, RunError, RunFailure,
    Settings, SettingsError, distill, plan, run,
};
pub use solve::{NormalEquations, solvable_nodes};
pub use storage::{ReadAt, Scratch, ScratchError, WriteAt};
pub use student::{fold_batch_norms, inner_channels, inner_nodes, replace_activations, shrink, without_layers};
pub use tensor::{Dims, MAX_ELEMENTS, MAX_EXTENT, Shape, Weight};
pub use train::{BlockTrainer, Calibrator, Lessons, Tuning, finetune, learn, train};
