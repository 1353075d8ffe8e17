//! A block on a device, and its forward pass.

#[cfg(feature = "burn")]
use alloc::boxed::Box;
use core::convert::Infallible;

#[cfg(feature = "burn")]
use super::{batch::OTHER_DEVICE, burn::BurnBlock};
use crate::{
    block::{Block, Statistics},
    engine::{
        Batch, Device, batch,
        cpu::{self, Program, Workspace},
    },
    kernels::parallel::each,
    tensor::Shape,
};

/// A block, or what leads to one of its values, with its weights where they are needed; the [`Block`] itself is not.
#[derive(Clone, Debug)]
pub struct DeviceBlock {
    input: Shape,
    output: Shape,
    on: On,
}

#[derive(Clone, Debug)]
enum On {
    Cpu(Program),
    #[cfg(feature = "burn")]
    Burn(Box<BurnBlock>),
}

impl DeviceBlock {
    /// The whole block.
    pub fn new(block: &Block, device: &Device) -> Self {
        Self::up_to(block, block.nodes().len(), device)
    }

    /// What computes value `value` of the block (`i + 1` is the output of node `i`, 0 the input).
    pub fn up_to(block: &Block, value: usize, device: &Device) -> Self {
        let on = match device {
            Device::Cpu => On::Cpu(Program::new(block, value, false)),
            #[cfg(feature = "burn")]
            Device::Burn(device) => On::Burn(Box::new(BurnBlock::new(block, value, device))),
        };
        Self { input: block.input(), output: block.shape(value), on }
    }

    /// Shape of what it takes.
    pub fn input(&self) -> Shape {
        self.input
    }

    /// Shape of the value it computes.
    pub fn output(&self) -> Shape {
        self.output
    }

    /// The value of a batch: of a whole block its output.
    ///
    /// # Panics
    /// If the batch is on another device, or its images do not have the block's input shape.
    pub fn forward(&self, input: &Batch, statistics: Statistics) -> Batch {
        let mut output = Batch::new(&input.device());
        if statistics == Statistics::Running {
            self.forward_into(input, &mut output, &mut Workspace::default());
            return output;
        }
        assert_eq!(input.shape(), self.input, "a block takes images of its input shape");
        match (&self.on, &input.0, &mut output.0) {
            (On::Cpu(program), batch::On::Cpu(input), batch::On::Cpu(output)) => {
                output.reset(self.output, input.len());
                let (mut program, mut workspace) = (program.clone(), Workspace::default());
                let arenas = workspace.arenas(input.groups().len(), program.arena());
                let pass = cpu::BatchPass { count: input.len(), backwards: false, statistics };
                let Ok(()) = pass.run(&mut program, arenas, |program, arenas, transfer| {
                    match transfer {
                        cpu::Transfer::Load(groups) => each(arenas.iter_mut().zip(groups), |(arena, group)| {
                            program.load(arena, input.plane(group));
                        }),
                        cpu::Transfer::Store(groups) => {
                            let targets = output.groups_mut().skip(groups.start);
                            each(arenas.iter().zip(targets).zip(groups), |((arena, target), group)| {
                                program.store(arena, target, input.lanes(group));
                            });
                        }
                    }
                    Ok::<(), Infallible>(())
                });
            }
            #[cfg(feature = "burn")]
            (On::Burn(block), batch::On::Burn(input), batch::On::Burn(output)) => {
                **output = block.forward(input, statistics);
            }
            #[cfg(feature = "burn")]
            _ => panic!("{OTHER_DEVICE}"),
        }
        output
    }

    /// [`forward`](Self::forward) with running statistics into memory that is there.
    pub(crate) fn forward_into(&self, input: &Batch, output: &mut Batch, workspace: &mut Workspace) {
        assert_eq!(input.shape(), self.input, "a block takes images of its input shape");
        match (&self.on, &input.0, &mut output.0) {
            (On::Cpu(program), batch::On::Cpu(input), batch::On::Cpu(output)) => {
                output.reset(self.output, input.len());
                cpu::forward(program, input, output, workspace);
            }
            #[cfg(feature = "burn")]
            (On::Burn(block), batch::On::Burn(input), batch::On::Burn(output)) => {
                **output = block.forward(input, Statistics::Running);
            }
            #[cfg(feature = "burn")]
            _ => panic!("{OTHER_DEVICE}"),
        }
    }

    /// The block on the CPU, where it is there.
    pub(crate) fn program(&self) -> Option<&Program> {
        match &self.on {
            On::Cpu(program) => Some(program),
            #[cfg(feature = "burn")]
            On::Burn(_) => None,
        }
    }

    /// See [`program`](Self::program).
    pub(crate) fn program_mut(&mut self) -> Option<&mut Program> {
        match &mut self.on {
            On::Cpu(program) => Some(program),
            #[cfg(feature = "burn")]
            On::Burn(_) => None,
        }
    }

    /// The block on one of Burn's devices, where it is there.
    #[cfg(feature = "burn")]
    pub(crate) fn burn_block(&self) -> Option<&BurnBlock> {
        match &self.on {
            On::Cpu(_) => None,
            On::Burn(block) => Some(block),
        }
    }
}
