//! The operators between convolutions, in place where the operands allow it. Borders stay zero.

use pulp::Simd;

use super::{
    instructions::Arch,
    plane::{LANES, Lanes, Plane, floats, floats_mut, vectors, vectors_mut},
};

/// A value to read and its layout.
pub type Read<'a> = (&'a [Lanes], Plane);
/// A value to write and its layout.
pub type Write<'a> = (&'a mut [Lanes], Plane);

dispatched! {
    /// `target = f(target)`, position by position.
    pub fn map<'a, S, F: Fn(f32) -> f32>(_simd, target: Write<'a>, f: F) -> () {
        let (target, plane) = target;
        for row in plane.rows() {
            floats_mut(&mut target[row..row + plane.shape.width]).iter_mut().for_each(|x| *x = f(*x));
        }
    }
}

dispatched! {
    /// `target = f(target, source)`, position by position.
    pub fn zip<'a, S, F: Fn(f32, f32) -> f32>(_simd, target: Write<'a>, source: Read<'a>, f: F) -> () {
        let ((target, to), (source, from)) = (target, source);
        let width = to.shape.width;
        for (t, s) in to.rows().zip(from.rows()) {
            let (target, source) = (floats_mut(&mut target[t..t + width]), floats(&source[s..s + width]));
            target.iter_mut().zip(source).for_each(|(t, s)| *t = f(*t, *s));
        }
    }
}

dispatched! {
    /// `target = f(target, first, second)`, position by position.
    pub fn zip_two<'a, S, F: Fn(f32, f32, f32) -> f32>(
        _simd,
        target: Write<'a>,
        first: Read<'a>,
        second: Read<'a>,
        f: F,
    ) -> () {
        let ((target, to), (first, one), (second, two)) = (target, first, second);
        let width = to.shape.width;
        for ((t, a), b) in to.rows().zip(one.rows()).zip(two.rows()) {
            let pairs = floats(&first[a..a + width]).iter().zip(floats(&second[b..b + width]));
            for (target, (first, second)) in floats_mut(&mut target[t..t + width]).iter_mut().zip(pairs) {
                *target = f(*target, *first, *second);
            }
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

/// `target = clamp(target + source)`.
pub fn add_clamped(arch: Arch, target: Write<'_>, source: Read<'_>, bounds: Bounds) {
    zip(arch, target, source, |t, s| held(t + s, bounds));
}

/// `target = clamp(source)`.
pub fn clamp(arch: Arch, target: Write<'_>, source: Read<'_>, bounds: Bounds) {
    zip(arch, target, source, |_, s| held(s, bounds));
}

/// `target = clamp(target)`.
pub fn clamp_in_place(arch: Arch, target: Write<'_>, bounds: Bounds) {
    map(arch, target, |x| held(x, bounds));
}

/// A lower and an upper bound: `[0, ∞]` is a ReLU.
pub type Bounds = [f32; 2];

/// Clamps `x`; NaN stays NaN.
fn held(x: f32, [low, high]: Bounds) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// Whether a clamp's output is on a bound, where its gradient is zero.
fn stopped(output: f32, [low, high]: Bounds) -> bool {
    output <= low || output >= high
}

/// Zeros the gradient where a clamp's output is not strictly between its bounds.
pub fn mask(arch: Arch, gradient: Write<'_>, output: Read<'_>, bounds: Bounds) {
    zip(arch, gradient, output, |gradient, output| if stopped(output, bounds) { 0.0 } else { gradient });
}

/// Adds the gradient where a clamp's output is strictly between its bounds.
pub fn add_masked(arch: Arch, target: Write<'_>, gradient: Read<'_>, output: Read<'_>, bounds: Bounds) {
    zip_two(arch, target, gradient, output, |t, gradient, output| {
        t + if stopped(output, bounds) { 0.0 } else { gradient }
    });
}

dispatched! {
    /// `target[c] *= gate[c]`, with one number per channel.
    pub fn gate<'a, S>(_simd, target: Write<'a>, gate: Read<'a>) -> () {
        let ((target, to), (gate, from)) = (target, gate);
        for (index, row) in to.rows().enumerate() {
            let gate = gate[from.at(index / to.shape.height, 0, 0)];
            for x in &mut target[row..row + to.shape.width] {
                x.0.iter_mut().zip(gate.0).for_each(|(x, gate)| *x *= gate);
            }
        }
    }
}

dispatched! {
    /// `target[c] += gate[c] · gradient[c]`.
    pub fn add_gated<'a, S>(_simd, target: Write<'a>, gradient: Read<'a>, gate: Read<'a>) -> () {
        let ((target, to), (gradient, of), (gate, from)) = (target, gradient, gate);
        let width = to.shape.width;
        for (index, (t, g)) in to.rows().zip(of.rows()).enumerate() {
            let gate = gate[from.at(index / to.shape.height, 0, 0)];
            for (target, gradient) in target[t..t + width].iter_mut().zip(&gradient[g..g + width]) {
                for lane in 0..LANES {
                    target.0[lane] += gate.0[lane] * gradient.0[lane];
                }
            }
        }
    }
}

dispatched! {
    /// `target[c] += Σ gradient[c] · value[c]` over the positions of a channel.
    pub fn gate_sums<'a, S>(_simd, target: Write<'a>, gradient: Read<'a>, value: Read<'a>) -> () {
        let ((target, to), (gradient, of), (value, from)) = (target, gradient, value);
        let width = of.shape.width;
        for (index, (g, v)) in of.rows().zip(from.rows()).enumerate() {
            let sum = &mut target[to.at(index / of.shape.height, 0, 0)];
            for (gradient, value) in gradient[g..g + width].iter().zip(&value[v..v + width]) {
                for lane in 0..LANES {
                    sum.0[lane] += gradient.0[lane] * value.0[lane];
                }
            }
        }
    }
}

dispatched! {
    /// `gradient = scale · (output − target)`, or adds that to it; returns `Σ (output − target)²`.
    pub fn squared_error<'a, S>(
        simd,
        output: Read<'a>,
        target: &'a [Lanes],
        gradient: Write<'a>,
        scale: f32,
        add: bool,
    ) -> f64 {
        // Two loops: one that may add reads the gradient even where it is only written.
        if add {
            pull(simd, output, target, gradient, scale, |gradient, pull| simd.add_f32s(gradient, pull))
        } else {
            pull(simd, output, target, gradient, scale, |_, pull| pull)
        }
    }
}

#[inline(always)]
fn pull<S: Simd>(
    simd: S,
    (output, of): Read<'_>,
    target: &[Lanes],
    (gradient, to): Write<'_>,
    scale: f32,
    with: impl Fn(S::f32s, S::f32s) -> S::f32s,
) -> f64 {
    let (width, factor) = (of.shape.width, simd.splat_f32s(scale));
    let (mut total, mut sum) = (0.0, simd.splat_f32s(0.0));
    for (index, ((o, g), target)) in of.rows().zip(to.rows()).zip(target.chunks_exact(width)).enumerate() {
        let pairs = vectors::<S>(&output[o..o + width]).iter().zip(vectors::<S>(target));
        for (gradient, (output, target)) in vectors_mut::<S>(&mut gradient[g..g + width]).iter_mut().zip(pairs) {
            let difference = simd.sub_f32s(*output, *target);
            sum = simd.mul_add_e_f32s(difference, difference, sum);
            *gradient = with(*gradient, simd.mul_f32s(factor, difference));
        }
        // Sum in single precision within a channel, in double across channels.
        if (index + 1).is_multiple_of(of.shape.height) {
            total += f64::from(simd.reduce_sum_f32s(sum));
            sum = simd.splat_f32s(0.0);
        }
    }
    total
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
    /// [`scale_shift`] in place.
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
