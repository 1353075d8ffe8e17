//! A block on a device, and its forward pass.

use core::convert::Infallible;

#[cfg(feature = "burn")]
use crate::engine::burn::BurnBlock;
use crate::{
    block::{Block, Statistics},
    engine::{
        Device, Images,
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
    Burn(BurnBlock),
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
            Device::Burn(device) => On::Burn(BurnBlock::new(block, value, device)),
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
    /// If the images do not have the block's input shape.
    pub fn forward(&self, input: &Images, statistics: Statistics) -> Images {
        assert_eq!(input.shape(), self.input, "a block takes images of its input shape");
        let mut output = Images::zeros(self.output, input.len());
        match (&self.on, statistics) {
            (On::Cpu(program), Statistics::Running) => {
                cpu::forward(program, input, &mut output, &mut Workspace::default());
            }
            (On::Cpu(program), Statistics::Current) => {
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
            (On::Burn(block), _) => block.forward(input, statistics, &mut output),
        }
        output
    }

    /// [`forward`](Self::forward) with running statistics into memory that is there.
    pub(crate) fn forward_into(&self, input: &Images, output: &mut Images, workspace: &mut Workspace) {
        assert_eq!(input.shape(), self.input, "a block takes images of its input shape");
        output.reset(self.output, input.len());
        match &self.on {
            On::Cpu(program) => cpu::forward(program, input, output, workspace),
            #[cfg(feature = "burn")]
            On::Burn(block) => block.forward(input, Statistics::Running, output),
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
}
