//! How long a network takes for an image on this machine.
//!
//! A batch of 16 images, which the CPU engine computes side by side on one thread, passes through the network with its batch
//! norms folded: once to warm up, then at least 5 and at most 25 times, until half a second is over. Of each block counts the
//! median, divided by 16. Other programs on the machine disturb it; compare figures of one call only.

use std::time::{Duration, Instant};

use distill_core::{Batch, Device, DeviceBlock, Purpose, Statistics, Stream};

use crate::network::Network;

const IMAGES: usize = 16;
const PASSES: std::ops::RangeInclusive<usize> = 5..=25;
const ENOUGH: Duration = Duration::from_millis(500);

/// Milliseconds for one image.
pub fn milliseconds(network: &Network) -> f64 {
    block_milliseconds(network).iter().sum()
}

/// Milliseconds for one image in each block. A block that cannot be folded is measured as it is.
pub fn block_milliseconds(network: &Network) -> Vec<f64> {
    let network = network.folded().unwrap_or_else(|_| network.clone());
    let input = Stream::new(0, Purpose::Images, 0).images(IMAGES, network.input());
    let input = Batch::from_values(&input, network.input());
    let blocks: Vec<DeviceBlock> = network.blocks.iter().map(|block| DeviceBlock::new(block, &Device::Cpu)).collect();
    let mut times = vec![Vec::new(); blocks.len()];
    let start = Instant::now();
    for pass in 0..=*PASSES.end() {
        if pass > *PASSES.start() && start.elapsed() > ENOUGH {
            break;
        }
        let mut value = input.clone();
        for (block, times) in blocks.iter().zip(&mut times) {
            let start = Instant::now();
            value = block.forward(&value, Statistics::Running);
            let milliseconds = 1e3 * start.elapsed().as_secs_f64() / IMAGES as f64;
            times.extend((pass > 0).then_some(milliseconds));
        }
    }
    times.into_iter().map(median).collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
