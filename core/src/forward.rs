//! A block on a device, and its forward pass.

#[cfg(feature = "burn")]
use crate::burn_device::BurnBlock;
use crate::{
    block::Block,
    cpu::{self, Program, Workspace},
    device::{Device, Statistics},
    images::Images,
};

/// A block, or what leads to one of its values, with its weights where they are needed.
#[derive(Clone, Debug)]
pub struct DeviceBlock<'a> {
    block: &'a Block,
    value: usize,
    on: On,
}

#[derive(Clone, Debug)]
enum On {
    Cpu(Program),
    #[cfg(feature = "burn")]
    Burn(BurnBlock),
}

impl<'a> DeviceBlock<'a> {
    /// The whole block.
    pub fn new(block: &'a Block, device: &Device) -> Self {
        Self::up_to(block, block.nodes().len(), device)
    }

    /// What computes value `value` of the block (`i + 1` is the output of node `i`, 0 the input).
    pub fn up_to(block: &'a Block, value: usize, device: &Device) -> Self {
        let on = match device {
            Device::Cpu => On::Cpu(Program::new(block, value, false)),
            #[cfg(feature = "burn")]
            Device::Burn(device) => On::Burn(BurnBlock::new(block, device)),
        };
        Self { block, value, on }
    }

    /// The graph.
    pub fn block(&self) -> &'a Block {
        self.block
    }

    /// The value of a batch: of a whole block its output.
    ///
    /// # Panics
    /// If the images do not have the block's input shape.
    pub fn forward(&self, input: &Images, statistics: Statistics) -> Images {
        let mut output = Images::zeros(self.block.shape(self.value), 0);
        self.forward_into(input, statistics, &mut output, &mut Workspace::default());
        output
    }

    /// [`forward`](Self::forward) into memory that is there.
    pub(crate) fn forward_into(
        &self,
        input: &Images,
        statistics: Statistics,
        output: &mut Images,
        workspace: &mut Workspace,
    ) {
        assert_eq!(input.shape(), self.block.input(), "a block takes images of its input shape");
        output.reset(self.block.shape(self.value), input.len());
        match (&self.on, statistics) {
            (On::Cpu(program), Statistics::Running) => cpu::forward(program, input, output, workspace),
            (On::Cpu(program), Statistics::Current) => {
                let mut program = program.clone();
                let arenas = workspace.arenas(input.groups().len(), program.arena());
                arenas.iter_mut().enumerate().for_each(|(index, arena)| program.load(arena, input.plane(index)));
                cpu::forward_with_current_statistics(&mut program, arenas, input.len());
                for (index, (arena, group)) in arenas.iter().zip(output.groups_mut()).enumerate() {
                    program.store(arena, group, input.lanes(index));
                }
            }
            #[cfg(feature = "burn")]
            (On::Burn(block), _) => block.forward(self.block, self.value, input, statistics, output),
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
}
