//! A block on a device: its weights as tensors, and its forward pass.

use alloc::{vec, vec::Vec};

use burn::tensor::{Device, Tensor, TensorData, activation, module::adaptive_avg_pool2d, s};

use crate::{
    block::{Block, Conv, Op, Shape},
    kernels::{add_relu, conv2d},
};

/// Where a batch norm takes its mean and variance from. Blocks without batch norms do not care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// The running statistics of the teacher file: evaluation, and every target.
    Running,
    /// The batch at hand ("CS", Raikwar & Mishra 2022): keeps noise in the range that the next
    /// block was trained on.
    Current,
}

/// A block whose weights lie on a device, each as a flat tensor.
#[derive(Clone, Debug)]
pub struct DeviceBlock<'a> {
    block: &'a Block,
    weights: Vec<Tensor<1>>,
}

impl<'a> DeviceBlock<'a> {
    /// Copies the block's weights to `device`.
    pub fn new(block: &'a Block, device: &Device) -> Self {
        let weights = block.weights().iter().map(|w| Tensor::from_data(w.data.as_slice(), device)).collect();
        Self { block, weights }
    }

    /// The same graph with other weight tensors, in the block's order.
    pub fn with_weights(block: &'a Block, weights: Vec<Tensor<1>>) -> Self {
        Self { block, weights }
    }

    /// The weight tensors, in the block's order.
    pub fn into_weights(self) -> Vec<Tensor<1>> {
        self.weights
    }

    /// The graph.
    pub fn block(&self) -> &'a Block {
        self.block
    }

    /// The block's output.
    ///
    /// # Shapes
    /// - input `[N, C, H, W]` with the block's input shape
    /// - output `[N, C', H', W']` with its output shape
    pub fn forward(&self, input: Tensor<4>, statistics: Statistics) -> Tensor<4> {
        let output = self.block.nodes().len();
        let [value] = self.values(input, statistics, [output]);
        value
    }

    /// Chosen values of one pass (0 is the input, `i + 1` the output of node `i`). A value is freed
    /// after its last reader, and nothing past the last chosen value is computed.
    pub fn values<const K: usize>(
        &self,
        input: Tensor<4>,
        statistics: Statistics,
        wanted: [usize; K],
    ) -> [Tensor<4>; K] {
        let nodes = self.block.nodes();
        let last = wanted.iter().copied().max().unwrap_or(0);
        let mut last_use = vec![0; nodes.len() + 1];
        for (index, node) in nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&v| last_use[usize::from(v)] = index);
        }
        wanted.iter().for_each(|&v| last_use[v] = usize::MAX);
        let mut values: Vec<Option<Tensor<4>>> = vec![Some(input)];
        for (index, node) in nodes[..last].iter().enumerate() {
            if values.len() > index + 1 {
                continue; // a ReLU that the node before did
            }
            // Nothing else reads what goes into the ReLU.
            let relu = index + 1 < last
                && matches!(nodes[index + 1].op, Op::Relu)
                && usize::from(nodes[index + 1].inputs[0]) == index + 1
                && last_use[index + 1] == index + 1;
            let mut take = |slot: usize| {
                let value = usize::from(node.inputs[slot]);
                let again = last_use[value] > index || node.inputs[slot + 1..].contains(&node.inputs[slot]);
                let tensor = if again { values[value].clone() } else { values[value].take() };
                tensor.expect("a block's values are computed before they are read")
            };
            let first = take(0);
            let second = (node.inputs.len() > 1).then(|| take(1));
            match (&node.op, second) {
                (Op::Conv(conv), _) if relu => values.extend([None, Some(self.conv(index, conv, first, true))]),
                (Op::Add, Some(second)) if relu => values.extend([None, Some(add_relu(first, second))]),
                (_, second) => values.push(Some(self.apply(index, first, second, statistics))),
            }
        }
        wanted.map(|v| values[v].clone().expect("wanted values are kept"))
    }

    fn apply(&self, index: usize, x: Tensor<4>, second: Option<Tensor<4>>, statistics: Statistics) -> Tensor<4> {
        match &self.block.nodes()[index].op {
            Op::Conv(conv) => self.conv(index, conv, x, false),
            Op::BatchNorm { epsilon } => self.batch_norm(index, *epsilon, x, statistics),
            Op::Relu => activation::relu(x),
            Op::Add => x + second.expect("an addition has two inputs"),
            Op::Subsample { stride } => {
                let stride = isize::try_from(*stride).expect("a stride fits");
                x.slice(s![.., .., ..;stride, ..;stride])
            }
            Op::PadChannels { before, after } => {
                let [n, _, h, w] = x.dims();
                let zeros = |channels: u16| Tensor::zeros([n, usize::from(channels), h, w], &x.device());
                let parts =
                    [(*before > 0).then(|| zeros(*before)), Some(x.clone()), (*after > 0).then(|| zeros(*after))];
                Tensor::cat(parts.into_iter().flatten().collect(), 1)
            }
            Op::GlobalAveragePool => adaptive_avg_pool2d(x, [1, 1]),
            Op::Linear => {
                let [n, c, _, _] = x.dims();
                let out = self.block.shape(index + 1).channels;
                let matrix = self.weight(index, 0).reshape([out, c]);
                let y = x.reshape([n, c]).matmul(matrix.transpose()) + self.weight(index, 1).reshape([1, out]);
                y.reshape([n, out, 1, 1])
            }
        }
    }

    fn conv(&self, index: usize, conv: &Conv, x: Tensor<4>, relu: bool) -> Tensor<4> {
        let dims = &self.block.weight(index, 0).expect("a convolution has a kernel").dims;
        let kernel = self.weight(index, 0).reshape([0, 1, 2, 3].map(|d| dims[d] as usize));
        let bias = match self.block.weight(index, 1) {
            Some(_) => self.weight(index, 1),
            None => Tensor::zeros([dims[0] as usize], &x.device()),
        };
        conv2d(x, kernel, bias, *conv, relu)
    }

    fn batch_norm(&self, index: usize, epsilon: f32, x: Tensor<4>, statistics: Statistics) -> Tensor<4> {
        let [n, c, h, w] = x.dims();
        let (mean, variance) = match statistics {
            Statistics::Running => (self.weight(index, 2), self.weight(index, 3)),
            Statistics::Current => {
                let rows = x.clone().swap_dims(0, 1).reshape([c, n * h * w]);
                let mean = rows.clone().mean_dim(1);
                let variance = (rows - mean.clone()).square().mean_dim(1);
                (mean.reshape([c]), variance.reshape([c]))
            }
        };
        let gain = self.weight(index, 0) / (variance + epsilon).sqrt();
        let offset = self.weight(index, 1) - mean * gain.clone();
        x * gain.reshape([1, c, 1, 1]) + offset.reshape([1, c, 1, 1])
    }

    fn weight(&self, node: usize, slot: usize) -> Tensor<1> {
        self.weights[usize::from(self.block.nodes()[node].weights[slot])].clone()
    }
}

/// Images `[N, C, H, W]` from consecutive values.
pub fn images(values: Vec<f32>, shape: Shape, device: &Device) -> Tensor<4> {
    let count = values.len() / shape.elements();
    Tensor::from_data(TensorData::new(values, [count, shape.channels, shape.height, shape.width]), device)
}

/// The values of a tensor, row by row.
pub fn host_values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("tensors of this crate are f32")
}
