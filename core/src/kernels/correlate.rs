//! Forward convolutions and input gradients: sums over taps, with vectors of any width.

use alloc::{vec, vec::Vec};

use pulp::{Simd, WithSimd};

use super::{
    elementwise::Bounds,
    instructions::Arch,
    plane::{LANES, Lanes, Plane, vectors, vectors_mut},
};

/// Output channels whose sums are kept in registers.
const OUTPUTS: usize = 4;
/// The end of a row at which a tile is.
const LEFT_EDGE: i8 = -1;
const NO_EDGE: i8 = 0;
const RIGHT_EDGE: i8 = 1;

/// One direction of a correlation: output position `p` of `count` reads `taps` source positions, `dilation` apart, from
/// `step·p − pad` on, and is written to position `first + stride·p` of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Taps of the kernel.
    pub taps: usize,
    /// Source positions between neighbouring outputs.
    pub step: usize,
    /// Source positions between neighbouring taps.
    pub dilation: usize,
    /// Distance of output 0's first tap before the start of the source.
    pub pad: isize,
    /// Output positions.
    pub count: usize,
    /// Target position of output 0.
    pub first: usize,
    /// Target positions between neighbouring outputs.
    pub stride: usize,
}

/// `target[o][p] = start + Σ_{i,t} weights[o][i][t] · source[i][step·p − pad + dilation·t]`, over groups of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correlation {
    /// Rows, then columns.
    pub axes: [Axis; 2],
    /// Number of channel groups.
    pub groups: usize,
    /// Layout of the source; its border covers every column that a tap reads.
    pub source: Plane,
    /// Layout of the target.
    pub target: Plane,
}

/// Initial values of the sums.
#[derive(Clone, Copy, Debug)]
pub enum Initial<'a> {
    /// A value for each output channel.
    Bias(&'a [f32]),
    /// Zero.
    Zero,
    /// The target's present values.
    Target,
}

impl Correlation {
    fn inputs(&self) -> usize {
        self.source.shape.channels / self.groups
    }

    fn outputs(&self) -> usize {
        self.target.shape.channels / self.groups
    }

    /// Output channels per tile; a depthwise convolution has one per group.
    fn tile(&self) -> usize {
        if self.outputs() == 1 { 1 } else { OUTPUTS }
    }

    fn taps(&self) -> usize {
        self.axes[0].taps * self.axes[1].taps
    }

    /// A zeroed buffer for the weights in loop order: group, tile of outputs, input, tap, output in the tile. Zeros
    /// fill partial tiles.
    pub fn packed(&self) -> Vec<f32> {
        vec![0.0; self.groups * self.outputs().div_ceil(self.tile()) * self.tile() * self.inputs() * self.taps()]
    }

    /// Fills a [`packed`](Self::packed) buffer from `weight(output, input in its group, [tap row, tap column])`.
    pub fn pack(&self, packed: &mut [f32], weight: impl Fn(usize, usize, [usize; 2]) -> f32) {
        let (tile, outputs, columns) = (self.tile(), self.outputs(), self.axes[1].taps);
        let tiles = packed.chunks_exact_mut((tile * self.inputs() * self.taps()).max(1));
        for (index, packed) in tiles.enumerate() {
            let (group, first) = (index / outputs.div_ceil(tile), index % outputs.div_ceil(tile) * tile);
            for (position, packed) in packed.chunks_exact_mut(tile).enumerate() {
                let (input, tap) = (position / self.taps(), position % self.taps());
                for (output, packed) in (first..outputs).zip(packed) {
                    *packed = weight(group * outputs + output, input, [tap / columns, tap % columns]);
                }
            }
        }
    }

    /// Runs the correlation on one group of images, with an optional fused clamp.
    pub fn run(
        &self,
        arch: Arch,
        source: &[Lanes],
        packed: &[f32],
        start: Initial<'_>,
        clamp: Option<Bounds>,
        target: &mut [Lanes],
    ) {
        arch.dispatch(Run { plan: self, source, packed, start, clamp, target });
    }
}

struct Run<'a> {
    plan: &'a Correlation,
    source: &'a [Lanes],
    packed: &'a [f32],
    start: Initial<'a>,
    clamp: Option<Bounds>,
    target: &'a mut [Lanes],
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.plan.tile() == 1 { self.choose::<S, 1>(simd) } else { self.choose::<S, OUTPUTS>(simd) }
    }
}

impl Run<'_> {
    /// Selects an instance for the usual numbers of taps and steps; 0 stands for any other.
    #[inline(always)]
    fn choose<S: Simd, const O: usize>(self, simd: S) {
        let Axis { taps, step, dilation, .. } = self.plan.axes[1];
        // Dilation has no effect on a single tap.
        match (taps, if dilation == 1 || taps == 1 { step } else { 0 }) {
            (3, 1) => self.rows::<S, O, 3, 1>(simd),
            (3, 2) => self.rows::<S, O, 3, 2>(simd),
            (1, 1) => self.rows::<S, O, 1, 1>(simd),
            (1, 2) => self.rows::<S, O, 1, 2>(simd),
            _ => self.rows::<S, O, 0, 0>(simd),
        }
    }

    #[inline(always)]
    fn rows<S: Simd, const O: usize, const TAPS: usize, const STEP: usize>(mut self, simd: S) {
        let plan = self.plan;
        let ([rows, columns], source, target) = (plan.axes, plan.source, plan.target);
        let tiles = plan.outputs().div_ceil(O);
        let size = O * plan.inputs() * plan.taps();
        for group in 0..plan.groups {
            for y in 0..rows.count {
                // Skip taps above and below the source, which would add zeros.
                let top = (rows.step * y) as isize - rows.pad;
                let taps_before = |row: isize| (row.max(0) as usize).div_ceil(rows.dilation).min(rows.taps);
                let start = taps_before(-top);
                let taken = start..taps_before(source.shape.height as isize - top).max(start);
                let first_row = top + (start * rows.dilation) as isize + source.border as isize;
                let first_row = first_row.max(0) as usize;
                let line = group * plan.inputs() * source.area() + first_row * source.pitch();
                for tile in 0..tiles {
                    let channel = group * plan.outputs() + tile * O;
                    let here = Tile {
                        weights: &self.packed[(group * tiles + tile) * size..][..size],
                        taken: taken.clone(),
                        line,
                        channel,
                        channels: O.min(plan.outputs() - tile * O),
                        target: target.at(channel, rows.first + rows.stride * y, columns.first),
                    };
                    let x = if S::REGISTER_COUNT >= 32 || O == 1 {
                        self.line::<S, O, TAPS, STEP, 4>(simd, &here)
                    } else {
                        self.line::<S, O, TAPS, STEP, 2>(simd, &here)
                    };
                    for x in x..columns.count {
                        self.tile::<S, O, TAPS, STEP, 1, NO_EDGE>(simd, &here, x);
                    }
                }
            }
        }
    }

    /// Computes a row of `O` output channels, `X` positions at a time; returns the first position left over.
    #[inline(always)]
    fn line<S: Simd, const O: usize, const TAPS: usize, const STEP: usize, const X: usize>(
        &mut self,
        simd: S,
        here: &Tile<'_>,
    ) -> usize {
        let (columns, width) = (self.plan.axes[1], self.plan.source.shape.width);
        // With the usual padding of 1, skip the row's outermost taps, which would add zeros.
        let edges = TAPS == 3 && STEP == 1 && columns.pad == 1 && columns.count == width;
        let mut x = 0;
        while x + X <= columns.count {
            if edges && x == 0 {
                self.tile::<S, O, TAPS, STEP, X, LEFT_EDGE>(simd, here, x);
            } else if edges && x + X == columns.count {
                self.tile::<S, O, TAPS, STEP, X, RIGHT_EDGE>(simd, here, x);
            } else {
                self.tile::<S, O, TAPS, STEP, X, NO_EDGE>(simd, here, x);
            }
            x += X;
        }
        while X > 2 && x + 2 <= columns.count {
            self.tile::<S, O, TAPS, STEP, 2, NO_EDGE>(simd, here, x);
            x += 2;
        }
        x
    }

    /// Computes `O` output channels at `X` neighbouring positions of a row.
    #[inline(always)]
    fn tile<S: Simd, const O: usize, const TAPS: usize, const STEP: usize, const X: usize, const EDGE: i8>(
        &mut self,
        simd: S,
        here: &Tile<'_>,
        x: usize,
    ) {
        let plan = self.plan;
        let columns = plan.axes[1];
        let (taps, step, dilation) =
            if TAPS == 0 { (columns.taps, columns.step, columns.dilation) } else { (TAPS, STEP, 1) };
        // Vectors per position.
        let parts = LANES / S::F32_LANES;
        let source = vectors::<S>(self.source);
        let target = vectors_mut::<S>(self.target);
        let column = (step * x + plan.source.border) as isize - columns.pad;
        let base = here.line + column.max(0) as usize;
        let reach = ((X - 1) * step + (taps.max(1) - 1) * dilation) * parts + 1;
        let at = |o: usize, p: usize| here.target + o * plan.target.area() + columns.stride * (x + p);
        let [low, high] = self.clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
        let (low, high) = (simd.splat_f32s(low), simd.splat_f32s(high));
        for part in 0..parts {
            // Use only constant bounds on `sums` and no closure over them, or the compiler keeps them in memory.
            let mut sums = [[simd.splat_f32s(0.0); X]; O];
            for (o, sums) in sums.iter_mut().enumerate() {
                for (p, sum) in sums.iter_mut().enumerate() {
                    match self.start {
                        Initial::Bias(bias) if o < here.channels => *sum = simd.splat_f32s(bias[here.channel + o]),
                        Initial::Target if o < here.channels => *sum = target[at(o, p) * parts + part],
                        _ => {}
                    }
                }
            }
            let inputs = here.weights.chunks_exact((O * plan.taps()).max(1));
            for (input, weights) in inputs.enumerate() {
                let (weights, _) = weights.as_chunks::<O>();
                let rows = weights[here.taken.start * taps..here.taken.end * taps].chunks_exact(taps.max(1));
                for (row, weights) in rows.enumerate() {
                    let start = base + input * plan.source.area() + row * plan.axes[0].dilation * plan.source.pitch();
                    let values = &source[start * parts + part..][..reach];
                    for (tap, weights) in weights.iter().enumerate() {
                        for (sums, &weight) in sums.iter_mut().zip(weights) {
                            let weight = simd.splat_f32s(weight);
                            for (p, sum) in sums.iter_mut().enumerate() {
                                let left = EDGE == LEFT_EDGE && p == 0 && tap == 0;
                                let right = EDGE == RIGHT_EDGE && p + 1 == X && tap + 1 == TAPS;
                                if !left && !right {
                                    *sum =
                                        simd.mul_add_e_f32s(weight, values[(p * step + tap * dilation) * parts], *sum);
                                }
                            }
                        }
                    }
                }
            }
            for (o, sums) in sums.iter().enumerate() {
                for (p, &sum) in sums.iter().enumerate() {
                    if o < here.channels {
                        target[at(o, p) * parts + part] = held(simd, sum, low, high);
                    }
                }
            }
        }
    }
}

/// A row of a tile of output channels, and its source.
struct Tile<'a> {
    weights: &'a [f32],
    /// Tap rows that are inside the source.
    taken: core::ops::Range<usize>,
    /// Initial of the first such row in the group's first channel, border included.
    line: usize,
    channel: usize,
    /// Output channels of the tile that exist.
    channels: usize,
    /// The first output position of the row.
    target: usize,
}

/// Clamps `x`; NaN stays NaN.
#[inline(always)]
fn held<S: Simd>(simd: S, x: S::f32s, low: S::f32s, high: S::f32s) -> S::f32s {
    let x = simd.select_f32s(simd.less_than_f32s(x, low), low, x);
    simd.select_f32s(simd.less_than_f32s(high, x), high, x)
}
