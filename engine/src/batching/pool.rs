//! The threads that all queues with fixed parameters share, round the pure `scheduler`.
//!
//! Nobody polls: an idle thread sleeps until the next batch is due, or until a task comes.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::observation::Observation;
use super::queue::Limits;
use super::run;
use super::scheduler::{Priority, QueueId, Scheduler};
use super::task::Task;
use crate::metrics::Batching;
use crate::status::{Result, Status};

/// At most so many threads, made when there is work for them.
pub struct Pool {
    shared: Arc<Shared>,
    limit: usize,
    thread_name: String,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    metrics: Arc<Batching>,
}

#[derive(Default)]
struct State {
    scheduler: Scheduler<Arc<Task>>,
    threads: usize,
    idle: usize,
    is_closed: bool,
}

impl Pool {
    pub fn new(limit: usize, thread_name: String, metrics: Arc<Batching>) -> Self {
        let shared = Shared { state: Mutex::default(), changed: Condvar::new(), metrics };
        Self { shared: Arc::new(shared), limit: limit.max(1), thread_name }
    }

    /// Other threads of the same name.
    #[must_use]
    pub fn beside(&self, limit: usize) -> Self {
        Self::new(limit, self.thread_name.clone(), self.shared.metrics.clone())
    }

    pub fn add(&self, limits: Limits, priority: Priority) -> QueueId {
        self.shared.state.lock().scheduler.add(limits, priority)
    }

    /// Forget a queue; whoever waits in it is told.
    pub fn remove(&self, id: QueueId) {
        let left = self.shared.state.lock().scheduler.remove(id, Instant::now());
        for entry in left.into_iter().flatten() {
            entry.task.fail(Status::unavailable("The model is being unloaded"));
        }
    }

    /// Run what waits in a queue without waiting for more.
    pub fn close(&self, id: QueueId) {
        self.shared.state.lock().scheduler.close(id);
        self.shared.changed.notify_one();
    }

    /// What a queue that [`Self::add`] has made, and nobody removed, shows of itself.
    pub fn observe(&self, id: QueueId, now: Instant) -> Option<Observation> {
        self.shared.state.lock().scheduler.observe(id, self.limit, now)
    }

    /// Put a task into a queue.
    ///
    /// # Errors
    /// As [`super::queue::Queue::offer`].
    pub fn submit(&self, id: QueueId, task: Arc<Task>) -> Result<()> {
        let mut state = self.shared.state.lock();
        let (rows, arrived) = (task.rows, task.arrived);
        state.scheduler.offer(id, task, rows, arrived)?;
        if state.idle > 0 {
            drop(state);
            self.shared.changed.notify_one();
        } else if state.threads < self.limit {
            state.threads += 1;
            drop(state);
            self.start_thread();
        }
        Ok(())
    }

    fn start_thread(&self) {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name(self.thread_name.clone());
        if thread.spawn(move || shared.work()).is_err() {
            self.shared.state.lock().threads -= 1;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.lock().is_closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock();
        while !state.is_closed {
            let now = Instant::now();
            if let Some((id, batch)) = state.scheduler.take(now) {
                let is_more = state.idle > 0 && state.scheduler.due_at().is_some();
                drop(state);
                if is_more {
                    self.changed.notify_one();
                }
                // A panic ends the batch, which its waiters see as an error, and nothing else.
                drop(catch_unwind(AssertUnwindSafe(|| run::run(batch, &self.metrics))));
                state = self.state.lock();
                state.scheduler.ended(id);
                continue;
            }
            state.idle += 1;
            match state.scheduler.due_at() {
                Some(due) => drop(self.changed.wait_until(&mut state, due)),
                None => self.changed.wait(&mut state),
            }
            state.idle -= 1;
        }
        state.threads -= 1;
    }
}
