//! How well each block of a student reproduces the teacher's.

use anyhow::{Result, ensure};
use distill_core::{
    Batch, Device, DeviceBlock, Difference, MEASURED_INPUTS, NoiseImages, Role, Statistics, fold_batch_norms,
};

use crate::network::Network;

/// Mean over the neighbourhoods of `‖S_i(a) − T_i(a)‖ / ‖T_i(a)‖`, where `a` are the teacher's activations on the noise images
/// that are held out from distillation.
///
/// # Errors
/// The student's blocks are not those of the teacher.
pub fn interface_error(teacher: &Network, student: &Network, noise: &NoiseImages) -> Result<f64> {
    ensure!(teacher.blocks.len() == student.blocks.len(), "the student has another number of blocks than the teacher");
    let pixels = teacher.manifest.pixels();
    let mut input = noise.images(noise.len().saturating_sub(MEASURED_INPUTS)..noise.len(), &pixels);
    let (mut sum, mut count) = (0.0, 0);
    for (theirs, ours) in teacher.blocks.iter().zip(&student.blocks) {
        let run = |block| -> Result<Batch> {
            let block = DeviceBlock::new(&fold_batch_norms(block)?, &Device::Cpu);
            Ok(block.forward(&input, Statistics::Running))
        };
        let target = run(theirs)?;
        if theirs.role() == Role::Neighbourhood {
            ensure!(theirs.input() == ours.input(), "block {} takes another shape than the teacher's", ours.name());
            let mut difference = Difference::default();
            run(ours)?.add_difference(&target, &mut difference);
            sum += difference.relative_error();
            count += 1;
        }
        input = target;
    }
    Ok(sum / f64::from(count.max(1)))
}
