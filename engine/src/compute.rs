//! The threads that run models, apart from the threads that read and write sockets.
//!
//! A run may take microseconds or minutes and cannot be interrupted, so it never happens on an
//! I/O thread. Threads are made when work waits and nobody is idle, up to a limit; the last one to
//! fall idle is the first to be woken, so that a lightly loaded server keeps one warm thread.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::status::{Result, Status};

pub type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads for work that blocks.
pub struct Compute {
    shared: Arc<Shared>,
    limit: usize,
    max_waiting: usize,
}

struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// What idle threads wait on, the last to fall idle at the end.
    idle: Vec<Arc<Waker>>,
    threads: usize,
    closed: bool,
}

#[derive(Default)]
struct Waker {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Waker {
    fn wake(&self) {
        *self.woken.lock() = true;
        self.changed.notify_one();
    }

    fn sleep(&self) {
        let mut woken = self.woken.lock();
        self.changed.wait_while(&mut woken, |woken| !*woken);
        *woken = false;
    }
}

impl Compute {
    /// A pool of at most `limit` threads.
    pub fn new(limit: usize) -> Self {
        Self::bounded(limit, usize::MAX)
    }

    /// As [`Compute::new`], where at most `max_waiting` wait for a thread.
    pub fn bounded(limit: usize, max_waiting: usize) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default() });
        Self { shared, limit: limit.max(1), max_waiting }
    }

    /// Run `work` on a thread of the pool and wait for what it returns.
    ///
    /// Dropping the future gives up waiting: work that has not begun is then not done at all.
    ///
    /// # Errors
    /// INTERNAL when the work panics, UNAVAILABLE when too much waits already.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.queue_depth() >= self.max_waiting {
            return Err(Status::unavailable("Too many requests wait for this model"));
        }
        let (done, result) = oneshot::channel();
        self.spawn(Box::new(move || {
            if !done.is_closed() {
                let _ = done.send(work());
            }
        }));
        result.await.unwrap_or_else(|_| Err(Status::internal("The request could not be run.")))
    }

    /// Most threads that it has.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How much work waits for a thread.
    pub fn queue_depth(&self) -> usize {
        self.shared.state.lock().jobs.len()
    }

    /// Do work on a thread of the pool some time.
    pub fn spawn(&self, job: Job) {
        let mut state = self.shared.state.lock();
        state.jobs.push_back(job);
        if let Some(waker) = state.idle.pop() {
            drop(state);
            waker.wake();
        } else if state.threads < self.limit {
            state.threads += 1;
            drop(state);
            let shared = self.shared.clone();
            let spawned = std::thread::Builder::new()
                .name("servable-run".to_owned())
                .spawn(move || shared.work());
            if spawned.is_err() {
                self.shared.state.lock().threads -= 1;
            }
        }
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        for waker in state.idle.drain(..) {
            waker.wake();
        }
    }
}

impl Shared {
    fn work(&self) {
        let waker = Arc::new(Waker::default());
        loop {
            let job = {
                let mut state = self.state.lock();
                match state.jobs.pop_front() {
                    Some(job) => Some(job),
                    None if state.closed => return,
                    None => {
                        state.idle.push(waker.clone());
                        None
                    }
                }
            };
            match job {
                // A panic ends the job, which its waiter sees as an error, and nothing else.
                Some(job) => drop(catch_unwind(AssertUnwindSafe(job))),
                None => waker.sleep(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn block_on<T>(future: impl std::future::Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn work_is_done_and_a_panic_ends_only_its_own_request() {
        let pool = Compute::new(1);

        let panicked = block_on(pool.run::<()>(|| panic!("on purpose")));
        assert_eq!(panicked.unwrap_err().code, crate::status::Code::Internal);
        assert_eq!(block_on(pool.run(|| Ok(7))), Ok(7));
    }

    #[test]
    fn work_nobody_waits_for_any_more_is_not_begun() {
        let pool = Compute::new(1);
        let (release, held) = mpsc::channel::<()>();
        let (ran, was_run) = mpsc::channel::<&str>();
        let also_ran = ran.clone();
        block_on(async {
            let mut blocker = Box::pin(pool.run(move || {
                held.recv().unwrap();
                Ok(())
            }));
            let mut abandoned = Box::pin(pool.run(move || {
                ran.send("abandoned").unwrap();
                Ok(())
            }));
            assert!(futures_poll(&mut blocker).is_none());
            assert!(futures_poll(&mut abandoned).is_none());
            drop(abandoned);
            release.send(()).unwrap();
            blocker.await.unwrap();
            pool.run(move || {
                also_ran.send("kept").unwrap();
                Ok(())
            })
            .await
            .unwrap();
        });

        assert_eq!(was_run.try_iter().collect::<Vec<_>>(), ["kept"]);
    }

    fn futures_poll<F: std::future::Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
