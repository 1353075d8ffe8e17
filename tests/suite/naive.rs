//! Every operator as plain loops in f64: the oracle, which shares no code with the product.

use distill_core::{Activation, BatchNorm, Block, Conv, Op, Shape, Statistics, Window};

/// All values of one pass (0 is the input), each `[N, C, H, W]` row by row.
pub fn values(block: &Block, input: &[f64], statistics: Statistics) -> Vec<Vec<f64>> {
    let images = input.len() / block.input().elements();
    let mut values = vec![input.to_vec()];
    for (index, node) in block.nodes().iter().enumerate() {
        let from = usize::from(node.inputs[0]);
        let x = Batch { images, shape: block.shape(from), data: &values[from] };
        let shape = block.shape(index + 1);
        let weight = |slot: usize| -> Vec<f64> {
            block.weight(index, slot).map(|w| w.data.iter().map(|&v| f64::from(v)).collect()).unwrap_or_default()
        };
        let value = match &node.op {
            Op::Conv(conv) => {
                let dims = &block.weight(index, 0).unwrap().dims;
                convolve(&x, conv, &weight(0), [dims[2] as usize, dims[3] as usize], &weight(1), shape)
            }
            Op::BatchNorm(BatchNorm { epsilon }) => {
                let (scale, shift) = (weight(0), weight(1));
                let moments: Vec<(f64, f64)> = match statistics {
                    Statistics::Running => weight(2).into_iter().zip(weight(3)).collect(),
                    Statistics::Current => (0..shape.channels).map(|c| x.moments(c)).collect(),
                };
                each(images, shape, |[n, c, y, z]| {
                    let (mean, variance) = moments[c];
                    scale[c] * (x.at([n, c, y, z]) - mean) / (variance + f64::from(*epsilon)).sqrt() + shift[c]
                })
            }
            Op::Activation(activation) => x.data.iter().map(|&x| activate(*activation, x)).collect(),
            Op::Add => x.data.iter().zip(&values[usize::from(node.inputs[1])]).map(|(a, b)| a + b).collect(),
            Op::Mul => {
                let second = usize::from(node.inputs[1]);
                let other = Batch { images, shape: block.shape(second), data: &values[second] };
                each(images, shape, |[n, c, y, z]| {
                    let [y1, z1] = if other.shape == shape { [y, z] } else { [0, 0] };
                    x.at([n, c, y, z]) * other.at([n, c, y1, z1])
                })
            }
            Op::Concat => {
                let second = usize::from(node.inputs[1]);
                let other = Batch { images, shape: block.shape(second), data: &values[second] };
                each(images, shape, |[n, c, y, z]| match c.checked_sub(x.shape.channels) {
                    None => x.at([n, c, y, z]),
                    Some(c) => other.at([n, c, y, z]),
                })
            }
            Op::Slice(slice) => {
                let place = |axis: usize, index: usize| slice.start[axis] as usize + slice.step[axis] as usize * index;
                each(images, shape, |[n, c, y, z]| x.at([n, place(0, c), place(1, y), place(2, z)]))
            }
            Op::Pad(pad) => each(images, shape, |[n, c, y, z]| {
                let inside = |axis: usize, index: usize, extent: usize| {
                    index.checked_sub(usize::from(pad.before[axis])).filter(|&index| index < extent)
                };
                let Shape { channels, height, width } = x.shape;
                let places = (inside(0, c, channels), inside(1, y, height), inside(2, z, width));
                let (Some(c), Some(y), Some(z)) = places else { return 0.0 };
                x.at([n, c, y, z])
            }),
            Op::MaxPool(pool) => each(images, shape, |[n, c, y, z]| {
                x.window(&pool.window, [n, c, y, z]).fold(f64::NEG_INFINITY, f64::max)
            }),
            Op::AveragePool(pool) => each(images, shape, |[n, c, y, z]| {
                let seen: Vec<f64> = x.window(&pool.window, [n, c, y, z]).collect();
                let [rows, columns] = pool.window.kernel.map(usize::from);
                let divisor = if pool.counts_padding { rows * columns } else { seen.len() };
                seen.iter().sum::<f64>() / divisor as f64
            }),
            Op::Flatten => x.data.to_vec(),
            Op::GlobalAveragePool => each(images, shape, |[n, c, _, _]| {
                let plane = x.shape.height * x.shape.width;
                let start = (n * x.shape.channels + c) * plane;
                x.data[start..start + plane].iter().sum::<f64>() / plane as f64
            }),
            Op::Linear => {
                let (matrix, bias) = (weight(0), weight(1));
                let inputs = x.shape.channels;
                each(images, shape, |[n, c, _, _]| {
                    (0..inputs).map(|i| matrix[c * inputs + i] * x.at([n, i, 0, 0])).sum::<f64>() + bias[c]
                })
            }
        };
        values.push(value);
    }
    values
}

/// The block's output in evaluation mode.
pub fn forward(block: &Block, input: &[f64]) -> Vec<f64> {
    values(block, input, Statistics::Running).swap_remove(block.nodes().len())
}

/// The derivative of the mean squared error of `block` to `target` along a direction for all its weights, by central
/// differences.
pub fn derivative(block: &Block, input: &[f64], target: &[f64], direction: &[Vec<f32>]) -> f64 {
    let at = |step: f32| {
        let mut weights = block.weights().to_vec();
        for (weight, direction) in weights.iter_mut().zip(direction) {
            weight.data.iter_mut().zip(direction).for_each(|(value, direction)| *value += step * direction);
        }
        mean_squared_error(&forward(&block.with_weights(weights).unwrap(), input), target)
    };
    (at(STEP) - at(-STEP)) / (2.0 * f64::from(STEP))
}

/// Small enough for the curvature and large enough for weights in f32.
const STEP: f32 = 1.0 / 4096.0;

/// Mean squared difference per element.
pub fn mean_squared_error(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / a.len() as f64
}

/// `‖a − b‖ / ‖b‖`; 0 where both are nothing.
pub fn relative_error(a: &[f64], b: &[f64]) -> f64 {
    let energy = b.iter().map(|b| b * b).sum::<f64>() / b.len() as f64;
    (mean_squared_error(a, b) / energy.max(f64::MIN_POSITIVE)).sqrt()
}

/// Values as f64.
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

struct Batch<'a> {
    images: usize,
    shape: Shape,
    data: &'a [f64],
}

impl Batch<'_> {
    fn at(&self, [n, c, y, x]: [usize; 4]) -> f64 {
        self.data[((n * self.shape.channels + c) * self.shape.height + y) * self.shape.width + x]
    }

    /// What a window at an output position sees of a channel.
    fn window(&self, window: &Window, [n, c, y, z]: [usize; 4]) -> impl Iterator<Item = f64> {
        let seen = |axis: usize, position: usize, extent: usize| {
            let first = (position * usize::from(window.stride[axis])) as isize - window.padding[axis] as isize;
            (first..first + window.kernel[axis] as isize).filter(move |&place| (0..extent as isize).contains(&place))
        };
        let columns = move || seen(1, z, self.shape.width);
        seen(0, y, self.shape.height)
            .flat_map(move |row| columns().map(move |column| self.at([n, c, row as usize, column as usize])))
    }

    /// Mean and biased variance of a channel over the batch.
    fn moments(&self, channel: usize) -> (f64, f64) {
        let plane = Shape::new(1, self.shape.height, self.shape.width);
        let values = each(self.images, plane, |[n, _, y, x]| self.at([n, channel, y, x]));
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64)
    }
}

/// By the definitions of PyTorch's documentation.
fn activate(activation: Activation, x: f64) -> f64 {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::Clip { low, high } => x.clamp(low.into(), high.into()),
        Activation::Sigmoid => sigmoid,
        Activation::Silu => x * sigmoid,
        Activation::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
        Activation::HardSwish if x <= -3.0 => 0.0,
        Activation::HardSwish if x >= 3.0 => x,
        Activation::HardSwish => x * (x + 3.0) / 6.0,
        Activation::LeakyRelu { slope } => x.max(0.0) + f64::from(slope) * x.min(0.0),
    }
}

fn convolve(x: &Batch<'_>, conv: &Conv, kernel: &[f64], size: [usize; 2], bias: &[f64], shape: Shape) -> Vec<f64> {
    let [rows, columns] = size;
    let [stride, dilation] = [conv.stride, conv.dilation].map(|pair| pair.map(usize::from));
    let [above, before, ..] = conv.padding.map(usize::from);
    let inputs = x.shape.channels / usize::from(conv.groups);
    let outputs = shape.channels / usize::from(conv.groups);
    each(x.images, shape, |[n, out, top, left]| {
        let mut sum = bias.get(out).copied().unwrap_or(0.0);
        for input in 0..inputs {
            for row in 0..rows {
                for column in 0..columns {
                    let y = (top * stride[0] + row * dilation[0]).checked_sub(above).filter(|&y| y < x.shape.height);
                    let z = (left * stride[1] + column * dilation[1]).checked_sub(before);
                    let z = z.filter(|&z| z < x.shape.width);
                    let (Some(y), Some(z)) = (y, z) else { continue };
                    let tap = kernel[((out * inputs + input) * rows + row) * columns + column];
                    sum += tap * x.at([n, out / outputs * inputs + input, y, z]);
                }
            }
        }
        sum
    })
}

/// `f(n, c, y, x)` for every element, in order.
fn each(images: usize, shape: Shape, f: impl Fn([usize; 4]) -> f64) -> Vec<f64> {
    let mut values = Vec::with_capacity(images * shape.elements());
    for n in 0..images {
        for c in 0..shape.channels {
            for y in 0..shape.height {
                values.extend((0..shape.width).map(|x| f([n, c, y, x])));
            }
        }
    }
    values
}
