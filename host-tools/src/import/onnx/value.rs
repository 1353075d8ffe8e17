//! A value of the network as ONNX sees it.

use anyhow::{Result, ensure};
use distill_core::{Probabilities, Shape};

#[derive(Clone, Debug)]
pub struct Value {
    /// The value in our graph.
    pub id: usize,
    /// Extents, the batch first.
    pub dims: Vec<usize>,
    /// What ONNX has computed from the value at the network's end, and we have not.
    pub probabilities: Option<Probabilities>,
}

impl Value {
    /// The value `id` as `[N, C]`, `[N, C, H · W]` or `[N, C, H, W]`, by the number of dimensions.
    pub fn new(id: usize, shape: Shape, batch: usize, rank: usize) -> Self {
        let Shape { channels, height, width } = shape;
        let dims = match rank {
            2 => vec![batch, channels],
            3 => vec![batch, channels, height * width],
            _ => vec![batch, channels, height, width],
        };
        Self { id, dims, probabilities: None }
    }

    /// Number of dimensions, the batch included.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Checks that no Softmax came before.
    pub fn check_logits(&self) -> Result<()> {
        ensure!(
            self.probabilities.is_none(),
            "it reads the result of a Softmax, which can only be a network's last operator"
        );
        Ok(())
    }
}
