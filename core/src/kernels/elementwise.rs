//! What stands between the convolutions, in place where the operands allow it. Borders stay zero.

use super::{
    instructions::Arch,
    plane::{Lanes, Plane, floats, floats_mut, vectors, vectors_mut},
};

/// A value to read or to write, and how it lies.
pub type Read<'a> = (&'a [Lanes], Plane);
/// See [`Read`].
pub type Write<'a> = (&'a mut [Lanes], Plane);

dispatched! {
    /// `target = f(target)`, position by position.
    fn map<'a, S, F: Fn(f32) -> f32>(_simd, target: Write<'a>, f: F) -> () {
        let (target, plane) = target;
        for row in plane.rows() {
            floats_mut(&mut target[row..row + plane.shape.width]).iter_mut().for_each(|x| *x = f(*x));
        }
    }
}

dispatched! {
    /// `target = f(target, source)`, position by position.
    fn zip<'a, S, F: Fn(f32, f32) -> f32>(_simd, target: Write<'a>, source: Read<'a>, f: F) -> () {
        let ((target, to), (source, from)) = (target, source);
        let width = to.shape.width;
        for (t, s) in to.rows().zip(from.rows()) {
            let (target, source) = (floats_mut(&mut target[t..t + width]), floats(&source[s..s + width]));
            target.iter_mut().zip(source).for_each(|(t, s)| *t = f(*t, *s));
        }
    }
}

/// `target = source`.
pub fn copy(arch: Arch, target: Write<'_>, source: Read<'_>) {
    zip(arch, target, source, |_, s| s);
}

/// `target += source`.
pub fn add(arch: Arch, target: Write<'_>, source: Read<'_>) {
    zip(arch, target, source, |t, s| t + s);
}

/// `target = relu(target + source)`; what is not a number stays none.
pub fn add_relu(arch: Arch, target: Write<'_>, source: Read<'_>) {
    zip(arch, target, source, |t, s| if t + s < 0.0 { 0.0 } else { t + s });
}

/// `target = relu(source)`.
pub fn relu(arch: Arch, target: Write<'_>, source: Read<'_>) {
    zip(arch, target, source, |_, s| if s < 0.0 { 0.0 } else { s });
}

/// `target = relu(target)`.
pub fn relu_in_place(arch: Arch, target: Write<'_>) {
    map(arch, target, |x| if x < 0.0 { 0.0 } else { x });
}

/// The gradient stays where a ReLU's output is above zero.
pub fn mask(arch: Arch, gradient: Write<'_>, output: Read<'_>) {
    zip(arch, gradient, output, |gradient, output| if output <= 0.0 { 0.0 } else { gradient });
}

dispatched! {
    /// Adds the gradient where a ReLU's output is above zero.
    pub fn add_masked<'a, S>(_simd, target: Write<'a>, gradient: Read<'a>, output: Read<'a>) -> () {
        let ((target, to), (gradient, from), (output, of)) = (target, gradient, output);
        let width = to.shape.width;
        for ((t, g), o) in to.rows().zip(from.rows()).zip(of.rows()) {
            let pairs = floats(&gradient[g..g + width]).iter().zip(floats(&output[o..o + width]));
            for (target, (gradient, output)) in floats_mut(&mut target[t..t + width]).iter_mut().zip(pairs) {
                *target += if *output <= 0.0 { 0.0 } else { *gradient };
            }
        }
    }
}

dispatched! {
    /// `gradient = scale · (output − target)`; returns `Σ (output − target)²`.
    pub fn squared_error<'a, S>(simd, output: Read<'a>, target: &'a [Lanes], gradient: Write<'a>, scale: f32) -> f64 {
        let ((output, of), (gradient, to)) = (output, gradient);
        let (width, factor) = (of.shape.width, simd.splat_f32s(scale));
        let (mut total, mut sum) = (0.0, simd.splat_f32s(0.0));
        for (index, ((o, g), target)) in of.rows().zip(to.rows()).zip(target.chunks_exact(width)).enumerate() {
            let pairs = vectors::<S>(&output[o..o + width]).iter().zip(vectors::<S>(target));
            for (gradient, (output, target)) in vectors_mut::<S>(&mut gradient[g..g + width]).iter_mut().zip(pairs) {
                let difference = simd.sub_f32s(*output, *target);
                sum = simd.mul_add_e_f32s(difference, difference, sum);
                *gradient = simd.mul_f32s(factor, difference);
            }
            // Channel by channel in single precision, over the channels in double.
            if (index + 1).is_multiple_of(of.shape.height) {
                total += f64::from(simd.reduce_sum_f32s(sum));
                sum = simd.splat_f32s(0.0);
            }
        }
        total
    }
}

dispatched! {
    /// `target[c] = gain[c] · source[c] + offset[c]`.
    pub fn scale_shift<'a, S>(_simd, target: Write<'a>, source: Read<'a>, gain: &'a [f32], offset: &'a [f32]) -> () {
        let ((target, to), (source, from)) = (target, source);
        let width = to.shape.width;
        for (index, (t, s)) in to.rows().zip(from.rows()).enumerate() {
            let (gain, offset) = (gain[index / to.shape.height], offset[index / to.shape.height]);
            let (target, source) = (floats_mut(&mut target[t..t + width]), floats(&source[s..s + width]));
            target.iter_mut().zip(source).for_each(|(t, s)| *t = gain * s + offset);
        }
    }
}

dispatched! {
    /// [`scale_shift`] where it stands.
    pub fn scale_shift_in_place<'a, S>(_simd, target: Write<'a>, gain: &'a [f32], offset: &'a [f32]) -> () {
        let (target, plane) = target;
        for (index, row) in plane.rows().enumerate() {
            let (gain, offset) = (gain[index / plane.shape.height], offset[index / plane.shape.height]);
            let row = floats_mut(&mut target[row..row + plane.shape.width]);
            row.iter_mut().for_each(|x| *x = gain * *x + offset);
        }
    }
}

dispatched! {
    /// Adds to `sums[c]` the sum of channel `c` over all positions and images.
    pub fn channel_sums<'a, S>(simd, values: Read<'a>, sums: &'a mut [f32]) -> () {
        let (values, plane) = values;
        for (channel, total) in sums.iter_mut().enumerate() {
            let mut sum = simd.splat_f32s(0.0);
            for row in 0..plane.shape.height {
                let row = &values[plane.at(channel, row, 0)..][..plane.shape.width];
                vectors::<S>(row).iter().for_each(|x| sum = simd.add_f32s(sum, *x));
            }
            *total += simd.reduce_sum_f32s(sum);
        }
    }
}

dispatched! {
    /// `target[c] = mean of source[c]` over its positions.
    pub fn average<'a, S>(_simd, target: Write<'a>, source: Read<'a>) -> () {
        let ((target, to), (source, from)) = (target, source);
        let scale = 1.0 / (from.shape.height * from.shape.width) as f32;
        to.rows().for_each(|t| target[t] = Lanes::ZERO);
        for (index, row) in from.rows().enumerate() {
            let target = &mut target[to.at(index / from.shape.height, 0, 0)];
            for x in &source[row..row + from.shape.width] {
                target.0.iter_mut().zip(x.0).for_each(|(sum, x)| *sum += scale * x);
            }
        }
    }
}

/// Every `stride`-th row and column.
pub fn subsample((target, to): Write<'_>, (source, from): Read<'_>, stride: usize) {
    for (index, row) in to.rows().enumerate() {
        let (channel, y) = (index / to.shape.height, index % to.shape.height);
        let source = source[from.at(channel, y * stride, 0)..].iter().step_by(stride);
        target[row..row + to.shape.width].iter_mut().zip(source).for_each(|(t, s)| *t = *s);
    }
}
