//! What stands around the convolutions, each in one pass over memory.

use alloc::{vec, vec::Vec};

use super::parallel::each_piece;

/// Elements a thread takes at a time.
const PIECE: usize = 1 << 14;

/// `relu(a + b)`; what is not a number stays none.
pub fn add_relu(a: &[f32], b: &[f32]) -> Vec<f32> {
    map(a, b, |a, b| if a + b < 0.0 { 0.0 } else { a + b })
}

/// The gradient where the output of a ReLU is above zero, else zero.
pub fn masked(gradient: &[f32], output: &[f32]) -> Vec<f32> {
    map(gradient, output, |gradient, output| if output <= 0.0 { 0.0 } else { gradient })
}

/// `scale · (a − b)`.
pub fn scaled_difference(a: &[f32], b: &[f32], scale: f32) -> Vec<f32> {
    map(a, b, |a, b| scale * (a - b))
}

/// Mean of `(a − b)²`; its pieces are summed in one order, whatever the threads.
pub fn mean_squared_error(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = vec![0.0; a.len().div_ceil(PIECE)];
    each_piece(
        &mut sums,
        1,
        || (),
        |index, sum, ()| {
            let here = index * PIECE..a.len().min((index + 1) * PIECE);
            let pairs = a[here.clone()].chunks(16).zip(b[here].chunks(16));
            let mut lanes = [0.0; 16];
            for (a, b) in pairs {
                lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += (a - b) * (a - b));
            }
            sum[0] = lanes.iter().sum();
        },
    );
    (sums.into_iter().map(f64::from).sum::<f64>() / a.len().max(1) as f64) as f32
}

fn map(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Send + Sync) -> Vec<f32> {
    let mut output = vec![0.0; a.len()];
    each_piece(
        &mut output,
        PIECE,
        || (),
        |index, output, ()| {
            let (a, b) = (&a[index * PIECE..], &b[index * PIECE..]);
            output.iter_mut().zip(a.iter().zip(b)).for_each(|(output, (&a, &b))| *output = f(a, b));
        },
    );
    output
}
