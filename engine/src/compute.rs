//! The threads that run models, apart from the threads that read and write sockets.
//!
//! A run may take microseconds or minutes and cannot be interrupted, so it never happens on an
//! I/O thread. Threads are made when work waits and nobody is idle, up to a limit; the last one to
//! fall idle is the first to be woken, so that a lightly loaded server keeps one warm thread.
//!
//! Work waits in a lane for each model. Lanes have equal shares of the time of threads, so that a
//! model that is asked for a lot holds up itself, and a lane holds so much and no more. In a lane
//! its clients take turns, and where it is full, room is made where most waits of one client.
//!
//! There are more threads than cores, for work that waits for something. Of work that does not,
//! only so much runs at one time as keeps the cores busy: more would take turns on them, and each
//! last as many times longer. What takes less than half of the rest of what runs begins beside it
//! all the same, and so does what waits behind something that lasts longer than it should.

use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::status::{Result, Status};
use crate::turns::{Client, Turns};

/// Work that waits; it is told when it is refused after all, and tells what comes after it.
type Job = Box<dyn FnOnce(std::result::Result<(), Full>) -> Option<Work> + Send>;

/// Work that is never refused, and what comes after it in its lane, which waits for its turn.
pub struct Work(Box<dyn FnOnce() -> Option<Work> + Send>);

impl Work {
    pub fn new(work: impl FnOnce() -> Option<Self> + Send + 'static) -> Self {
        Self(Box::new(work))
    }

    fn job(self) -> Job {
        Box::new(move |_| (self.0)())
    }
}

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
}

struct State {
    lanes: Vec<Lane>,
    /// Places in `lanes` by name.
    names: HashMap<String, usize>,
    /// The lanes that have work waiting, in the order in which they came or had their last turn.
    queue: Vec<usize>,
    /// What the lane that had the last turn had used before it, in seconds.
    used_s: f64,
    waiting: usize,
    running: Vec<Running>,
    /// The number of the work that came last.
    number: u64,
    /// What idle threads wait on, the last to fall idle at the end.
    idle: Vec<Arc<Waker>>,
    threads: usize,
    /// Most threads.
    limit: usize,
    /// Most work at one time that waits for nothing.
    most_busy: usize,
    closed: bool,
}

/// What waits for a thread, of one kind.
#[derive(Default)]
struct Lane {
    jobs: Turns<Waiting>,
    /// How much time of threads it has used, in seconds; what nobody else wanted is not counted.
    used_s: f64,
    /// How much of it runs.
    running: usize,
    /// Whether its work waits for nothing.
    is_busy: bool,
    /// How long work took of late, in seconds; 0 before the first.
    average_s: f64,
}

/// Work that is not done yet.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Running {
    lane: usize,
    began: Instant,
    /// What its lane is taken to use for it until that is known, in seconds.
    expected_s: f64,
}

/// What may begin at some moment, of work that waits for nothing.
#[derive(Clone, Copy)]
struct Room {
    now: Instant,
    /// What takes less, in seconds, may begin: to wait for what runs would take much longer.
    shorter_than_s: f64,
}

/// So much time of threads that a lane has left to others it may have at once later on. More would
/// let others wait for longer, when much comes together for it.
const MOST_SAVED_S: f64 = 0.02;
/// Nothing counts as more than this, in seconds: what was stuck must not keep its lane waiting for as
/// long.
const MOST_USED_S: f64 = 1.0;
/// After so long work is waited for no more by what comes after it in its lane: it may be stuck.
const PASSED_AFTER: Duration = Duration::from_secs(1);
/// Work of other lanes is waited for no more when it has lasted twice as long as of late, and so
/// long. It also is how soon that is looked at.
const LATE_AFTER: Duration = Duration::from_millis(10);

/// The lane of work that is for no model.
const OWN: &str = "";
/// Lanes kept when nothing is going on; models come and go.
const MAX_LANES: usize = 1024;

impl State {
    fn new(limit: usize) -> Self {
        Self {
            lanes: Vec::new(),
            names: HashMap::new(),
            queue: Vec::new(),
            used_s: 0.0,
            waiting: 0,
            running: Vec::new(),
            number: 0,
            idle: Vec::new(),
            threads: 0,
            limit,
            most_busy: usize::MAX,
            closed: false,
        }
    }

    /// The place of a lane.
    fn lane(&mut self, name: &str) -> usize {
        if let Some(at) = self.names.get(name) {
            return *at;
        }
        if self.lanes.len() >= MAX_LANES && self.waiting == 0 && self.running.is_empty() {
            self.lanes.clear();
            self.names.clear();
        }
        self.lanes.push(Lane::default());
        self.names.insert(name.to_owned(), self.lanes.len() - 1);
        self.lanes.len() - 1
    }

    /// How many threads one lane may hold: where there are several, all but a quarter, so that
    /// long runs of one leave room for the others.
    fn share(&self) -> usize {
        let models = self.lanes.len() - usize::from(self.names.contains_key(OWN));
        if models > 1 {
            self.limit - self.limit / 4
        } else {
            self.limit
        }
    }

    fn room(&self, now: Instant) -> Room {
        let is_busy = |run: &&Running| self.lanes[run.lane].is_busy;
        let mut shorter_than_s = f64::INFINITY;
        // Seldom is so much under way that anything has to be thought over.
        if self.running.iter().filter(is_busy).count() >= self.most_busy {
            let rests = self.running.iter().filter(is_busy).filter_map(|run| self.rest_s(run, now));
            let mut rests: Vec<f64> = rests.collect();
            if rests.len() >= self.most_busy {
                let last = self.most_busy - 1;
                // How long anything takes is known so well and no better.
                shorter_than_s = *rests.select_nth_unstable_by(last, f64::total_cmp).1 / 2.0;
            }
        }
        Room { now, shorter_than_s }
    }

    /// How long something that runs is expected to last yet, in seconds; `None` when that is
    /// anybody's guess.
    fn rest_s(&self, run: &Running, now: Instant) -> Option<f64> {
        let average_s = self.lanes[run.lane].average_s;
        let lasted_s = now.saturating_duration_since(run.began).as_secs_f64();
        let is_late = lasted_s >= (2.0 * average_s).max(LATE_AFTER.as_secs_f64());
        (average_s > 0.0 && !is_late).then(|| (average_s - lasted_s).max(0.0))
    }

    /// How much more of a lane may run now.
    fn free(&self, at: usize, room: Room) -> usize {
        let lane = &self.lanes[at];
        let free = self.share().saturating_sub(lane.running).min(self.limit - self.running.len());
        if !lane.is_busy {
            return free;
        }
        if room.shorter_than_s <= lane.average_s {
            return 0;
        }
        let is_waited_for = |run: &&Running| {
            run.lane == at && room.now.saturating_duration_since(run.began) < PASSED_AFTER
        };
        let waited_for = match lane.running {
            0 => 0,
            _ => self.running.iter().filter(is_waited_for).count(),
        };
        free.min(self.most_busy.saturating_sub(waited_for))
    }

    fn push(&mut self, at: usize, client: Client, job: Job) -> u64 {
        let lane = &mut self.lanes[at];
        if lane.jobs.is_empty() {
            lane.used_s = lane.used_s.max(self.used_s - MOST_SAVED_S);
            self.queue.push(at);
        }
        self.number += 1;
        lane.jobs.push(client, Waiting { number: self.number, job });
        self.waiting += 1;
        self.number
    }

    /// The work whose turn it is, and what is known of it from now on.
    fn take(&mut self, now: Instant) -> Option<(Running, Job)> {
        let room = self.room(now);
        let may_begin = |&place: &usize| self.free(self.queue[place], room) > 0;
        let used_s = |place: &usize| self.lanes[self.queue[*place]].used_s;
        let places = (0..self.queue.len()).filter(may_begin);
        let place = places.min_by(|one, other| used_s(one).total_cmp(&used_s(other)))?;
        let at = self.queue.remove(place);
        let lane = &mut self.lanes[at];
        let Waiting { job, .. } = lane.jobs.pop()?;
        self.used_s = self.used_s.max(lane.used_s);
        let expected_s = lane.average_s.min(MOST_USED_S);
        lane.used_s += expected_s;
        lane.running += 1;
        if !lane.jobs.is_empty() {
            self.queue.push(at);
        }
        self.waiting -= 1;
        let run = Running { lane: at, began: now, expected_s };
        self.running.push(run);
        Some((run, job))
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
            self.queue.retain(|other| *other != at);
        }
        self.waiting -= 1;
        Some(forgotten.job)
    }

    /// Whether something may begin now that waits.
    fn may_begin(&self, now: Instant) -> bool {
        let room = self.room(now);
        self.queue.iter().any(|&at| self.free(at, room) > 0)
    }

    /// Who is to do something more.
    fn helper(&mut self) -> Option<Helper> {
        if let Some(idle) = self.idle.pop() {
            return Some(Helper::Idle(idle));
        }
        (self.threads < self.limit).then(|| {
            self.threads += 1;
            Helper::New
        })
    }

    fn ended(&mut self, run: Running, now: Instant) {
        if let Some(at) = self.running.iter().position(|other| *other == run) {
            self.running.swap_remove(at);
        }
        let lane = &mut self.lanes[run.lane];
        lane.running -= 1;
        let took_s = now.saturating_duration_since(run.began).as_secs_f64();
        lane.used_s += took_s.min(MOST_USED_S) - run.expected_s;
        lane.average_s =
            if lane.average_s == 0.0 { took_s } else { lane.average_s * 0.75 + took_s * 0.25 };
    }

    /// About how long what comes now for a client would wait in a lane; `None` while that is
    /// anybody's guess.
    fn expected_wait(&self, at: usize, client: Client) -> Option<Duration> {
        let lane = &self.lanes[at];
        let ahead = lane.jobs.ahead_of(client);
        if lane.average_s == 0.0 || ahead <= self.limit {
            return None;
        }
        let lanes = self.queue.len().max(1);
        let at_once = if lane.is_busy { self.limit.min(self.most_busy) } else { self.limit };
        let wait_s = lane.average_s * (ahead * lanes) as f64 / at_once as f64;
        Duration::try_from_secs_f64(wait_s).ok()
    }
}

/// A thread that is to take what waits.
enum Helper {
    Idle(Arc<Waker>),
    /// One that has to be made, and is counted already.
    New,
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
        let state = Mutex::new(State::new(limit.max(1)));
        Self { shared: Arc::new(Shared { state }), max_waiting }
    }

    /// Have at most so much run at one time that waits for nothing.
    #[must_use]
    pub fn with_most_busy(self, most_busy: usize) -> Self {
        self.shared.state.lock().most_busy = most_busy.max(1);
        self
    }

    /// How many threads there may be.
    pub fn limit(&self) -> usize {
        self.shared.state.lock().limit
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
                return None;
            }
            let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
            let _ = done.send(match taken {
                _ if is_late => Ok(Err(Status::timed_out())),
                taken => taken.map(|()| work()),
            });
            None
        });
        let mut place = self.offer(kind, client, deadline, job)?;
        let lost = |_| Ok(Err(Status::internal("The request could not be run.")));
        if kind.is_busy {
            // Whoever waits behind what lasts long looks now and then whether it is passed.
            let mut pause = LATE_AFTER;
            while deadline.is_none_or(|deadline| Instant::now() + pause < deadline) {
                match tokio::time::timeout(pause, &mut result).await {
                    Ok(result) => {
                        place.is_left = true;
                        return result.unwrap_or_else(lost);
                    }
                    Err(_) => self.shared.help(),
                }
                pause = (2 * pause).min(PASSED_AFTER);
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

    /// Do work for a model, and what comes after it, on threads of the pool some time.
    pub fn spawn(&self, Kind { lane, is_busy }: Kind<'_>, work: Work) {
        let mut state = self.shared.state.lock();
        let at = state.lane(lane);
        state.lanes[at].is_busy = is_busy;
        state.push(at, Client::NOBODY, work.job());
        self.shared.help_with(state, at, Instant::now());
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
        state.lanes[at].is_busy = is_busy;
        let now = Instant::now();
        // What a thread is about to take does not wait.
        let free = state.free(at, state.room(now));
        let waiting = state.lanes[at].jobs.len().saturating_sub(free);
        let full = Full::Waiting(waiting);
        let is_full = waiting >= self.max_waiting;
        if is_full && !state.lanes[at].jobs.has_greedier(client) {
            return Err(full);
        }
        if let (Some(deadline), Some(wait)) = (deadline, state.expected_wait(at, client)) {
            // Who begins just before the deadline ends after it, and was run for nobody.
            if wait > deadline.saturating_duration_since(now) / 2 {
                return Err(Full::Late(wait));
            }
        }
        let given_up = if is_full { state.give_up_for(at, client) } else { None };
        let number = state.push(at, client, job);
        self.shared.help_with(state, at, now);
        if let Some(given_up) = given_up {
            given_up(Err(full));
        }
        Ok(Place { compute: self, lane: at, number, is_left: false })
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
    /// Have somebody come for what waits, where something may begin.
    fn help(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let helper = if state.may_begin(Instant::now()) { state.helper() } else { None };
        drop(state);
        self.call(helper);
    }

    /// Have somebody come for what has been put into a lane, unless it has to wait.
    fn help_with(self: &Arc<Self>, mut state: MutexGuard<'_, State>, at: usize, now: Instant) {
        // Whoever ends work that it waits for takes it.
        let helper = if state.free(at, state.room(now)) > 0 { state.helper() } else { None };
        drop(state);
        self.call(helper);
    }

    fn call(self: &Arc<Self>, helper: Option<Helper>) {
        match helper {
            None => {}
            Some(Helper::Idle(idle)) => idle.wake(),
            Some(Helper::New) => {
                let shared = self.clone();
                let thread = std::thread::Builder::new().name("servable-run".to_owned());
                if thread.spawn(move || shared.work()).is_err() {
                    self.state.lock().threads -= 1;
                }
            }
        }
    }

    fn work(self: Arc<Self>) {
        let waker = Arc::new(Waker::default());
        let mut ended: Option<(Running, Option<Work>)> = None;
        loop {
            let now = Instant::now();
            let (taken, helper) = {
                let mut state = self.state.lock();
                if let Some((run, next)) = ended.take() {
                    state.ended(run, now);
                    if let Some(next) = next {
                        state.push(run.lane, Client::NOBODY, next.job());
                    }
                }
                match state.take(now) {
                    // What has just ended may have made room for more than one.
                    Some(taken) if state.waiting > 0 && state.may_begin(now) => {
                        (Some(taken), state.helper())
                    }
                    Some(taken) => (Some(taken), None),
                    None if state.closed => return,
                    None => {
                        state.idle.push(waker.clone());
                        (None, None)
                    }
                }
            };
            self.call(helper);
            match taken {
                Some((run, job)) => {
                    // A panic ends the job, which its waiter sees as an error, and nothing else.
                    let next = catch_unwind(AssertUnwindSafe(|| job(Ok(()))));
                    ended = Some((run, next.unwrap_or_default()));
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
        let work = Work::new(move || {
            began.send(()).unwrap();
            let _ = held.recv();
            None
        });
        pool.spawn(in_lane(OWN), work);
        has_begun.recv().unwrap();
        release
    }

    #[test]
    fn what_comes_after_something_waits_for_its_turn() {
        let pool = Compute::new(1);
        let release = held(&pool);
        let (ran, order) = mpsc::channel();
        let say = |what: &'static str| {
            let ran = ran.clone();
            move || ran.send(what).unwrap()
        };
        let [first, second, other] = [say("first"), say("second"), say("other")];
        let second = Work::new(move || {
            second();
            None
        });
        let first = Work::new(move || {
            first();
            Some(second)
        });
        let other = Work::new(move || {
            other();
            None
        });
        pool.spawn(in_lane("m"), first);
        pool.spawn(in_lane("n"), other);
        drop((release, ran));

        assert_eq!(order.iter().collect::<Vec<_>>(), ["first", "other", "second"]);
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
        let mut state = State::new(4);
        let at = state.lane("m");
        let mut wait = |average_s: f64, jobs: usize| {
            state.lanes[at].average_s = average_s;
            state.lanes[at].jobs = Turns::default();
            for _ in 0..jobs {
                state.lanes[at].jobs.push(ME, Waiting { number: 0, job: Box::new(|_| None) });
            }
            state.expected_wait(at, ME).map(|wait| wait.as_millis())
        };

        assert_eq!(wait(0.0, 100), None, "nothing has run yet");
        assert_eq!(wait(1.0, 4), None, "a few always may wait");
        assert_eq!(wait(0.1, 40), Some(1000));
        assert_eq!(state.expected_wait(at, Client::connected()), None, "others wait by turns");
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
        let share = |lanes: &[&str], limit| {
            let mut state = State::new(limit);
            for name in lanes {
                state.lane(name);
            }
            state.share()
        };
        assert_eq!(share(&[OWN, "m"], 8), 8);
        assert_eq!([8, 4, 3, 1].map(|limit| share(&[OWN, "m", "n"], limit)), [6, 3, 3, 1]);
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

    /// Lanes of work that waits for nothing, which took so many milliseconds of late.
    fn busy(limit: usize, most_busy: usize, lanes: &[(&str, f64)]) -> State {
        let mut state = State { most_busy, ..State::new(limit) };
        for (name, average_ms) in lanes {
            let at = state.lane(name);
            state.lanes[at].is_busy = true;
            state.lanes[at].average_s = average_ms / 1e3;
        }
        state
    }

    fn ask(state: &mut State, name: &str) {
        let at = state.lane(name);
        state.push(at, ME, Box::new(|_| None));
    }

    #[test]
    fn what_lasts_long_is_passed_by_what_comes_after_it() {
        let began = Instant::now();
        let mut state = busy(4, 2, &[("m", 0.0)]);
        (0..2).for_each(|_| ask(&mut state, "m"));
        (0..2).for_each(|_| drop(state.take(began).unwrap()));
        let free = |state: &State, after| state.free(0, state.room(began + after));

        assert_eq!(free(&state, Duration::ZERO), 0);
        assert_eq!(free(&state, PASSED_AFTER), 2);
        state.limit = 3;
        assert_eq!(free(&state, PASSED_AFTER), 1, "there are so many threads");
        state.lanes[0].is_busy = false;
        assert_eq!(free(&state, Duration::ZERO), 1);
    }

    #[test]
    fn what_waits_for_nothing_begins_beside_others_only_where_it_is_sooner_done() {
        const MS: Duration = Duration::from_millis(1);
        let begins_after = |other_ms: f64, own_ms: f64, most_busy| {
            let began = Instant::now();
            let mut state = busy(4, most_busy, &[("other", other_ms), ("own", own_ms)]);
            ask(&mut state, "other");
            assert!(state.take(began).is_some());
            ask(&mut state, "own");
            (0..1000).find(|after| state.may_begin(began + MS * *after))
        };

        assert_eq!(begins_after(100.0, 100.0, 2), Some(0), "there is a core for each");
        assert_eq!(begins_after(100.0, 5.0, 1), Some(0), "what runs lasts much longer");
        assert_eq!(begins_after(9.0, 5.0, 1), Some(18), "what runs does not last much longer");
        assert_eq!(begins_after(0.0, 5.0, 1), Some(0), "nobody knows how long it lasts");
        assert_eq!(begins_after(3.0, 4.0, 1), Some(10), "it has lasted much too long");
        assert_eq!(begins_after(100.0, 60.0, 1), Some(200), "it has lasted twice as long");
    }

    const NOTHING: &[&str] = &[];

    /// The lanes in the order in which they have their turns, one of them after the other, where
    /// something is asked for during each.
    fn order(mut state: State, asked: &[&[&str]]) -> Vec<String> {
        let began = Instant::now();
        let mut order = Vec::new();
        for names in asked {
            let (run, _) = state.take(began).unwrap();
            order.extend(
                state.names.iter().find(|(_, at)| **at == run.lane).map(|(n, _)| n.clone()),
            );
            for name in *names {
                ask(&mut state, name);
            }
            let took = Duration::from_secs_f64(state.lanes[run.lane].average_s);
            state.ended(run, began + took);
        }
        order
    }

    #[test]
    fn models_have_equal_shares_of_time_however_much_is_asked_of_one() {
        let mut state = busy(1, 1, &[("hot", 30.0), ("cold", 30.0), ("cool", 30.0)]);
        for name in ["hot", "hot", "hot", "cold", "cool", "cold"] {
            ask(&mut state, name);
        }
        assert_eq!(order(state, &[NOTHING; 6]), ["hot", "cold", "cool", "hot", "cold", "hot"]);

        let mut state = busy(1, 1, &[("long", 90.0), ("short", 30.0)]);
        for name in ["long", "long", "short", "short", "short", "short", "short"] {
            ask(&mut state, name);
        }
        let expected = ["long", "short", "short", "short", "long", "short", "short"];
        assert_eq!(order(state, &[NOTHING; 7]), expected);
    }

    #[test]
    fn what_was_stuck_keeps_its_model_waiting_for_a_second_and_no_longer() {
        let began = Instant::now();
        let mut state = busy(2, 2, &[("m", 3.0)]);
        ask(&mut state, "m");
        let (run, _) = state.take(began).unwrap();
        state.ended(run, began + Duration::from_secs(60));
        assert!((state.lanes[0].used_s - 1.0).abs() < 1e-9);

        ask(&mut state, "m");
        let (run, _) = state.take(began).unwrap();
        assert!((state.lanes[0].used_s - 2.0).abs() < 1e-9, "it may be so again");
        state.ended(run, began + Duration::from_millis(3));
        assert!((state.lanes[0].used_s - 1.003).abs() < 1e-9);
    }

    #[test]
    fn what_a_model_has_left_to_others_it_may_have_at_once() {
        let mut state = busy(1, 1, &[("hot", 8.0), ("rare", 8.0)]);
        (0..9).for_each(|_| ask(&mut state, "hot"));
        let asked: [&[&str]; 9] = [&[], &[], &[], &["rare"; 6], &[], &[], &[], &[], &[]];

        let expected = ["hot", "hot", "hot", "hot", "rare", "rare", "rare", "rare", "hot"];
        assert_eq!(order(state, &asked), expected);
    }

    #[test]
    fn two_who_ask_seldom_leave_its_share_to_a_third() {
        let mut state = busy(1, 1, &[("hot", 30.0), ("rare", 30.0), ("cold", 30.0)]);
        (0..6).for_each(|_| ask(&mut state, "hot"));
        let asked: [&[&str]; 7] = [&["rare"], &["cold", "rare"], &["rare"], &[], &[], &[], &[]];

        let expected = ["hot", "rare", "cold", "hot", "rare", "hot", "rare"];
        assert_eq!(order(state, &asked), expected);
    }
}
