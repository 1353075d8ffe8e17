//! Blocks one after another: a network's forward pass.

use alloc::vec::Vec;

use crate::{
    block::{Block, Statistics},
    engine::{
        Batch, Device, DeviceBlock, batch,
        cpu::{Program, Workspace},
    },
    kernels::parallel::share,
};

/// A network on a device, for evaluation: running statistics.
#[derive(Debug)]
pub struct Chain {
    blocks: Vec<DeviceBlock>,
    workspace: Workspace,
}

impl Chain {
    /// Blocks that take what the one before them gives.
    pub fn new(blocks: &[Block], device: &Device) -> Self {
        let blocks = blocks.iter().map(|block| DeviceBlock::new(block, device)).collect();
        Self { blocks, workspace: Workspace::default() }
    }

    /// The last block's output of a batch.
    ///
    /// # Panics
    /// If a block does not take what it is given, a batch is on another device, or there is no block.
    pub fn forward(&mut self, input: &Batch, output: &mut Batch) {
        let last = self.blocks.last().expect("a network has blocks").output();
        let programs: Option<Vec<&Program>> = self.blocks.iter().map(DeviceBlock::program).collect();
        let (Some(programs), batch::On::Cpu(input), batch::On::Cpu(output)) = (programs, &input.0, &mut output.0)
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
        // A group goes through the whole network in one worker, from one half of its arena to the other and back.
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
