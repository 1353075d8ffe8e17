//! What a student of one block costs the whole network.

use anyhow::{Result, ensure};
use distill_core::{Batch, Block, Device, DeviceBlock, Difference, NoiseImages, Statistics};

use crate::{measure::batch, network::Network};

/// Images on which errors are measured.
const MEASURED: usize = 256;

/// Measures the errors that students of single blocks make in the teacher's output.
pub struct OutputErrors<'a> {
    network: &'a Network,
    noise: &'a NoiseImages,
    blocks: Vec<DeviceBlock>,
}

impl<'a> OutputErrors<'a> {
    /// For a network and its noise.
    ///
    /// # Errors
    /// As the folding of its blocks.
    pub fn new(network: &'a Network, noise: &'a NoiseImages) -> Result<Self> {
        let blocks = network.folded()?.blocks.iter().map(|block| DeviceBlock::new(block, &Device::Cpu)).collect();
        Ok(Self { network, noise, blocks })
    }

    /// The squared relative error with each of these students in its teacher's place.
    ///
    /// # Errors
    /// An output that is not finite.
    pub fn of<'b>(&self, students: impl Iterator<Item = &'b (usize, Block)>) -> Result<Vec<f64>> {
        let students: Vec<(usize, DeviceBlock)> =
            students.map(|(position, block)| (*position, DeviceBlock::new(block, &Device::Cpu))).collect();
        let mut differences = vec![Difference::default(); students.len()];
        let pixels = self.network.manifest.pixels();
        let at_once = batch(self.network.input(), rayon::current_num_threads());
        for start in (0..MEASURED).step_by(at_once) {
            let mut values: Vec<Batch> = vec![self.noise.held_out(start..MEASURED.min(start + at_once), &pixels)];
            for block in &self.blocks {
                values.push(block.forward(&values[values.len() - 1], Statistics::Running));
            }
            for ((position, student), difference) in students.iter().zip(&mut differences) {
                let mut value = student.forward(&values[*position], Statistics::Running);
                for block in &self.blocks[position + 1..] {
                    value = block.forward(&value, Statistics::Running);
                }
                value.add_difference(&values[values.len() - 1], difference);
            }
        }
        let errors: Vec<f64> = differences.iter().map(|difference| difference.relative_error().powi(2)).collect();
        ensure!(errors.iter().all(|error| error.is_finite()), "a network gives outputs that are not finite");
        Ok(errors)
    }
}
