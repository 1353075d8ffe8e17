//! Options that take one of several names, and what they stand for.

use anyhow::{Result, bail};
use clap::ValueEnum;
use distill_core::{Activation, Device, Schedule, Update};

/// `--preset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PresetName {
    /// As the paper: --no-solve --select norm --independent --steps 200000 --batch 128 --optimizer sgd --rate 1e-3
    /// --schedule constant, and --images 45056 of a data set: hours. With a sparsity 40000 steps: the smallest weights go over
    /// the first half
    Paper,
    /// --steps 600 after the solve: a minute for a ResNet-20
    Usual,
}

/// `--noise`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum NoiseName {
    /// N(0,1) as the input of each block (the paper)
    Standard,
    /// Noise images propagated through the teacher with current batch statistics
    Propagated,
    /// The noise images that `distill calibrate` stored in the teacher pack
    Calibrated,
}

/// `--select`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SelectionName {
    /// The largest norms of the weights that write and read them
    Norm,
    /// The largest cost to the solve if removed: better if the noise resembles data, worse if it does not
    Residual,
}

/// `--activation`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ActivationName {
    /// max(x, 0)
    Relu,
    /// Between 0 and 6
    Relu6,
    /// x sigmoid(x)
    Silu,
    /// x clip(x + 3, 0, 6) / 6
    HardSwish,
}

/// `--optimizer`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OptimizerName {
    /// Adam
    Adam,
    /// Gradient descent with momentum 0.9
    Sgd,
}

/// `--schedule`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ScheduleName {
    /// Half a cosine, down to zero
    Cosine,
    /// Divided by ten after each third of the steps
    Step,
    /// The same for all steps
    Constant,
}

/// `--device`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DeviceName {
    /// All CPU cores, with this program's kernels
    #[value(alias = "flex")]
    Cpu,
    /// Burn's ndarray backend (in builds with `--features ndarray`)
    Ndarray,
    /// A GPU through wgpu (in builds with `--features wgpu`)
    Wgpu,
}

impl OptimizerName {
    /// The rule with its usual constants.
    pub fn update(self) -> Update {
        match self {
            Self::Adam => Update::Adam,
            Self::Sgd => Update::MOMENTUM,
        }
    }
}

impl ScheduleName {
    /// The schedule.
    pub fn schedule(self) -> Schedule {
        match self {
            Self::Cosine => Schedule::Cosine,
            Self::Step => Schedule::Step,
            Self::Constant => Schedule::Constant,
        }
    }
}

impl ActivationName {
    /// The activation.
    pub fn activation(self) -> Activation {
        match self {
            Self::Relu => Activation::Relu,
            Self::Relu6 => Activation::RELU6,
            Self::Silu => Activation::Silu,
            Self::HardSwish => Activation::HardSwish,
        }
    }
}

impl DeviceName {
    /// Opens the device.
    ///
    /// # Errors
    /// This build does not include it.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            #[cfg(feature = "ndarray")]
            Self::Ndarray => Ok(Device::Burn(burn::tensor::Device::ndarray())),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Ok(Device::Burn(burn::tensor::Device::wgpu(burn::tensor::DeviceKind::default()))),
            #[allow(unreachable_patterns, reason = "every device may be built in")]
            other => bail!(
                "this build has no {0} device: build with `cargo build --release -p distill-device --features {0}`",
                other.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
            ),
        }
    }
}
