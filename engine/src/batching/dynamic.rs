//! A queue whose sizes are decided while it runs: by the adaptive policy, or by one in Python.
//!
//! Everything happens when something happens: a task comes, a batch ends, a wait is over. A task
//! that finds a free place does not wait for others, but for the I/O thread to read what has
//! already come: that costs nothing, and is what fills batches on a single core.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::adaptive::{Adaptive, Costs, Decision, Reason};
use super::queue::{Batch, Entry};
use super::run;
use super::scheduler::Priority;
use super::signature::Signature;
use super::task::Task;
use crate::compute::Compute;
use crate::metrics::Batching;
use crate::status::{Result, Status};

/// What the queue of one signature shows of itself.
#[derive(Clone, Debug)]
pub struct Observation {
    pub waiting_rows: usize,
    pub in_flight: usize,
    /// Rows that came in a second, of late.
    pub arrival_rate: f64,
    pub decision: Decision,
    /// Whether the decision is that of a policy in Python.
    pub is_decided: bool,
    /// How long a request that comes now is expected to take.
    pub expected_wait: Option<Duration>,
    pub costs: Costs,
    /// Batches by why they had the size they had.
    pub reasons: [u64; Reason::ALL.len()],
    pub refused: u64,
    pub rows: u64,
    pub batches: u64,
}

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
    /// By priority.
    waiting: [VecDeque<Entry<Arc<Task>>>; 2],
    waiting_rows: usize,
    in_flight: usize,
    /// Whether somebody is about to look at the queue.
    is_awaited: bool,
    policy: Adaptive,
    /// What a policy in Python decided last.
    decided: Option<Decision>,
    arrivals: Arrivals,
    reasons: [u64; Reason::ALL.len()],
    rows: u64,
    batches: u64,
}

impl State {
    fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }

    fn decision(&self) -> Decision {
        self.decided.unwrap_or_else(|| self.policy.decision())
    }
}

/// Rows that came, by the second.
struct Arrivals {
    rate: f64,
    rows: usize,
    since: Instant,
}

impl Arrivals {
    const SPAN: Duration = Duration::from_millis(250);

    fn came(&mut self, rows: usize, now: Instant) {
        self.look(now);
        self.rows += rows;
    }

    /// Rows a second over the last span that is over, which may have been a long one.
    fn look(&mut self, now: Instant) -> f64 {
        let span = now.saturating_duration_since(self.since);
        if span >= Self::SPAN {
            self.rate = self.rows as f64 / span.as_secs_f64();
            self.rows = 0;
            self.since = now;
        }
        self.rate
    }
}

/// A batch, and whether others ran when it began.
struct Formed {
    batch: Batch<Arc<Task>>,
    rows: usize,
    beside: bool,
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
        now: Instant,
    ) -> Arc<Self> {
        let runtime = Handle::current();
        let parameters = &signature.parameters;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let in_flight =
            if parameters.max_in_flight == 0 { cores } else { parameters.max_in_flight };
        let target = Duration::try_from_secs_f64(parameters.target_p99_ms / 1e3).ok();
        let policy = Adaptive::new(
            parameters.limits().max_batch_size,
            in_flight,
            target.filter(|target| !target.is_zero()),
        );
        let state = State {
            waiting: Default::default(),
            waiting_rows: 0,
            in_flight: 0,
            is_awaited: false,
            policy,
            decided: None,
            arrivals: Arrivals { rate: 0.0, rows: 0, since: now },
            reasons: Default::default(),
            rows: 0,
            batches: 0,
        };
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

    /// Put a task into the queue.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when it is larger than any task may be; UNAVAILABLE when there is no time
    /// for it, or no room.
    pub fn submit(self: &Arc<Self>, task: Arc<Task>, priority: Priority) -> Result<()> {
        let limits = self.signature.parameters.limits();
        let rows = task.rows;
        if rows > limits.max_task_size {
            return Err(Status::invalid_argument(format!(
                "Task size {rows} is larger than maximum input batch size {}",
                limits.max_task_size
            )));
        }
        let mut state = self.state.lock();
        let now = task.arrived;
        state.arrivals.came(rows, now);
        if let Err(status) = self.check_room(&state, rows) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(status);
        }
        let mut start = 0;
        loop {
            let end = (start + limits.max_batch_size).min(rows);
            let entry = Entry { task: task.clone(), rows: start..end };
            state.waiting[priority as usize].push_back(entry);
            start = end;
            if start >= rows {
                break;
            }
        }
        state.waiting_rows += rows;
        let decision = state.decision();
        if state.is_awaited {
            if !decision.wait.is_zero() && state.waiting_rows >= decision.size {
                self.filled.notify_one();
            }
            return Ok(());
        }
        if state.in_flight >= decision.in_flight {
            return Ok(());
        }
        state.is_awaited = true;
        drop(state);
        self.look_soon();
        Ok(())
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
        self.state.lock().decided = Some(Decision { size, in_flight, ..decision });
        self.filled.notify_one();
    }

    pub fn observe(&self, now: Instant) -> Observation {
        let mut state = self.state.lock();
        let arrival_rate = state.arrivals.look(now);
        Observation {
            waiting_rows: state.waiting_rows,
            in_flight: state.in_flight,
            arrival_rate,
            decision: state.decision(),
            is_decided: state.decided.is_some(),
            expected_wait: state.policy.expected_wait(state.waiting_rows),
            costs: state.policy.costs().clone(),
            reasons: state.reasons,
            refused: self.refused.load(Ordering::Relaxed),
            rows: state.rows,
            batches: state.batches,
        }
    }

    /// The threads that runs of this servable wait on.
    fn compute(&self) -> &Compute {
        self.signature.servable.compute().unwrap_or(&self.compute)
    }

    fn check_room(&self, state: &State, rows: usize) -> Result<()> {
        const FULL: &str = "The batch scheduling queue to which this task was submitted is full";
        let parameters = &self.signature.parameters;
        let batches = parameters.max_enqueued_batches.max(1);
        let room = parameters.limits().max_batch_size.saturating_mul(batches);
        if state.waiting_rows + rows > room && state.waiting_rows > 0 {
            return Err(Status::unavailable(format!(
                "{FULL}; currently {} rows wait and {room} may",
                state.waiting_rows
            )));
        }
        if !state.policy.has_time_for(state.waiting_rows) {
            let wait = state.policy.expected_wait(state.waiting_rows).unwrap_or_default();
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
        let mut state = self.state.lock();
        let looks = !state.is_awaited && !state.is_empty();
        state.is_awaited |= looks;
        looks
    }

    /// Until when a batch that is not full is to wait for more rows.
    fn waits_until(&self) -> Option<Instant> {
        let state = self.state.lock();
        let decision = state.decision();
        if state.waiting_rows >= decision.size || decision.wait.is_zero() {
            return None;
        }
        let fronts = state.waiting.iter().filter_map(VecDeque::front);
        let oldest = fronts.map(|entry| entry.task.arrived).min()?;
        let due = oldest.checked_add(decision.wait)?;
        (due > Instant::now()).then_some(due)
    }

    /// Start as many batches as may run on compute threads, but for one that had better run here.
    fn start_batches(self: &Arc<Self>) -> Option<Formed> {
        let mut inline = None;
        let mut state = self.state.lock();
        state.is_awaited = false;
        while let Some(formed) = Self::form(&mut state) {
            if inline.is_none() && self.is_quick(&state, &formed) {
                inline = Some(formed);
                continue;
            }
            let queue = self.clone();
            self.compute().spawn(&self.signature.model, Box::new(move || queue.work(formed)));
        }
        inline
    }

    /// Run a batch, and those that wait when it is done, on a compute thread.
    fn work(self: Arc<Self>, formed: Formed) {
        let mut next = Some(formed);
        while let Some(formed) = next {
            self.run(formed);
            let is_due = self.waits_until().is_none();
            if is_due {
                let mut state = self.state.lock();
                // Somebody who is about to look takes what has come.
                next = if state.is_awaited { None } else { Self::form(&mut state) };
            } else {
                next = None;
                if self.await_more() {
                    self.look_soon();
                }
            }
        }
    }

    /// Run a batch on this thread.
    fn run(&self, formed: Formed) {
        let Formed { batch, beside, .. } = formed;
        let began = Instant::now();
        // A panic ends the batch, which its waiters see as an error, and nothing else.
        let ran = catch_unwind(AssertUnwindSafe(|| run::run(batch, &self.metrics)));
        let took = began.elapsed();
        let mut state = self.state.lock();
        state.in_flight -= 1;
        state.policy.ran(ran.unwrap_or_default(), beside, took);
    }

    fn form(state: &mut State) -> Option<Formed> {
        if state.is_empty() || state.in_flight >= state.decision().in_flight {
            return None;
        }
        let (size, is_trial) = match state.decided {
            Some(decision) => (decision.size, false),
            None => state.policy.next_size(),
        };
        let mut batch = Batch::new();
        let mut rows = 0;
        let mut is_full = false;
        'filling: for waiting in &mut state.waiting {
            while let Some(entry) = waiting.front() {
                if rows + entry.rows.len() > size && !batch.is_empty() {
                    is_full = true;
                    break 'filling;
                }
                rows += entry.rows.len();
                batch.extend(waiting.pop_front());
            }
        }
        state.waiting_rows -= rows;
        let reason = match (is_full, is_trial) {
            (false, _) => Reason::QueueEmpty,
            (true, true) => Reason::Trial,
            (true, false) => Reason::SizeLimit,
        };
        state.reasons[reason as usize] += 1;
        state.rows += rows as u64;
        state.batches += 1;
        state.in_flight += 1;
        Some(Formed { batch, rows, beside: state.in_flight > 1 })
    }

    /// Whether a batch is so short, and so surely, that another thread would only make it longer.
    fn is_quick(&self, state: &State, formed: &Formed) -> bool {
        if !self.signature.servable.is_bounded() {
            return false;
        }
        let tasks = u32::try_from(formed.batch.len()).unwrap_or(u32::MAX);
        let allowed = Self::INLINE.max(Self::INLINE_PER_TASK.saturating_mul(tasks));
        let allowed = allowed.min(Self::INLINE_AT_MOST).as_secs_f64();
        state.policy.costs().batch_s(formed.rows).is_some_and(|batch_s| batch_s <= allowed)
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
        let queue = Dynamic::new(Arc::new(signature), compute, Arc::default(), Instant::now());
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
        queue.submit(task, priority).map(|()| answer)
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
            assert_eq!((seen.waiting_rows, seen.rows, seen.batches), (0, 11, 3));
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
