//! Whether the threads that sessions share have room for one more run.
//!
//! What is not short runs on the runtime's inter-op threads, of which all sessions of the process
//! have the same few. A kernel that lasts keeps its thread, and once there are as many such runs as
//! threads, whatever else is run there waits for them, however many other threads a server has.
//! Here is decided when a run had better stay on the thread that asks for it. When it is, is an
//! argument.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Those of this process.
pub static SHARED_THREADS: SharedThreads = SharedThreads::new();

pub struct SharedThreads {
    /// The deadlines of the runs that are there.
    runs: Mutex<Vec<Option<Instant>>>,
    /// As many as there are runs, more or less.
    count: AtomicUsize,
}

impl SharedThreads {
    /// The runtime ends what it can at the deadline, and what goes on for so long it cannot.
    const AFTER_DEADLINE: Duration = Duration::from_millis(100);

    const fn new() -> Self {
        Self { runs: Mutex::new(Vec::new()), count: AtomicUsize::new(0) }
    }

    /// Take in a run that goes on until what is returned is dropped.
    pub fn begin(&self, deadline: Option<Instant>) -> Going<'_> {
        let mut runs = self.runs.lock();
        runs.push(deadline);
        self.count.store(runs.len(), Ordering::Relaxed);
        drop(runs);
        Going { threads: self, deadline }
    }

    /// Whether each of so many threads may have a run already.
    pub fn are_taken(&self, threads: usize) -> bool {
        self.count.load(Ordering::Relaxed) >= threads
    }

    /// Whether each of so many threads may have a run that cannot be ended.
    pub fn are_lost(&self, threads: usize, now: impl FnOnce() -> Instant) -> bool {
        // All that is asked while little goes on.
        if !self.are_taken(threads) {
            return false;
        }
        let now = now();
        let is_lost = |deadline: &&Option<Instant>| {
            deadline.is_some_and(|deadline| deadline + Self::AFTER_DEADLINE <= now)
        };
        self.runs.lock().iter().filter(is_lost).count() >= threads
    }
}

/// A run that goes on.
pub struct Going<'t> {
    threads: &'t SharedThreads,
    deadline: Option<Instant>,
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        let mut runs = self.threads.runs.lock();
        // Of two with the same deadline either will do.
        if let Some(at) = runs.iter().position(|deadline| *deadline == self.deadline) {
            runs.swap_remove(at);
        }
        self.threads.count.store(runs.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_taken_by_runs_and_lost_to_those_that_outlast_their_deadline() {
        let threads = SharedThreads::new();
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let lost = |count, after| threads.are_lost(count, || now + after);
        let hung = threads.begin(Some(now + second));
        let also_hung = threads.begin(Some(now + second));
        let patient = threads.begin(None);

        assert!(threads.are_taken(3) && !threads.are_taken(4));
        assert!(!lost(1, second), "they may be ending");
        assert!(lost(2, 2 * second));
        assert!(!lost(3, 2 * second), "nobody says when the third has to end");
        drop(hung);
        assert!(lost(1, 2 * second) && !lost(2, 2 * second));
        drop((also_hung, patient));
        assert!(!threads.are_taken(1) && !lost(1, 2 * second));
    }
}
