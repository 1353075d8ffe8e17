//! Weight gradients and the sums of the solve: inner products of shifted planes over a whole group of images.

use pulp::{Simd, WithSimd};

use super::{
    instructions::Arch,
    plane::{LANES, Lanes, vectors},
};

/// Left and right planes whose products are kept in registers; with more planes, the pointers to them spill.
const LEFT: usize = 4;
const RIGHT: usize = 3;
/// Positions per pass, so that the left planes' rows fit the L1 cache.
const POSITIONS: usize = 128;

/// One operand of the products.
#[derive(Clone, Copy, Debug)]
pub struct Factor<'a> {
    /// The planes.
    pub values: &'a [Lanes],
    /// Initial index of each plane.
    pub starts: &'a [usize],
    /// Distance from one row to the next.
    pub pitch: usize,
    /// Distance from one column to the next.
    pub step: usize,
}

/// `sums[l · row + r] += Σ left_l · right_r` over `rows` × `columns` positions of all images of a group.
pub fn products(
    arch: Arch,
    left: Factor<'_>,
    right: Factor<'_>,
    [rows, columns]: [usize; 2],
    sums: &mut [f32],
    row: usize,
) {
    arch.dispatch(Products { left, right, rows, columns, sums, row });
}

struct Products<'a> {
    left: Factor<'a>,
    right: Factor<'a>,
    rows: usize,
    columns: usize,
    sums: &'a mut [f32],
    row: usize,
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match (self.left.step, self.right.step) {
            (1, 1) => self.passes::<S, 1, 1>(simd),
            _ => self.passes::<S, 0, 0>(simd),
        }
    }
}

impl Products<'_> {
    #[inline(always)]
    fn passes<S: Simd, const LEFT_STEP: usize, const RIGHT_STEP: usize>(&mut self, simd: S) {
        let rows = (POSITIONS / self.columns.max(1)).max(1);
        for first in (0..self.rows).step_by(rows) {
            let rows = rows.min(self.rows - first);
            let count = self.left.starts.len();
            for left in (0..count).step_by(LEFT) {
                if left + 1 == count {
                    self.line::<S, LEFT_STEP, RIGHT_STEP, 1>(simd, left, first, rows);
                } else {
                    self.line::<S, LEFT_STEP, RIGHT_STEP, LEFT>(simd, left, first, rows);
                }
            }
        }
    }

    /// Multiplies `L` left planes with all right planes.
    #[inline(always)]
    fn line<S: Simd, const LEFT_STEP: usize, const RIGHT_STEP: usize, const L: usize>(
        &mut self,
        simd: S,
        left: usize,
        first: usize,
        rows: usize,
    ) {
        for right in (0..self.right.starts.len()).step_by(RIGHT) {
            self.tile::<S, LEFT_STEP, RIGHT_STEP, L>(simd, [left, right], first, rows);
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const LEFT_STEP: usize, const RIGHT_STEP: usize, const L: usize>(
        &mut self,
        simd: S,
        [left, right]: [usize; 2],
        first: usize,
        rows: usize,
    ) {
        let parts = LANES / S::F32_LANES;
        let left_step = parts * if LEFT_STEP == 0 { self.left.step } else { LEFT_STEP };
        let right_step = parts * if RIGHT_STEP == 0 { self.right.step } else { RIGHT_STEP };
        let left_values = vectors::<S>(self.left.values);
        let right_values = vectors::<S>(self.right.values);
        // A partial tile repeats its last plane and drops the extra sums.
        let start =
            |side: &Factor<'_>, index: usize| side.starts[index.min(side.starts.len() - 1)] + first * side.pitch;
        let lefts: [usize; L] = core::array::from_fn(|l| start(&self.left, left + l) * parts);
        let rights: [usize; RIGHT] = core::array::from_fn(|r| start(&self.right, right + r) * parts);
        let (left_reach, right_reach) = ((self.columns * left_step).max(1), (self.columns * right_step).max(1));
        let mut sums = [[simd.splat_f32s(0.0); RIGHT]; L];
        for row in 0..rows {
            // All slices have the same known length, so the loop needs no bounds checks.
            let lefts = lefts.map(|start| {
                let end = (start + row * self.left.pitch * parts + left_reach).min(left_values.len());
                &left_values[start + row * self.left.pitch * parts..end]
            });
            let rights = rights.map(|start| {
                let end = (start + row * self.right.pitch * parts + right_reach).min(right_values.len());
                &right_values[start + row * self.right.pitch * parts..end]
            });
            if LEFT_STEP == 1 && RIGHT_STEP == 1 {
                let count = self.columns * parts;
                let (lefts, rights) = (lefts.map(|l| &l[..count]), rights.map(|r| &r[..count]));
                for position in 0..count {
                    multiply(simd, lefts, rights.map(|r| r[position]), position, &mut sums);
                }
            } else {
                for column in 0..self.columns {
                    for part in 0..parts {
                        let (l, r) = (column * left_step + part, column * right_step + part);
                        multiply(simd, lefts, rights.map(|right| right[r]), l, &mut sums);
                    }
                }
            }
        }
        for (l, sums) in sums.into_iter().enumerate().take(self.left.starts.len() - left) {
            for (r, sum) in sums.into_iter().enumerate().take(self.right.starts.len() - right) {
                self.sums[(left + l) * self.row + right + r] += simd.reduce_sum_f32s(sum);
            }
        }
    }
}

/// Three right values, one left value and twelve sums use all sixteen registers.
#[inline(always)]
fn multiply<S: Simd, const L: usize>(
    simd: S,
    lefts: [&[S::f32s]; L],
    rights: [S::f32s; RIGHT],
    position: usize,
    sums: &mut [[S::f32s; RIGHT]; L],
) {
    for (sums, left) in sums.iter_mut().zip(lefts) {
        let left = left[position];
        for (sum, right) in sums.iter_mut().zip(rights) {
            *sum = simd.mul_add_e_f32s(left, right, *sum);
        }
    }
}
