//! A queue whose sizes are decided while it runs: by the adaptive policy, or by one in Python.
//!
//! Everything happens when something happens: a task comes, a batch ends, a wait is over. A task
//! that finds a free place does not wait for others, but for the I/O thread to read what has
//! already come: that costs nothing, and is what fills batches on a single core. A client that is
//! alone is spared even that. What runs next is decided in `waiting`.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::adaptive::{Adaptive, Decision};
use super::observation::Observation;
use super::run;
use super::scheduler::Priority;
use super::signature::Signature;
use super::task::Task;
use super::waiting::Waiting;
use crate::compute::{Compute, Kind, Work};
use crate::metrics::{Batching, Run};
use crate::promptness;
use crate::servable::RunOptions;
use crate::status::{Result, Status};
use crate::tensor::Tensor;
use crate::turns::Client;

type Formed = super::waiting::Formed<Arc<Task>>;

/// The queue of one signature.
pub struct Dynamic {
    signature: Arc<Signature>,
    compute: Arc<Compute>,
    metrics: Arc<Batching>,
    /// Where requests are read.
    runtime: Handle,
    state: Mutex<State>,
    refused: AtomicU64,
    /// Told when a batch that waits for rows has all that it may have.
    filled: Notify,
}

struct State {
    waiting: Waiting<Arc<Task>>,
    /// Whether somebody is about to look at the queue.
    is_awaited: bool,
}

/// The leave of a request to run where it is, without being queued.
pub struct AtOnce {
    queue: Arc<Dynamic>,
    rows: usize,
    /// How long it ran; zero until it has.
    took: Duration,
}

impl AtOnce {
    /// Run on this thread. `began` is when the request was ready.
    ///
    /// # Errors
    /// What the runtime says.
    pub fn run(
        mut self,
        feeds: Vec<(String, Tensor)>,
        fetches: &[String],
        options: RunOptions,
        began: Instant,
    ) -> Result<(Vec<Tensor>, Run)> {
        let metrics = &self.queue.metrics;
        metrics.queuing.record_time(Duration::ZERO);
        for _ in &feeds {
            metrics.input_size.record(self.rows as u64);
        }
        metrics.ran(self.rows, 0);
        let outputs = self.queue.signature.servable.run(feeds, fetches, options);
        let ended = Instant::now();
        self.took = ended.saturating_duration_since(began);
        Ok((outputs?, Run { began, ended }))
    }
}

impl Drop for AtOnce {
    fn drop(&mut self) {
        let rows = if self.took.is_zero() { 0 } else { self.rows };
        let looks = {
            let mut state = self.queue.state.lock();
            state.waiting.ended(rows, false, self.took);
            state.awaits_more()
        };
        // Others may have come on other threads, and found the place taken.
        if looks {
            self.queue.look_soon();
        }
    }
}

impl State {
    /// Say that whoever asks looks, where something waits that nobody else looks after.
    fn awaits_more(&mut self) -> bool {
        let looks = !self.is_awaited && !self.waiting.is_empty();
        self.is_awaited |= looks;
        looks
    }
}

impl Dynamic {
    /// The longest that a batch may take on an I/O thread, and what it may take there in any case
    /// and for each of its tasks: handing it over and back costs about as much.
    const INLINE_AT_MOST: Duration = Duration::from_micros(200);
    const INLINE: Duration = Duration::from_micros(30);
    const INLINE_PER_TASK: Duration = Duration::from_micros(10);

    /// A queue for requests that are read on this runtime; panics outside of one.
    pub fn new(
        signature: Arc<Signature>,
        compute: Arc<Compute>,
        metrics: Arc<Batching>,
    ) -> Arc<Self> {
        let runtime = Handle::current();
        let parameters = &signature.parameters;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // More than a servable runs at a time would only wait elsewhere.
        let places = signature.servable.compute().map_or(cores, Compute::limit);
        let in_flight =
            if parameters.max_in_flight == 0 { places } else { parameters.max_in_flight };
        let target = Duration::try_from_secs_f64(parameters.target_p99_ms / 1e3).ok();
        let policy = Adaptive::new(
            parameters.limits().max_batch_size,
            in_flight,
            target.filter(|target| !target.is_zero()),
        );
        let state = State { waiting: Waiting::new(policy), is_awaited: false };
        let (state, refused) = (Mutex::new(state), AtomicU64::new(0));
        Arc::new(Self {
            signature,
            compute,
            metrics,
            runtime,
            state,
            refused,
            filled: Notify::new(),
        })
    }

    /// Put a task of a client into the queue.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when it is larger than any task may be; UNAVAILABLE when there is no time
    /// for it, or no room.
    pub fn submit(
        self: &Arc<Self>,
        task: Arc<Task>,
        priority: Priority,
        client: Client,
    ) -> Result<()> {
        let limits = self.signature.parameters.limits();
        let rows = task.rows;
        limits.check_size(rows)?;
        let mut state = self.state.lock();
        let now = task.arrived;
        state.waiting.came(rows, now);
        if let Err(status) = self.check_room(&state.waiting, rows) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            promptness::refused();
            return Err(status);
        }
        state.waiting.push(&task, rows, limits.max_batch_size, (priority, client), now);
        let decision = state.waiting.decision();
        if state.is_awaited {
            if !decision.wait.is_zero() && state.waiting.rows() >= decision.size {
                self.filled.notify_one();
            }
            return Ok(());
        }
        if !state.waiting.has_place() {
            return Ok(());
        }
        state.is_awaited = true;
        drop(state);
        self.look_soon();
        Ok(())
    }

    /// Leave for a request of `rows` rows to run where it is, as it would without batching: it is
    /// quick, and nobody else is there.
    pub fn at_once(
        self: &Arc<Self>,
        feeds: &[(String, Tensor)],
        fetches: &[String],
        rows: usize,
        now: Instant,
    ) -> Option<AtOnce> {
        let parameters = &self.signature.parameters;
        let is_as_alone = parameters.run_unbatchable_alone
            && rows > 0
            && rows == parameters.padded_size(rows)
            && rows <= parameters.limits().max_batch_size
            && parameters.batcher.is_none();
        if !is_as_alone {
            return None;
        }
        let servable = &self.signature.servable;
        let mut state = self.state.lock();
        let is_quick = || servable.is_quick(feeds, fetches);
        if state.is_awaited || !state.waiting.form_at_once(rows, is_quick) {
            return None;
        }
        state.waiting.came(rows, now);
        Some(AtOnce { queue: self.clone(), rows, took: Duration::ZERO })
    }

    fn look_soon(self: &Arc<Self>) {
        let queue = self.clone();
        self.runtime.spawn(async move {
            // What is readable now is read before this goes on.
            tokio::task::yield_now().await;
            queue.look().await;
        });
    }

    /// Take over what a policy decided; it holds until the next decision.
    pub fn decide(&self, decision: Decision) {
        let max_size = self.signature.parameters.limits().max_batch_size;
        let size = decision.size.clamp(1, max_size);
        let in_flight = decision.in_flight.max(1);
        self.state.lock().waiting.decide(Decision { size, in_flight, ..decision });
        self.filled.notify_one();
    }

    pub fn observe(&self, now: Instant) -> Observation {
        let refused = self.refused.load(Ordering::Relaxed);
        self.state.lock().waiting.observe(refused, now)
    }

    /// The threads that runs of this servable wait on.
    fn compute(&self) -> &Compute {
        self.signature.servable.compute().unwrap_or(&self.compute)
    }

    fn check_room(&self, waiting: &Waiting<Arc<Task>>, rows: usize) -> Result<()> {
        const FULL: &str = "The batch scheduling queue to which this task was submitted is full";
        let parameters = &self.signature.parameters;
        let batches = parameters.max_enqueued_batches.max(1);
        let room = parameters.limits().max_batch_size.saturating_mul(batches);
        if waiting.rows() + rows > room && waiting.rows() > 0 {
            return Err(Status::unavailable(format!(
                "{FULL}; currently {} rows wait and {room} may",
                waiting.rows()
            )));
        }
        if !waiting.policy().has_time_for(waiting.rows()) {
            let wait = waiting.policy().expected_wait(waiting.rows()).unwrap_or_default();
            return Err(Status::unavailable(format!(
                "{FULL}; the request would wait for about {} ms",
                wait.as_millis()
            )));
        }
        Ok(())
    }

    /// Start what can start, once a wait that a policy asks for is over.
    async fn look(self: Arc<Self>) {
        loop {
            while let Some(due) = self.waits_until() {
                tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => {}
                    () = self.filled.notified() => {}
                }
            }
            let Some(formed) = self.start_batches() else { return };
            self.run(formed);
            if !self.await_more() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Say that this task looks again, where something waits that nobody else looks after.
    fn await_more(&self) -> bool {
        self.state.lock().awaits_more()
    }

    /// Until when a batch that is not full is to wait for more rows.
    fn waits_until(&self) -> Option<Instant> {
        self.state.lock().waiting.waits_until().filter(|due| *due > Instant::now())
    }

    /// Start as many batches as may run on compute threads, but for one that had better run here.
    fn start_batches(self: &Arc<Self>) -> Option<Formed> {
        let mut inline = None;
        let mut state = self.state.lock();
        state.is_awaited = false;
        while let Some(formed) = state.waiting.form() {
            let tasks = formed.batch.len();
            if inline.is_none() && self.is_quick(&state.waiting, formed.rows, tasks) {
                inline = Some(formed);
                continue;
            }
            let is_busy = self.signature.servable.waits_for_nothing();
            let kind = Kind { lane: &self.signature.model, is_busy };
            self.compute().spawn(kind, self.clone().work(formed));
        }
        inline
    }

    /// To run a batch, and after it what waits then, on compute threads.
    fn work(self: Arc<Self>, formed: Formed) -> Work {
        Work::new(move || {
            self.run(formed);
            if self.waits_until().is_some() {
                if self.await_more() {
                    self.look_soon();
                }
                return None;
            }
            let next = {
                let mut state = self.state.lock();
                // Somebody who is about to look takes what has come.
                if state.is_awaited {
                    None
                } else {
                    state.waiting.form()
                }
            };
            next.map(|formed| self.work(formed))
        })
    }

    /// Run a batch on this thread.
    fn run(&self, formed: Formed) {
        let Formed { batch, beside, .. } = formed;
        let began = Instant::now();
        // A panic ends the batch, which its waiters see as an error, and nothing else.
        let ran = catch_unwind(AssertUnwindSafe(|| run::run(batch, &self.metrics)));
        let took = began.elapsed();
        self.state.lock().waiting.ended(ran.unwrap_or_default(), beside, took);
    }

    /// Whether a batch is so short, and so surely, that another thread would only make it longer.
    fn is_quick(&self, waiting: &Waiting<Arc<Task>>, rows: usize, tasks: usize) -> bool {
        if !self.signature.servable.is_bounded() || self.signature.parameters.batcher.is_some() {
            return false;
        }
        let tasks = u32::try_from(tasks).unwrap_or(u32::MAX);
        let allowed = Self::INLINE.max(Self::INLINE_PER_TASK.saturating_mul(tasks));
        let allowed = allowed.min(Self::INLINE_AT_MOST).as_secs_f64();
        waiting.policy().costs().batch_s(rows).is_some_and(|batch_s| batch_s <= allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batching::signature::Parameters;
    use crate::batching::task::Answer;
    use crate::batching::testing::{ints, parameters, Echo, Runs};
    use crate::status::Code;
    use tokio::sync::oneshot::Receiver;

    fn block_on<T>(future: impl std::future::Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(future)
    }

    fn queue(parameters: Parameters) -> (Arc<Dynamic>, Runs) {
        let (echo, runs) = Echo::new(None);
        let names = |name: &str| vec![name.to_owned()];
        let echo = Arc::new(echo);
        let signature =
            Signature::new("m".to_owned(), echo, names("x:0"), names("y:0"), Arc::new(parameters));
        let compute = Arc::new(Compute::new(2));
        let queue = Dynamic::new(Arc::new(signature), compute, Arc::default());
        (queue, runs)
    }

    fn adaptive() -> Parameters {
        Parameters { policy: "adaptive".to_owned(), max_in_flight: 1, ..parameters() }
    }

    fn submit(queue: &Arc<Dynamic>, rows: i64, priority: Priority) -> Result<Receiver<Answer>> {
        let tensor = ints(&[rows], &vec![7; rows as usize]);
        let (signature, now) = (queue.signature.clone(), Instant::now());
        let (task, answer) =
            Task::new(signature, vec![tensor], rows as usize, now, None, Arc::new(()));
        queue.submit(task, priority, Client::NOBODY).map(|()| answer)
    }

    async fn rows(answer: Receiver<Answer>) -> i64 {
        let (outputs, _) = answer.await.unwrap().unwrap();
        outputs[0].shape()[0]
    }

    #[test]
    fn what_has_come_already_runs_together() {
        block_on(async {
            let (queue, runs) = queue(adaptive());
            let submitted = [1, 2, 3].map(|rows| submit(&queue, rows, Priority::High).unwrap());

            for (answer, expected) in submitted.into_iter().zip([1, 2, 3]) {
                assert_eq!(rows(answer).await, expected);
            }
            assert_eq!(*runs.lock(), [[6]]);
        });
    }

    #[test]
    fn batches_are_no_larger_than_decided_and_none_is_forgotten() {
        block_on(async {
            let (queue, runs) = queue(adaptive());
            queue.decide(Decision { size: 4, wait: Duration::ZERO, in_flight: 1 });
            let submitted = [3, 3, 1, 4].map(|rows| submit(&queue, rows, Priority::High).unwrap());

            for (answer, expected) in submitted.into_iter().zip([3, 3, 1, 4]) {
                assert_eq!(rows(answer).await, expected);
            }
            assert_eq!(*runs.lock(), [[3], [4], [4]]);
            let seen = queue.observe(Instant::now());
            assert_eq!((seen.waiting_rows, seen.counts.rows, seen.counts.batches), (0, 11, 3));
        });
    }

    #[test]
    fn low_priority_stands_behind() {
        block_on(async {
            let (queue, runs) = queue(adaptive());
            queue.decide(Decision { size: 2, wait: Duration::ZERO, in_flight: 1 });
            let low = submit(&queue, 1, Priority::Low).unwrap();
            let high = submit(&queue, 2, Priority::High).unwrap();

            assert_eq!((rows(low).await, rows(high).await), (1, 2));
            assert_eq!(*runs.lock(), [[2], [1]]);
        });
    }

    #[test]
    fn a_batch_waits_for_rows_as_decided_and_not_when_it_is_full() {
        block_on(async {
            let (queue, runs) = queue(adaptive());
            queue.decide(Decision { size: 2, wait: Duration::from_secs(3600), in_flight: 1 });
            let first = submit(&queue, 1, Priority::High).unwrap();
            for _ in 0..9 {
                tokio::task::yield_now().await;
            }
            assert!(runs.lock().is_empty());

            let second = submit(&queue, 1, Priority::High).unwrap();
            assert_eq!((rows(first).await, rows(second).await), (1, 1));
            assert_eq!(*runs.lock(), [[2]]);
        });
    }

    #[test]
    fn a_new_decision_ends_a_wait() {
        block_on(async {
            let (queue, _) = queue(adaptive());
            queue.decide(Decision { size: 2, wait: Duration::from_secs(3600), in_flight: 1 });
            let answer = submit(&queue, 1, Priority::High).unwrap();
            tokio::task::yield_now().await;
            queue.decide(Decision { size: 2, wait: Duration::ZERO, in_flight: 1 });

            assert_eq!(rows(answer).await, 1);
        });
    }

    #[test]
    fn tasks_larger_than_a_batch_are_split_or_refused() {
        block_on(async {
            let splitting = Parameters {
                enable_large_batch_splitting: true,
                max_execution_batch_size: 4,
                ..adaptive()
            };
            let (queue, runs) = queue(splitting);

            assert_eq!(rows(submit(&queue, 10, Priority::High).unwrap()).await, 10);
            assert_eq!(*runs.lock(), [[4], [4], [2]]);
            let refused = submit(&queue, 17, Priority::High).map(drop).unwrap_err();
            assert_eq!(refused.code, Code::InvalidArgument);
        });
    }

    #[test]
    fn a_queue_without_room_refuses_and_counts_it() {
        block_on(async {
            let (queue, _) = queue(Parameters { max_enqueued_batches: 1, ..adaptive() });
            let answer = submit(&queue, 16, Priority::High).unwrap();

            let refused = submit(&queue, 1, Priority::High).map(drop).unwrap_err();
            assert_eq!(refused.code, Code::Unavailable);
            assert_eq!(queue.observe(Instant::now()).refused, 1);
            assert_eq!(rows(answer).await, 16);
        });
    }
}
