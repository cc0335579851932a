//! Counting on many cores: each thread adds to memory of its own, and who reads adds it all up.
//!
//! A counter that all cores add to travels between them, which takes longer than everything else
//! that counting does.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::OnceLock;

/// Threads beyond this many share.
const SHARDS: usize = 16;

/// One `T` for each thread, made when it is needed.
pub struct Sharded<T>([OnceLock<Box<T>>; SHARDS]);

impl<T> Default for Sharded<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }
}

impl<T> Sharded<T> {
    /// The calling thread's.
    pub fn here(&self, make: impl FnOnce() -> T) -> &T {
        self.0[shard()].get_or_init(|| Box::new(make()))
    }

    /// Those that were made.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|shard| shard.get().map(|shard| &**shard))
    }
}

fn shard() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<Option<usize>> = const { Cell::new(None) };
    }
    MINE.get().unwrap_or_else(|| {
        let mine = THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS;
        MINE.set(Some(mine));
        mine
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_threads_counted_is_there() {
        let counters = Sharded::<AtomicUsize>::default();
        std::thread::scope(|scope| {
            for _ in 0..3 * SHARDS {
                scope.spawn(|| {
                    for _ in 0..100 {
                        counters.here(AtomicUsize::default).fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });

        let counts: Vec<usize> =
            counters.all().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!(counts.iter().sum::<usize>(), 300 * SHARDS);
        assert!(counts.len() > 1);
    }
}
