//! The report on a distilled neighbourhood.

use alloc::string::String;

use serde::Serialize;

use crate::{block::Block, run::Distilled, tensor::Shape};

/// Sizes and errors of a distilled neighbourhood.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlockReport {
    /// Number among the neighbourhoods, from 0.
    pub index: usize,
    /// Its name in the teacher.
    pub name: String,
    /// Shape of its input.
    pub input: Shape,
    /// Shape of its output.
    pub output: Shape,
    /// Parameters of the teacher's block.
    pub teacher_parameters: usize,
    /// Parameters of the student's block.
    pub parameters: usize,
    /// Those of its kernels that are zero.
    pub zeros: usize,
    /// Multiply-accumulates per image of the teacher's block.
    pub teacher_macs: u64,
    /// Multiply-accumulates per image of the student's block.
    pub macs: u64,
    /// `‖S_i(a) − T_i(a)‖ / ‖T_i(a)‖` on held-out inputs.
    pub relative_error: f64,
    /// Mean squared error per element on held-out inputs.
    pub loss: f64,
}

impl BlockReport {
    /// Starts a report before the block is distilled.
    pub(crate) fn new(index: usize, teacher: &Block) -> Self {
        Self {
            index,
            name: teacher.name().into(),
            input: teacher.input(),
            output: teacher.output(),
            teacher_parameters: teacher.parameters(),
            parameters: 0,
            zeros: 0,
            teacher_macs: teacher.macs(),
            macs: 0,
            relative_error: 0.0,
            loss: 0.0,
        }
    }

    /// Adds the student's sizes and errors.
    pub(super) fn finish(&mut self, distilled: &Distilled) {
        self.parameters = distilled.block.parameters();
        self.zeros = distilled.block.zeros();
        self.macs = distilled.block.macs();
        (self.relative_error, self.loss) = (distilled.relative_error, distilled.loss);
    }
}
