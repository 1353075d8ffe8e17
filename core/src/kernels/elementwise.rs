//! What stands between the convolutions, in place where the operands allow it. Borders stay zero.

use pulp::Arch;

use super::plane::{LANES, Lanes, Plane};

/// `target = f(target, source)`, position by position.
#[inline(always)]
fn zip(
    arch: Arch,
    (target, to): (&mut [Lanes], Plane),
    (source, from): (&[Lanes], Plane),
    f: impl Fn(f32, f32) -> f32,
) {
    let width = to.shape.width;
    arch.dispatch(|| {
        for (t, s) in to.rows().zip(from.rows()) {
            for (target, source) in target[t..t + width].iter_mut().zip(&source[s..s + width]) {
                target.0.iter_mut().zip(source.0).for_each(|(t, s)| *t = f(*t, s));
            }
        }
    });
}

/// `target = source`.
pub fn copy(arch: Arch, target: (&mut [Lanes], Plane), source: (&[Lanes], Plane)) {
    zip(arch, target, source, |_, s| s);
}

/// `target += source`.
pub fn add(arch: Arch, target: (&mut [Lanes], Plane), source: (&[Lanes], Plane)) {
    zip(arch, target, source, |t, s| t + s);
}

/// `target = relu(target + source)`; what is not a number stays none.
pub fn add_relu(arch: Arch, target: (&mut [Lanes], Plane), source: (&[Lanes], Plane)) {
    zip(arch, target, source, |t, s| if t + s < 0.0 { 0.0 } else { t + s });
}

/// `target = relu(source)`.
pub fn relu(arch: Arch, target: (&mut [Lanes], Plane), source: (&[Lanes], Plane)) {
    zip(arch, target, source, |_, s| if s < 0.0 { 0.0 } else { s });
}

/// `target = relu(target)`.
pub fn relu_in_place(arch: Arch, (target, plane): (&mut [Lanes], Plane)) {
    arch.dispatch(|| {
        for row in plane.rows() {
            let row = &mut target[row..row + plane.shape.width];
            row.iter_mut().for_each(|x| x.0.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x }));
        }
    });
}

/// The gradient stays where a ReLU's output is above zero.
pub fn mask(arch: Arch, gradient: (&mut [Lanes], Plane), output: (&[Lanes], Plane)) {
    zip(arch, gradient, output, |gradient, output| if output <= 0.0 { 0.0 } else { gradient });
}

/// Adds the gradient where a ReLU's output is above zero.
pub fn add_masked(
    arch: Arch,
    (target, to): (&mut [Lanes], Plane),
    (gradient, from): (&[Lanes], Plane),
    (output, of): (&[Lanes], Plane),
) {
    let width = to.shape.width;
    arch.dispatch(|| {
        for ((t, g), o) in to.rows().zip(from.rows()).zip(of.rows()) {
            let pairs = gradient[g..g + width].iter().zip(&output[o..o + width]);
            for (target, (gradient, output)) in target[t..t + width].iter_mut().zip(pairs) {
                for (target, (gradient, output)) in target.0.iter_mut().zip(gradient.0.iter().zip(output.0)) {
                    *target += if output <= 0.0 { 0.0 } else { *gradient };
                }
            }
        }
    });
}

/// `gradient = scale · (output − target)` in the first `lanes` images, zero in the others; returns `Σ (output − target)²`.
pub fn squared_error(
    arch: Arch,
    (output, of): (&[Lanes], Plane),
    target: &[Lanes],
    (gradient, to): (&mut [Lanes], Plane),
    scale: f32,
    lanes: usize,
) -> f64 {
    let width = of.shape.width;
    let present: [f32; LANES] = core::array::from_fn(|lane| if lane < lanes { 1.0 } else { 0.0 });
    let mut total = 0.0f64;
    arch.dispatch(|| {
        for ((o, g), target) in of.rows().zip(to.rows()).zip(target.chunks_exact(width)) {
            let mut sums = [0.0f32; LANES];
            let pairs = output[o..o + width].iter().zip(target);
            for (gradient, (output, target)) in gradient[g..g + width].iter_mut().zip(pairs) {
                for lane in 0..LANES {
                    let difference = (output.0[lane] - target.0[lane]) * present[lane];
                    sums[lane] += difference * difference;
                    gradient.0[lane] = scale * difference;
                }
            }
            total += f64::from(sums.iter().sum::<f32>());
        }
    });
    total
}

/// `target[c] = gain[c] · source[c] + offset[c]`, with a ReLU behind it or without.
pub fn scale_shift(
    arch: Arch,
    (target, to): (&mut [Lanes], Plane),
    (source, from): (&[Lanes], Plane),
    (gain, offset): (&[f32], &[f32]),
) {
    let width = to.shape.width;
    arch.dispatch(|| {
        for (index, (t, s)) in to.rows().zip(from.rows()).enumerate() {
            let (gain, offset) = (gain[index / to.shape.height], offset[index / to.shape.height]);
            for (target, source) in target[t..t + width].iter_mut().zip(&source[s..s + width]) {
                target.0.iter_mut().zip(source.0).for_each(|(t, s)| *t = gain * s + offset);
            }
        }
    });
}

/// [`scale_shift`] where it stands.
pub fn scale_shift_in_place(arch: Arch, (target, plane): (&mut [Lanes], Plane), (gain, offset): (&[f32], &[f32])) {
    arch.dispatch(|| {
        for (index, row) in plane.rows().enumerate() {
            let (gain, offset) = (gain[index / plane.shape.height], offset[index / plane.shape.height]);
            for x in &mut target[row..row + plane.shape.width] {
                x.0.iter_mut().for_each(|x| *x = gain * *x + offset);
            }
        }
    });
}

/// Adds to `sums[c]` the sum of channel `c` over all positions and images.
pub fn channel_sums(arch: Arch, (values, plane): (&[Lanes], Plane), sums: &mut [f32]) {
    arch.dispatch(|| {
        for (index, row) in plane.rows().enumerate() {
            let mut lanes = [0.0f32; LANES];
            for x in &values[row..row + plane.shape.width] {
                lanes.iter_mut().zip(x.0).for_each(|(sum, x)| *sum += x);
            }
            sums[index / plane.shape.height] += lanes.iter().sum::<f32>();
        }
    });
}

/// `target[c] = mean of source[c]` over its positions.
pub fn average(arch: Arch, (target, to): (&mut [Lanes], Plane), (source, from): (&[Lanes], Plane)) {
    let scale = 1.0 / (from.shape.height * from.shape.width) as f32;
    arch.dispatch(|| {
        to.rows().for_each(|t| target[t] = Lanes::ZERO);
        for (index, row) in from.rows().enumerate() {
            let target = &mut target[to.at(index / from.shape.height, 0, 0)];
            for x in &source[row..row + from.shape.width] {
                target.0.iter_mut().zip(x.0).for_each(|(sum, x)| *sum += scale * x);
            }
        }
    });
}

/// Every `stride`-th row and column.
pub fn subsample((target, to): (&mut [Lanes], Plane), (source, from): (&[Lanes], Plane), stride: usize) {
    for (index, row) in to.rows().enumerate() {
        let (channel, y) = (index / to.shape.height, index % to.shape.height);
        let source = source[from.at(channel, y * stride, 0)..].iter().step_by(stride);
        target[row..row + to.shape.width].iter_mut().zip(source).for_each(|(t, s)| *t = *s);
    }
}
