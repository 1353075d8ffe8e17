//! Work on the images of a batch, over the threads where there are threads.

/// Calls `work` with the number of each `size`-long piece of `output`, the piece, and a scratch space that
/// earlier pieces may have used.
/// What a piece gets does not depend on the threads.
#[cfg(feature = "std")]
pub fn each_piece<S: Send>(
    output: &mut [f32],
    size: usize,
    scratch: impl Fn() -> S + Sync + Send,
    work: impl Fn(usize, &mut [f32], &mut S) + Sync + Send,
) {
    use rayon::prelude::*;
    let pieces = output.par_chunks_mut(size).enumerate();
    pieces.for_each_init(scratch, |space, (index, piece)| work(index, piece, space));
}

/// See above; one piece after another.
#[cfg(not(feature = "std"))]
pub fn each_piece<S>(
    output: &mut [f32],
    size: usize,
    scratch: impl Fn() -> S,
    work: impl Fn(usize, &mut [f32], &mut S),
) {
    let mut space = scratch();
    output.chunks_mut(size).enumerate().for_each(|(index, piece)| work(index, piece, &mut space));
}
