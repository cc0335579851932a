//! The threads that run models, apart from the threads that read and write sockets.
//!
//! A run may take microseconds or minutes and cannot be interrupted, so it never happens on an
//! I/O thread. Threads are made when work waits and nobody is idle, up to a limit; the last one to
//! fall idle is the first to be woken, so that a lightly loaded server keeps one warm thread.
//!
//! Work waits in a lane for each model. Lanes take turns, so that a model that is asked for a lot
//! holds up itself, and a lane holds so much and no more. In a lane its clients take turns, and
//! where it is full, room is made where most waits of one client.
//!
//! There are more threads than cores, for work that waits for something. Of work that does not,
//! only so much of a lane runs at one time as keeps the cores busy: more would take turns on them,
//! and each last as many times longer.

use std::collections::{HashMap, VecDeque};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::status::{Result, Status};
use crate::turns::{Client, Turns};

/// Work that waits; it is told when it is refused after all.
type Job = Box<dyn FnOnce(std::result::Result<(), Full>) + Send>;

/// Work in its place.
struct Waiting {
    /// No other work of the pool has it.
    number: u64,
    job: Job,
}

/// A pool of threads for work that blocks.
pub struct Compute {
    shared: Arc<Shared>,
    /// Most work that may wait in one lane.
    max_waiting: usize,
    /// Most work of a lane at one time, where it waits for nothing.
    most_busy: usize,
}

/// Where work stands.
#[derive(Clone, Copy, Debug)]
pub struct Kind<'a> {
    pub lane: &'a str,
    /// Whether the work of this lane waits for nothing and nobody.
    pub is_busy: bool,
}

/// Why work is not taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// So much waits already.
    Waiting(usize),
    /// It would wait for about so long, which is too much of the time that it has.
    Late(Duration),
}

struct Shared {
    state: Mutex<State>,
    limit: usize,
}

#[derive(Default)]
struct State {
    lanes: Vec<Lane>,
    /// Places in `lanes` by name.
    names: HashMap<String, usize>,
    /// The lanes that have work waiting, the next one at the front.
    turns: VecDeque<usize>,
    waiting: usize,
    running: usize,
    /// The number of the work that came last.
    number: u64,
    /// What idle threads wait on, the last to fall idle at the end.
    idle: Vec<Arc<Waker>>,
    threads: usize,
    closed: bool,
}

/// What waits for a thread, of one kind.
#[derive(Default)]
struct Lane {
    jobs: Turns<Waiting>,
    /// When the work began that is not done yet.
    begun: Vec<Instant>,
    /// Most that may run at one time; `None` when as many as have a thread.
    most: Option<usize>,
    /// How long work took of late, in seconds; 0 before the first.
    average_s: f64,
}

impl Lane {
    /// After so long work is waited for no more by what comes after it: it may be stuck.
    const PASSED_AFTER: Duration = Duration::from_secs(1);

    /// How much more may run now, of at most `share`.
    fn free(&self, share: usize, now: Instant) -> usize {
        let free = share.saturating_sub(self.begun.len());
        let Some(most) = self.most else { return free };
        let waited_for =
            |began: &&Instant| now.saturating_duration_since(**began) < Self::PASSED_AFTER;
        free.min(most.saturating_sub(self.begun.iter().filter(waited_for).count()))
    }
}

/// The lane of work that is for no model.
const OWN: &str = "";
/// Lanes kept when nothing is going on; models come and go.
const MAX_LANES: usize = 1024;

impl State {
    /// The place of a lane.
    fn lane(&mut self, name: &str) -> usize {
        if let Some(at) = self.names.get(name) {
            return *at;
        }
        if self.lanes.len() >= MAX_LANES && self.waiting == 0 && self.running == 0 {
            self.lanes.clear();
            self.names.clear();
        }
        self.lanes.push(Lane::default());
        self.names.insert(name.to_owned(), self.lanes.len() - 1);
        self.lanes.len() - 1
    }

    /// How many threads one lane may hold: where there are several, all but a quarter, so that
    /// long runs of one leave room for the others.
    fn share(&self, limit: usize) -> usize {
        let models = self.lanes.len() - usize::from(self.names.contains_key(OWN));
        if models > 1 {
            limit - limit / 4
        } else {
            limit
        }
    }

    /// How much more of a lane may run now.
    fn free(&self, at: usize, limit: usize, now: Instant) -> usize {
        self.lanes[at].free(self.share(limit), now).min(limit - self.running)
    }

    /// The work whose turn it is, and its lane.
    fn take(&mut self, limit: usize, now: Instant) -> Option<(usize, Job)> {
        for _ in 0..self.turns.len() {
            let at = self.turns.pop_front()?;
            if self.free(at, limit, now) == 0 {
                // Whoever ends one of its runs comes by here again.
                self.turns.push_back(at);
                continue;
            }
            let lane = &mut self.lanes[at];
            let Waiting { job, .. } = lane.jobs.pop()?;
            lane.begun.push(now);
            if !lane.jobs.is_empty() {
                self.turns.push_back(at);
            }
            self.waiting -= 1;
            self.running += 1;
            return Some((at, job));
        }
        None
    }

    /// Take from a lane what is to make room for a client that has less than others.
    fn give_up_for(&mut self, at: usize, client: Client) -> Option<Job> {
        let given_up = self.lanes[at].jobs.give_up_for(client)?;
        self.waiting -= 1;
        Some(given_up.job)
    }

    /// Take out the work with this number, if it still waits in that lane.
    fn forget(&mut self, at: usize, number: u64) -> Option<Job> {
        // There may be other lanes by now, or none.
        let lane = self.lanes.get_mut(at)?;
        let forgotten = lane.jobs.remove(|waiting| waiting.number == number)?;
        if lane.jobs.is_empty() {
            self.turns.retain(|other| *other != at);
        }
        self.waiting -= 1;
        Some(forgotten.job)
    }

    /// Somebody idle who is to be woken, where there is something to do.
    fn helper(&mut self, limit: usize, now: Instant) -> Option<Arc<Waker>> {
        if self.idle.is_empty() || self.turns.iter().all(|&at| self.free(at, limit, now) == 0) {
            return None;
        }
        self.idle.pop()
    }

    fn ended(&mut self, at: usize, began: Instant, now: Instant) {
        self.running -= 1;
        let lane = &mut self.lanes[at];
        if let Some(at) = lane.begun.iter().position(|other| *other == began) {
            lane.begun.swap_remove(at);
        }
        let took = now.saturating_duration_since(began).as_secs_f64();
        lane.average_s =
            if lane.average_s == 0.0 { took } else { lane.average_s * 0.75 + took * 0.25 };
    }

    /// About how long what comes now for a client would wait in a lane; `None` while that is
    /// anybody's guess.
    fn expected_wait(&self, at: usize, client: Client, limit: usize) -> Option<Duration> {
        let lane = &self.lanes[at];
        let ahead = lane.jobs.ahead_of(client);
        if lane.average_s == 0.0 || ahead <= limit {
            return None;
        }
        let lanes = self.turns.len().max(1);
        let at_once = limit as f64 / lanes as f64;
        let at_once = lane.most.map_or(at_once, |most| at_once.min(most as f64));
        let wait_s = lane.average_s * ahead as f64 / at_once;
        Duration::try_from_secs_f64(wait_s).ok()
    }
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

    /// As [`Compute::new`], where at most `max_waiting` of a lane wait for a thread.
    pub fn bounded(limit: usize, max_waiting: usize) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), limit: limit.max(1) });
        Self { shared, max_waiting, most_busy: usize::MAX }
    }

    /// Have at most so much run of a lane at one time whose work waits for nothing.
    #[must_use]
    pub fn with_most_busy(mut self, most_busy: usize) -> Self {
        self.most_busy = most_busy.max(1);
        self
    }

    /// How many threads there may be.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// Run `work` on a thread of the pool and wait for what it returns, until `deadline` at the
    /// latest.
    ///
    /// Dropping the future gives up waiting: work that has not begun is then not done at all, and
    /// makes room at once, as it does at the deadline.
    ///
    /// # Errors
    /// INTERNAL when the work panics, UNAVAILABLE when too much waits already, DEADLINE_EXCEEDED.
    pub async fn run<T: Send + 'static>(
        &self,
        client: Client,
        deadline: Option<Instant>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let own = Kind { lane: OWN, is_busy: false };
        self.run_in(own, client, deadline, work).await.unwrap_or_else(|full| Err(full.status()))
    }

    /// As [`Compute::run`], in the lane of a model.
    ///
    /// # Errors
    /// [`Full`] when the lane has no room for it, or no time; what is inside is as there.
    pub async fn run_in<T: Send + 'static>(
        &self,
        kind: Kind<'_>,
        client: Client,
        deadline: Option<Instant>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> std::result::Result<Result<T>, Full> {
        let (done, mut result) = oneshot::channel();
        let job: Job = Box::new(move |taken| {
            if done.is_closed() {
                return;
            }
            let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
            let _ = done.send(match taken {
                _ if is_late => Ok(Err(Status::timed_out())),
                taken => taken.map(|()| work()),
            });
        });
        let mut place = self.offer(kind, client, deadline, job)?;
        let lost = |_| Ok(Err(Status::internal("The request could not be run.")));
        if kind.is_busy {
            // Whoever waits behind what may be stuck looks whether it is passed.
            while deadline.is_none_or(|deadline| Instant::now() + Lane::PASSED_AFTER < deadline) {
                match tokio::time::timeout(Lane::PASSED_AFTER, &mut result).await {
                    Ok(result) => {
                        place.is_left = true;
                        return result.unwrap_or_else(lost);
                    }
                    Err(_) => self.help(),
                }
            }
        }
        let result = match deadline {
            None => result.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), result).await {
                Ok(result) => result,
                Err(_) => return Ok(Err(Status::timed_out())),
            },
        };
        place.is_left = true;
        result.unwrap_or_else(lost)
    }

    /// Wake somebody idle, where there is something to do.
    fn help(&self) {
        let helper = self.shared.state.lock().helper(self.shared.limit, Instant::now());
        if let Some(helper) = helper {
            helper.wake();
        }
    }

    /// How much work waits for a thread.
    pub fn queue_depth(&self) -> usize {
        self.shared.state.lock().waiting
    }

    /// How much work waits in each lane that has some, by name.
    pub fn queue_depths(&self) -> Vec<(String, usize)> {
        let state = self.shared.state.lock();
        let depths =
            state.names.iter().map(|(name, &at)| (name.clone(), state.lanes[at].jobs.len()));
        let mut depths: Vec<_> = depths.filter(|(_, depth)| *depth > 0).collect();
        drop(state);
        depths.sort();
        depths
    }

    /// Do work for a model on a thread of the pool some time.
    pub fn spawn(&self, lane: &str, work: impl FnOnce() + Send + 'static) {
        // What is for nobody is never refused.
        let job: Job = Box::new(move |_| work());
        let mut state = self.shared.state.lock();
        let at = state.lane(lane);
        self.push(state, at, Client::NOBODY, job, Instant::now());
    }

    /// Have a job of a client done some time, if there is room, and time before the deadline.
    ///
    /// # Errors
    /// [`Full`], which may also come later, when others need the room.
    fn offer(
        &self,
        Kind { lane, is_busy }: Kind<'_>,
        client: Client,
        deadline: Option<Instant>,
        job: Job,
    ) -> std::result::Result<Place<'_>, Full> {
        let mut state = self.shared.state.lock();
        let at = state.lane(lane);
        state.lanes[at].most = is_busy.then_some(self.most_busy);
        let now = Instant::now();
        // What a thread is about to take does not wait.
        let free = state.free(at, self.shared.limit, now);
        let waiting = state.lanes[at].jobs.len().saturating_sub(free);
        let full = Full::Waiting(waiting);
        let is_full = waiting >= self.max_waiting;
        if is_full && !state.lanes[at].jobs.has_greedier(client) {
            return Err(full);
        }
        if let (Some(deadline), Some(wait)) =
            (deadline, state.expected_wait(at, client, self.shared.limit))
        {
            // Who begins just before the deadline ends after it, and was run for nobody.
            if wait > deadline.saturating_duration_since(now) / 2 {
                return Err(Full::Late(wait));
            }
        }
        let given_up = if is_full { state.give_up_for(at, client) } else { None };
        let number = self.push(state, at, client, job, now);
        if let Some(given_up) = given_up {
            given_up(Err(full));
        }
        Ok(Place { compute: self, lane: at, number, is_left: false })
    }

    fn push(
        &self,
        mut state: parking_lot::MutexGuard<'_, State>,
        at: usize,
        client: Client,
        job: Job,
        now: Instant,
    ) -> u64 {
        state.number += 1;
        let number = state.number;
        let lane = &mut state.lanes[at];
        lane.jobs.push(client, Waiting { number, job });
        if lane.jobs.len() == 1 {
            state.turns.push_back(at);
        }
        state.waiting += 1;
        if state.free(at, self.shared.limit, now) == 0 {
            // Whoever ends work of this lane takes it.
            return number;
        }
        if let Some(waker) = state.idle.pop() {
            drop(state);
            waker.wake();
        } else if state.threads < self.shared.limit {
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
        number
    }
}

/// The place of work that somebody waits for; dropped before it is left, it is given up.
struct Place<'p> {
    compute: &'p Compute,
    lane: usize,
    number: u64,
    /// Whether the work has come to an end.
    is_left: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_left {
            let forgotten = self.compute.shared.state.lock().forget(self.lane, self.number);
            // What a request holds is let go of when others may come by again.
            drop(forgotten);
        }
    }
}

impl Full {
    /// What is answered where no flag is to blame.
    fn status(self) -> Status {
        match self {
            Full::Waiting(_) => Status::unavailable("Too many requests wait for this model"),
            Full::Late(wait) => Status::unavailable(format!(
                "The request would wait for about {} ms, more than half of the time that it has",
                wait.as_millis()
            )),
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
        let mut ended: Option<(usize, Instant)> = None;
        loop {
            let now = Instant::now();
            let (taken, helper) = {
                let mut state = self.state.lock();
                if let Some((at, began)) = ended.take() {
                    state.ended(at, began, now);
                }
                match state.take(self.limit, now) {
                    Some(taken) => (Some(taken), state.helper(self.limit, now)),
                    None if state.closed => return,
                    None => {
                        state.idle.push(waker.clone());
                        (None, None)
                    }
                }
            };
            // What has just ended may have made room for more than one.
            if let Some(helper) = helper {
                helper.wake();
            }
            match taken {
                Some((at, job)) => {
                    // A panic ends the job, which its waiter sees as an error, and nothing else.
                    drop(catch_unwind(AssertUnwindSafe(|| job(Ok(())))));
                    ended = Some((at, now));
                }
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

    const ME: Client = Client::NOBODY;

    fn in_lane(lane: &str) -> Kind<'_> {
        Kind { lane, is_busy: false }
    }

    #[test]
    fn work_is_done_and_a_panic_ends_only_its_own_request() {
        let pool = Compute::new(1);

        let panicked = block_on(pool.run::<()>(ME, None, || panic!("on purpose")));
        assert_eq!(panicked.unwrap_err().code, crate::status::Code::Internal);
        assert_eq!(block_on(pool.run(ME, None, || Ok(7))), Ok(7));
    }

    #[test]
    fn work_nobody_waits_for_any_more_is_not_begun() {
        let pool = Compute::new(1);
        let (release, held) = mpsc::channel::<()>();
        let (ran, was_run) = mpsc::channel::<&str>();
        let also_ran = ran.clone();
        block_on(async {
            let mut blocker = Box::pin(pool.run(ME, None, move || {
                held.recv().unwrap();
                Ok(())
            }));
            let mut abandoned = Box::pin(pool.run(ME, None, move || {
                ran.send("abandoned").unwrap();
                Ok(())
            }));
            assert!(futures_poll(&mut blocker).is_none());
            assert!(futures_poll(&mut abandoned).is_none());
            drop(abandoned);
            release.send(()).unwrap();
            blocker.await.unwrap();
            pool.run(ME, None, move || {
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

    /// Holds the only thread until it is told to let go.
    fn held(pool: &Compute) -> mpsc::Sender<()> {
        let (release, held) = mpsc::channel::<()>();
        let (began, has_begun) = mpsc::channel();
        pool.spawn(OWN, move || {
            began.send(()).unwrap();
            let _ = held.recv();
        });
        has_begun.recv().unwrap();
        release
    }

    #[test]
    fn models_take_turns_however_much_is_asked_of_one() {
        let pool = Compute::new(1);
        let release = held(&pool);
        let (ran, order) = mpsc::channel();
        for model in ["hot", "hot", "hot", "cold", "cool", "cold"] {
            let ran = ran.clone();
            pool.spawn(model, move || ran.send(model).unwrap());
        }
        assert_eq!(
            pool.queue_depths(),
            [("cold".to_owned(), 2), ("cool".to_owned(), 1), ("hot".to_owned(), 3)]
        );
        drop((release, ran));

        let order: Vec<&str> = order.iter().collect();
        assert_eq!(order, ["hot", "cold", "cool", "hot", "cold", "hot"]);
    }

    #[test]
    fn clients_of_a_model_take_turns_and_have_room_made_by_who_has_most() {
        let pool = Compute::bounded(1, 4);
        let release = held(&pool);
        let [greedy, polite] = [Client::connected(), Client::connected()];
        let (ran, order) = mpsc::channel();
        let ask = |client, name: &'static str| {
            let ran = ran.clone();
            let work = move || ran.send(name).map_err(|_| Status::timed_out());
            Box::pin(pool.run_in(in_lane("m"), client, None, work))
        };
        block_on(async {
            let mut waits: Vec<_> =
                ["greedy 1", "greedy 2", "greedy 3", "greedy 4"].map(|n| ask(greedy, n)).into();
            assert!(waits.iter_mut().all(|wait| futures_poll(wait).is_none()));
            assert_eq!(ask(greedy, "too many").await, Err(Full::Waiting(4)));

            let mut first = ask(polite, "polite");
            assert!(futures_poll(&mut first).is_none());
            let newest = waits.pop().unwrap();
            assert_eq!(newest.await, Err(Full::Waiting(4)));
            assert_eq!(pool.queue_depth(), 4);

            drop(release);
            for wait in waits.into_iter().chain([first]) {
                assert_eq!(wait.await, Ok(Ok(())));
            }
        });
        drop(ran);

        let order: Vec<&str> = order.iter().collect();
        assert_eq!(order, ["greedy 1", "polite", "greedy 2", "greedy 3"]);
    }

    #[test]
    fn a_lane_holds_so_much_and_another_has_room_of_its_own() {
        let nothing: fn() -> Result<()> = || Ok(());
        let pool = Compute::bounded(1, 2);
        let release = held(&pool);
        block_on(async {
            let mut waits: Vec<_> =
                (0..2).map(|_| Box::pin(pool.run_in(in_lane("m"), ME, None, nothing))).collect();
            assert!(waits.iter_mut().all(|wait| futures_poll(wait).is_none()));

            assert_eq!(pool.run_in(in_lane("m"), ME, None, nothing).await, Err(Full::Waiting(2)));
            let mut other = Box::pin(pool.run_in(in_lane("n"), ME, None, nothing));
            assert!(futures_poll(&mut other).is_none());

            drop(release);
            for wait in waits.into_iter().chain([other]) {
                assert_eq!(wait.await, Ok(Ok(())));
            }
        });
    }

    #[test]
    fn who_gives_up_makes_room_while_all_threads_are_held() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let pool = Compute::bounded(1, 2);
        let release = held(&pool);
        let token = Arc::new(());
        let ask = |deadline| {
            let held = token.clone();
            let work = move || {
                drop(held);
                Ok(())
            };
            Box::pin(pool.run_in(in_lane("m"), ME, deadline, work))
        };
        runtime.block_on(async {
            let late = ask(Some(Instant::now() + Duration::from_millis(1)));
            assert_eq!(late.await, Ok(Err(Status::timed_out())));
            let mut waits: Vec<_> = (0..2).map(|_| ask(None)).collect();
            assert!(waits.iter_mut().all(|wait| futures_poll(wait).is_none()));
            assert_eq!(ask(None).await, Err(Full::Waiting(2)));

            drop(waits);
            assert_eq!((pool.queue_depth(), Arc::strong_count(&token)), (0, 1));
            let mut last = ask(None);
            assert!(futures_poll(&mut last).is_none());
            drop(release);
            assert_eq!(last.await, Ok(Ok(())));
        });
    }

    #[test]
    fn what_would_wait_beyond_its_deadline_is_refused_at_once() {
        let mut state = State::default();
        let at = state.lane("m");
        let mut wait = |average_s: f64, jobs: usize| {
            state.lanes[at].average_s = average_s;
            state.lanes[at].jobs = Turns::default();
            for _ in 0..jobs {
                state.lanes[at].jobs.push(ME, Waiting { number: 0, job: Box::new(|_| {}) });
            }
            state.expected_wait(at, ME, 4).map(|wait| wait.as_millis())
        };

        assert_eq!(wait(0.0, 100), None, "nothing has run yet");
        assert_eq!(wait(1.0, 4), None, "a few always may wait");
        assert_eq!(wait(0.1, 40), Some(1000));
        assert_eq!(state.expected_wait(at, Client::connected(), 4), None, "others wait by turns");
    }

    #[test]
    fn the_deadline_is_kept_however_long_the_work_takes() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let pool = Compute::new(1);
        let release = held(&pool);
        let soon = || Some(Instant::now() + Duration::from_millis(1));
        let (ran, was_run) = mpsc::channel::<()>();

        let waited = runtime
            .block_on(pool.run(ME, soon(), move || ran.send(()).map_err(|_| Status::timed_out())));
        assert_eq!(waited, Err(Status::timed_out()));
        drop(release);
        assert_eq!(block_on(pool.run(ME, None, || Ok(()))), Ok(()));
        assert!(was_run.try_iter().next().is_none());
    }

    #[test]
    fn several_models_leave_some_threads_to_one_another() {
        let mut state = State::default();
        state.lane(OWN);
        state.lane("m");
        assert_eq!(state.share(8), 8);
        state.lane("n");
        assert_eq!([8, 4, 3, 1].map(|limit| state.share(limit)), [6, 3, 3, 1]);
    }

    #[test]
    fn of_what_waits_for_nothing_only_so_much_runs_at_one_time() {
        let pool = Compute::new(4).with_most_busy(1);
        let (began, has_begun) = mpsc::channel();
        let ask = |lane: &'static str, is_busy| {
            let (release, held) = mpsc::channel::<()>();
            let began = began.clone();
            let work = move || {
                began.send(lane).unwrap();
                let _ = held.recv();
                Ok(())
            };
            (release, Box::pin(pool.run_in(Kind { lane, is_busy }, ME, None, work)))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut asked = [
                ask("busy", true),
                ask("busy", true),
                ask("other", true),
                ask("waits", false),
                ask("waits", false),
            ];
            for (_, wait) in &mut asked {
                assert!(futures_poll(wait).is_none());
            }
            let mut names: Vec<_> = (0..4).map(|_| has_begun.recv().unwrap()).collect();
            names.sort_unstable();
            assert_eq!(names, ["busy", "other", "waits", "waits"]);
            assert_eq!(pool.queue_depths(), [("busy".to_owned(), 1)]);

            for (release, wait) in asked {
                drop(release);
                assert_eq!(wait.await, Ok(Ok(())));
            }
            assert_eq!(has_begun.recv(), Ok("busy"));
        });
    }

    #[test]
    fn what_lasts_long_is_passed_by_what_comes_after_it() {
        let began = Instant::now();
        let lane = Lane { most: Some(2), begun: vec![began, began], ..Lane::default() };
        let free = |after: Duration| lane.free(4, began + after);

        assert_eq!(free(Duration::ZERO), 0);
        assert_eq!(free(Lane::PASSED_AFTER), 2);
        assert_eq!(lane.free(3, began + Lane::PASSED_AFTER), 1, "there are so many threads");
        let others = Lane { most: None, begun: vec![began, began], ..Lane::default() };
        assert_eq!(others.free(4, began), 2);
    }
}
