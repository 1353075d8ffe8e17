//! A block on a device, and its forward pass.

#[cfg(feature = "burn")]
use alloc::boxed::Box;

#[cfg(feature = "burn")]
use super::{batch::OTHER_DEVICE, burn::BurnBlock};
use crate::{
    block::{Block, Statistics},
    engine::{
        Batch, Device, batch,
        cpu::{self, Program, ProgramBytes, Workspace},
    },
    tensor::Shape,
};

/// A block, or its nodes up to one value, with the weights on a device; it does not keep the [`Block`].
#[derive(Clone, Debug)]
pub struct DeviceBlock {
    input: Shape,
    output: Shape,
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    Cpu(Program),
    #[cfg(feature = "burn")]
    Burn(Box<BurnBlock>),
}

impl DeviceBlock {
    /// Prepares the whole block.
    pub fn new(block: &Block, device: &Device) -> Self {
        Self::up_to(block, block.nodes().len(), device)
    }

    /// Prepares the nodes that compute value `value` (`i + 1` is the output of node `i`, 0 the input).
    pub fn up_to(block: &Block, value: usize, device: &Device) -> Self {
        let backend = match device {
            Device::Cpu => Backend::Cpu(Program::new(block, value, false)),
            #[cfg(feature = "burn")]
            Device::Burn(device) => Backend::Burn(Box::new(BurnBlock::new(block, value, device))),
        };
        Self { input: block.input(), output: block.shape(value), backend }
    }

    /// Heap bytes that a block takes on the CPU for one group of images, weights included.
    pub fn pass_bytes(block: &Block) -> u64 {
        let ProgramBytes { held, arena } = ProgramBytes::of(block, block.nodes().len());
        held + Workspace::bytes(1, 1, arena)
    }

    /// Input shape.
    pub fn input(&self) -> Shape {
        self.input
    }

    /// Shape of the value it computes.
    pub fn output(&self) -> Shape {
        self.output
    }

    /// Computes the value for a batch; for a whole block this is its output.
    ///
    /// # Panics
    /// If the batch is on another device, or its images do not have the block's input shape.
    pub fn forward(&self, input: &Batch, statistics: Statistics) -> Batch {
        let mut output = Batch::new(&input.device());
        self.pass(input, &mut output, statistics, &mut Workspace::default());
        output
    }

    /// [`forward`](Self::forward) with running statistics, reusing memory.
    pub(crate) fn forward_into(&self, input: &Batch, output: &mut Batch, workspace: &mut Workspace) {
        self.pass(input, output, Statistics::Running, workspace);
    }

    fn pass(&self, input: &Batch, output: &mut Batch, statistics: Statistics, workspace: &mut Workspace) {
        assert_eq!(input.shape(), self.input, "a block takes images of its input shape");
        match (&self.backend, &input.0, &mut output.0) {
            (Backend::Cpu(program), batch::Backend::Cpu(input), batch::Backend::Cpu(output)) => {
                output.reset(self.output, input.len());
                match statistics {
                    Statistics::Running => cpu::forward(program, input, output, workspace),
                    Statistics::Current => cpu::forward_current(program.clone(), input, output, workspace),
                }
            }
            #[cfg(feature = "burn")]
            (Backend::Burn(block), batch::Backend::Burn(input), batch::Backend::Burn(output)) => {
                **output = block.forward(input, statistics);
            }
            #[cfg(feature = "burn")]
            _ => panic!("{OTHER_DEVICE}"),
        }
    }

    /// The CPU program, or `None` on another device.
    pub(crate) fn program(&self) -> Option<&Program> {
        match &self.backend {
            Backend::Cpu(program) => Some(program),
            #[cfg(feature = "burn")]
            Backend::Burn(_) => None,
        }
    }

    /// See [`program`](Self::program).
    pub(crate) fn program_mut(&mut self) -> Option<&mut Program> {
        match &mut self.backend {
            Backend::Cpu(program) => Some(program),
            #[cfg(feature = "burn")]
            Backend::Burn(_) => None,
        }
    }

    /// The Burn block, or `None` on the CPU.
    #[cfg(feature = "burn")]
    pub(crate) fn burn_block(&self) -> Option<&BurnBlock> {
        match &self.backend {
            Backend::Cpu(_) => None,
            Backend::Burn(block) => Some(block),
        }
    }
}
