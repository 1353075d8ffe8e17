//! The gradient of a batch's mean squared error, on the CPU.

use alloc::{vec, vec::Vec};

use super::{Backward, Program, Workspace, clear_absent};
use crate::{
    block::Block,
    images::Images,
    kernels::{elementwise::squared_error, parallel::share},
};

/// Parts of a batch whose gradients are summed apart, then in order: what keeps threads from changing a result.
pub const PIECES: usize = 8;

/// A student's passes and its partial sums.
#[derive(Debug)]
pub struct CpuGradients {
    program: Program,
    backward: Backward,
    pieces: Vec<Piece>,
}

/// What one part of a batch adds.
#[derive(Clone, Debug)]
pub struct Piece {
    /// In the backward pass's order.
    pub sums: Vec<f32>,
    /// Of the loss.
    pub error: f64,
}

impl CpuGradients {
    /// For blocks like `student`.
    pub fn new(student: &Block) -> Self {
        let program = Program::new(student, student.nodes().len(), true);
        let backward = Backward::new(student, &program, false);
        Self { program, backward, pieces: Vec::new() }
    }

    /// Sets `gradients` to those of the mean squared error per element by `weights`, both in the block's order; returns the
    /// error.
    pub fn compute(
        &mut self,
        student: &Block,
        weights: &[Vec<f32>],
        input: &Images,
        target: &Images,
        gradients: &mut [Vec<f32>],
        workspace: &mut Workspace,
    ) -> f32 {
        let Self { program, backward, pieces } = self;
        program.set_weights(student, |index| &weights[index]);
        backward.set_weights(student, program, |index| &weights[index]);
        let (groups, count) = (input.groups().len(), PIECES.min(input.groups().len()));
        pieces.resize_with(count, || Piece { sums: vec![0.0; backward.sums()], error: 0.0 });
        let elements = input.len() * student.output().elements();
        let scale = 2.0 / elements.max(1) as f32;
        let (program, backward) = (&*program, &*backward);
        let workers = workspace.workers(count, program.arena() + backward.arena());
        share(workers, pieces.iter_mut().enumerate(), |(piece, Piece { sums, error }), arena| {
            sums.fill(0.0);
            *error = 0.0;
            let (values, slopes) = arena.split_at_mut(program.arena());
            for group in piece * groups / count..(piece + 1) * groups / count {
                program.load(values, input.plane(group));
                program.forward(values);
                backward.slots.clear_borders(slopes);
                let Some(slope) = backward.gradient(slopes, student.nodes().len()) else { continue };
                clear_absent(program.output_mut(values), input.lanes(group));
                *error += squared_error(program.arch, program.output(values), target.group(group), slope, scale);
                backward.run(program, values, slopes, sums);
            }
        });
        gradients.iter_mut().for_each(|gradient| gradient.fill(0.0));
        if let Some((total, others)) = pieces.split_first_mut() {
            others.iter().for_each(|piece| add(&mut total.sums, &piece.sums));
            backward.add_sums(student, program, &total.sums, gradients);
        }
        (pieces.iter().map(|piece| piece.error).sum::<f64>() / elements.max(1) as f64) as f32
    }
}

/// `total += sums`.
pub fn add(total: &mut [f32], sums: &[f32]) {
    total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
}
