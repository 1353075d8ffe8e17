//! The forward pass of a network: a sequence of blocks.

use alloc::vec::Vec;

use crate::{
    block::{Block, Statistics},
    engine::{
        Batch, Device, DeviceBlock, batch,
        cpu::{Program, Workspace},
    },
    kernels::parallel::share,
};

/// A network on a device, for evaluation with running statistics.
#[derive(Debug)]
pub struct Chain {
    blocks: Vec<DeviceBlock>,
    workspace: Workspace,
}

impl Chain {
    /// Copies the blocks to `device`; each block's input is the previous block's output.
    pub fn new(blocks: &[Block], device: &Device) -> Self {
        let blocks = blocks.iter().map(|block| DeviceBlock::new(block, device)).collect();
        Self { blocks, workspace: Workspace::default() }
    }

    /// Computes the network's output for a batch.
    ///
    /// # Panics
    /// If a block's input shape does not match, a batch is on another device, or there are no blocks.
    pub fn forward(&mut self, input: &Batch, output: &mut Batch) {
        let last = self.blocks.last().expect("a network has blocks").output();
        let programs: Option<Vec<&Program>> = self.blocks.iter().map(DeviceBlock::program).collect();
        let (Some(programs), batch::Backend::Cpu(input), batch::Backend::Cpu(output)) =
            (programs, &input.0, &mut output.0)
        else {
            let through = |value: Option<Batch>, block: &DeviceBlock| {
                Some(block.forward(value.as_ref().unwrap_or(input), Statistics::Running))
            };
            self.blocks.iter().fold(None, through).into_iter().for_each(|value| *output = value);
            return;
        };
        output.reset(last, input.len());
        let len = programs.iter().map(|program| program.arena()).max().unwrap_or(0);
        let workers = self.workspace.workers(input.groups().len(), 2 * len);
        // Each worker takes a group through the whole network, alternating between the two halves of its arena.
        share(workers, output.groups_mut().enumerate(), |(index, output), arena| {
            let (mut here, mut there) = arena.split_at_mut(len);
            programs[0].load(here, input.plane(index));
            programs[0].forward(here);
            for pair in programs.windows(2) {
                pair[1].load(there, pair[0].output(here));
                pair[1].forward(there);
                (here, there) = (there, here);
            }
            programs[programs.len() - 1].store(here, output, input.lanes(index));
        });
    }
}
