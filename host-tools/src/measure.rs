//! What a student lost: its accuracy on labelled images, its error at the blocks' interfaces, and reports of both.

mod evaluate;
mod interface;
mod report;

pub use self::{
    evaluate::{Evaluation, batch, evaluate},
    interface::interface_error,
    report::{Asked, DataFree, data_free},
};
