//! Distributes work over threads, or runs it on one without `std`.

/// Maximum threads that [`each`] uses.
#[cfg(feature = "std")]
const MOST: usize = 64;

/// Number of threads that [`share`] can use.
pub fn threads() -> usize {
    #[cfg(feature = "std")]
    return rayon::current_num_threads();
    #[cfg(not(feature = "std"))]
    1
}

/// Calls `work` on every item, in parallel. Results must not depend on the thread that takes an item.
#[cfg(feature = "std")]
pub fn each<T: Send>(items: impl Iterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    let workers = &mut [(); MOST][..threads().min(MOST)];
    share(workers, items, |item, ()| work(item));
}

/// Without `std`: one item after another.
#[cfg(not(feature = "std"))]
pub fn each<T>(items: impl Iterator<Item = T>, work: impl Fn(T)) {
    items.for_each(work);
}

/// [`each`] with per-worker memory: each worker takes the next item until none is left.
#[cfg(feature = "std")]
pub fn share<T: Send, W: Send>(
    workers: &mut [W],
    items: impl Iterator<Item = T> + Send,
    work: impl Fn(T, &mut W) + Sync,
) {
    use rayon::prelude::*;

    let queue = std::sync::Mutex::new(items);
    // Rayon propagates a worker's panic; the queue stays usable for the others.
    let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
    workers.par_iter_mut().with_max_len(1).for_each(|worker| {
        while let Some(item) = next() {
            work(item, worker);
        }
    });
}

/// Without `std`: one item after another.
#[cfg(not(feature = "std"))]
pub fn share<T, W>(workers: &mut [W], items: impl Iterator<Item = T>, work: impl Fn(T, &mut W)) {
    if let Some(worker) = workers.first_mut() {
        items.for_each(|item| work(item, worker));
    }
}
