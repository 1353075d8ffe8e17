//! Work spread over the threads, where there are threads.

/// Most threads that [`each`] uses.
#[cfg(feature = "std")]
const MOST: usize = 64;

/// Threads that [`share`] can use.
pub fn threads() -> usize {
    #[cfg(feature = "std")]
    return rayon::current_num_threads();
    #[cfg(not(feature = "std"))]
    1
}

/// Every item, over the threads. What becomes of an item must not depend on who takes it.
#[cfg(feature = "std")]
pub fn each<T: Send>(items: impl Iterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    let workers = &mut [(); MOST][..threads().min(MOST)];
    share(workers, items, |item, ()| work(item));
}

/// See above; one item after another.
#[cfg(not(feature = "std"))]
pub fn each<T>(items: impl Iterator<Item = T>, work: impl Fn(T)) {
    items.for_each(work);
}

/// [`each`], with a worker's memory: each worker takes the next item until there is none.
#[cfg(feature = "std")]
pub fn share<T: Send, W: Send>(
    workers: &mut [W],
    items: impl Iterator<Item = T> + Send,
    work: impl Fn(T, &mut W) + Sync,
) {
    use rayon::prelude::*;

    let queue = std::sync::Mutex::new(items);
    // A worker that panicked leaves the queue as it was.
    let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
    workers.par_iter_mut().with_max_len(1).for_each(|worker| {
        while let Some(item) = next() {
            work(item, worker);
        }
    });
}

/// See above; one item after another.
#[cfg(not(feature = "std"))]
pub fn share<T, W>(workers: &mut [W], items: impl Iterator<Item = T>, work: impl Fn(T, &mut W)) {
    if let Some(worker) = workers.first_mut() {
        items.for_each(|item| work(item, worker));
    }
}
