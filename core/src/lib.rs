//! Neighbourhood distillation without data, on the device itself.
//!
//! The teacher network, cut into neighbourhoods, is read from a [`Pack`]. [`run`] distils one block at a time:
//! [`Inputs`] supplies noise, [`fold_batch_norms`] and [`shrink`] build a narrower student, [`NormalEquations`] solves
//! its last convolution in closed form, [`train`] refines it by gradient descent, and the student is written to a
//! second pack. A [`Calibrator`] optimises noise images to match the teacher's batch-norm statistics; [`finetune`] then
//! trains the whole student on them. Method: Shao, Moroz, Elad, Movshovitz-Attias, "Neighbourhood Distillation" (2020).
//!
//! The crate is `no_std` with `alloc`. It opens no files, prints nothing, reads no clock and has no global random
//! state: bytes, seeds and devices are arguments.

#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "std"))]
extern crate std;

mod block;
mod engine;
mod heap;
mod inputs;
mod kernels;
mod pack;
mod recipe;
mod run;
mod solve;
mod storage;
mod stream;
mod student;
mod tensor;
mod train;

#[cfg(feature = "onnx")]
pub use block::op::onnx;
pub use block::{
    Block, BlockBuilder, BlockError, MAX_NODES, MAX_PARTS, Node, Nodes, Part, Parts, Role, Statistics,
    op::{Activation, AveragePool, BatchNorm, MaxPool, Op, Pad, Slice, Window},
};
pub use ed25519_dalek::{SigningKey, VerifyingKey};
pub use engine::{
    Batch, Chain, Classes, Device, DeviceBlock, Difference, DistillError, Disturbance, Engine, Goal, Goals, Learners,
    MICRO_BATCH, Optimizer, Portions, Trainer, one_hot,
};
pub use heap::CountingAllocator;
pub use inputs::{
    Batches, Cache, CacheSize, Draw, Inputs, InputsFrom, MEASURED_INPUTS, NOISE_BATCH, NoiseImages, Pixels, Side,
    SideBlocks, Sides, Source, Store, WhiteNoise,
};
pub use kernels::conv::Conv;
pub use pack::{
    Calibrated, CalibratedNoise, Contents, Encoding, Fingerprint, Interface, MAGIC, Manifest, Outline, Pack, PackError,
    PackWriter, Probabilities, Signature, VERSION, sign,
};
pub use recipe::{
    Aim, Calibration, Pattern, Pull, Recipe, Ridge, Schedule, Selection, SourceKind, Sparsity, SparsityError, Start,
    Training, Update, Width, WidthError,
};
pub use run::{
    BlockPlan, BlockReport, Budget, CachePlan, Distillation, Distilled, Event, MAX_INPUTS, Plan, PlanError, Run,
    RunError, RunFailure, Settings, SettingsError, distill, plan, run,
};
pub use solve::{NormalEquations, Solvable, solvable};
pub use storage::{ReadAt, Scratch, ScratchError, WriteAt};
pub use stream::{Purpose, Stream, shuffle};
pub use student::{
    Unchanged, fold_batch_norms, inner_channels, inner_nodes, prunable, prune, replace_activations, shrink,
    without_layers,
};
pub use tensor::{Dims, MAX_ELEMENTS, MAX_EXTENT, Shape, Weight};
pub use train::{
    BlockTraining, Calibrator, Course, Lessons, LookAhead, NoiseLessons, Ramp, Snapshot, Step, Tuning, WhiteLessons,
    finetune, learn, train,
};
