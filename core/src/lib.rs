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
pub use block::{
    Block, BlockBuilder, BlockError, MAX_NODES, MAX_PARTS, Node, Nodes, Part, Parts, Role, Statistics,
    op::{Activation, AveragePool, BatchNorm, MaxPool, Op, Pad, Slice, Window},
};
pub use engine::{
    Batch, Chain, Classes, Device, DeviceBlock, Difference, DistillError, Engine, Goal, Goals, Learners, MICRO_BATCH,
    Optimizer, Portions, Trainer, one_hot,
};
pub use heap::CountingAllocator;
pub use kernels::conv::Conv;
pub use noise::{
    Batches, Cache, CacheSize, Draw, Inputs, InputsFrom, MEASURED_INPUTS, NOISE_BATCH, NoiseImages, Passed, Pixels,
    Purpose, Side, Sides, Source, Store, Stream, WhiteNoise,
};
pub use pack::{
    Calibrated, CalibratedNoise, Contents, Encoding, MAGIC, Manifest, Outline, Pack, PackError, PackWriter, VERSION,
};
pub use recipe::{
    Calibration, Pull, Recipe, Ridge, Schedule, Selection, SourceKind, Start, Training, Update, Width, WidthError,
};
pub use run::{
    BlockPlan, BlockReport, Budget, CachePlan, Distillation, Distilled, Event, MAX_INPUTS, Plan, PlanError, Run,
    RunError, RunFailure, Settings, SettingsError, distill, plan, run,
};
pub use solve::{NormalEquations, Solvable, solvable};
pub use storage::{ReadAt, Scratch, ScratchError, WriteAt};
pub use student::{fold_batch_norms, inner_channels, inner_nodes, replace_activations, shrink, without_layers};
pub use tensor::{Dims, MAX_ELEMENTS, MAX_EXTENT, Shape, Weight};
pub use train::{BlockTraining, Calibrator, Lessons, Tuning, finetune, learn, train};
