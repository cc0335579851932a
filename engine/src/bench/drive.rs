//! Keeping requests coming: threads, loops, and the pace of the open one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};

use super::grpc::GrpcCaller;
use super::process::{thread_cpu, usage, Usage};
use super::recorder::{Admission, Failure, Recorder, Report, Window};
use super::rest::RestCaller;
use super::schedule::Schedule;
use super::spec::{Amount, Load, Plan, Protocol, Spec};
use super::BenchError;
use crate::promptness::begin_soon;

/// How often a run looks whether it has been stopped, and says how far it is.
const TICK: Duration = Duration::from_millis(100);
/// Between attempts to reach a server that has gone, so that the loop does not become a spin.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Sends one request after the other.
pub(super) trait Caller: Sized + 'static {
    /// Make `callers` of them, over `connections` connections where they can be shared.
    async fn connect(
        plan: &Plan,
        callers: usize,
        connections: usize,
    ) -> Result<Vec<Self>, BenchError>;

    /// Send the request, and return the length of a good answer.  Dropping the future gives the request up.
    async fn call(&mut self) -> Result<usize, Failure>;
}

/// Run `spec` and return what was measured.  Blocks.
///
/// `progress` is called about ten times a second with the part done, from 0 to 1; the run ends early
/// when it returns false.
///
/// # Errors
///
/// When the specification is wrong, the server cannot be reached at the start, the process to watch
/// is not there, or `progress` stopped the run.
pub fn run(spec: &Spec, progress: &mut dyn FnMut(f64) -> bool) -> Result<Report, BenchError> {
    let plan = Arc::new(spec.plan()?);
    watch(&plan)?;
    let shared = Arc::new(Shared::default());
    let (to_me, from_threads) = mpsc::channel();
    let mut starters = Vec::new();
    for index in 0..plan.threads {
        let (starter, start) = mpsc::channel();
        starters.push(starter);
        let (plan, shared, to_me) = (Arc::clone(&plan), Arc::clone(&shared), to_me.clone());
        std::thread::Builder::new().name(format!("bench-{index}")).spawn(move || {
            begin_soon();
            let outcome = match plan.protocol {
                Protocol::Grpc => thread::<GrpcCaller>(&plan, &shared, index, &to_me, &start),
                Protocol::Rest => thread::<RestCaller>(&plan, &shared, index, &to_me, &start),
            };
            // Nobody listens any more when the run was given up.
            drop(to_me.send(Message::Finished(outcome.map(Box::new))));
        })?;
    }
    drop(to_me);
    for _ in 0..plan.threads {
        match from_threads.recv() {
            Ok(Message::Connected) => {}
            Ok(Message::Finished(Err(error))) => return Err(error),
            Ok(Message::Finished(Ok(_))) | Err(_) => return Err(died()),
        }
    }
    let closed_loop = matches!(plan.load, Load::Closed { .. });
    let started = Instant::now();
    let window = Window::new(started + plan.warmup, plan.amount, closed_loop);
    for starter in starters {
        starter.send((started, window)).map_err(|_| died())?;
    }
    let run = Coordinator { plan: &plan, shared: &shared, started, window, closed_loop };
    let report = run.wait(&from_threads, progress);
    shared.stop.store(true, Ordering::Relaxed);
    report
}

/// What the threads of a run share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Requests taken of those to be measured, when their number is given.
    claimed: AtomicU64,
}

enum Message {
    Connected,
    Finished(Result<Box<Recorder>, BenchError>),
}

fn died() -> BenchError {
    BenchError::Io(std::io::Error::other("a thread of the generator died"))
}

fn watch(plan: &Plan) -> Result<Option<Usage>, BenchError> {
    let read = |pid| usage(pid).map_err(|source| BenchError::Process { pid, source });
    plan.pid.map(read).transpose()
}

/// The thread that called: watches the server and the time, and sends nothing.
struct Coordinator<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    started: Instant,
    window: Window,
    closed_loop: bool,
}

impl Coordinator<'_> {
    fn wait(
        &self,
        from_threads: &mpsc::Receiver<Message>,
        progress: &mut dyn FnMut(f64) -> bool,
    ) -> Result<Report, BenchError> {
        let mut total = Recorder::new(self.window);
        let mut before = None;
        let mut after = None;
        let mut running = self.plan.threads;
        while running > 0 {
            let now = Instant::now();
            let mut wake = now + TICK;
            if before.is_none() {
                if now >= self.window.opens {
                    before = Some(self.server());
                } else {
                    wake = wake.min(self.window.opens);
                }
            }
            // Of an open loop all answers count, so what the server uses until the last does too.
            if let Some(closes) = self.window.closes.filter(|_| self.closed_loop && after.is_none())
            {
                if now >= closes {
                    after = Some(self.server());
                } else {
                    wake = wake.min(closes);
                }
            }
            match from_threads.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(Message::Finished(recorder)) => {
                    total.merge(&*recorder?);
                    running -= 1;
                }
                Ok(Message::Connected) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(died()),
            }
            if !progress(self.part_done()) {
                return Err(BenchError::Stopped);
            }
        }
        let before = before.flatten();
        let after = after.unwrap_or_else(|| self.server());
        let server = self.plan.pid.zip(before).zip(after).map(|((pid, b), a)| (pid, b, a));
        Ok(total.report(server))
    }

    /// What the server has used; None also when it has died, which the errors then tell.
    fn server(&self) -> Option<Usage> {
        watch(self.plan).ok().flatten()
    }

    fn part_done(&self) -> f64 {
        let elapsed = self.started.elapsed().as_secs_f64();
        let warmup = self.plan.warmup.as_secs_f64();
        let part = match self.plan.amount {
            Amount::Time(length) => elapsed / (warmup + length.as_secs_f64()),
            #[allow(clippy::cast_precision_loss)] // a fraction for people
            Amount::Requests(requests) => {
                self.shared.claimed.load(Ordering::Relaxed) as f64 / requests as f64
            }
        };
        part.min(1.0)
    }
}

/// One thread of the generator, from connecting to its last answer.
fn thread<C: Caller>(
    plan: &Arc<Plan>,
    shared: &Arc<Shared>,
    index: usize,
    to_coordinator: &mpsc::Sender<Message>,
    start: &mpsc::Receiver<(Instant, Window)>,
) -> Result<Recorder, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let part = |whole: usize| whole / plan.threads + usize::from(index < whole % plan.threads);
    let width = match plan.load {
        Load::Closed { in_flight } => in_flight,
        Load::Open { max_in_flight, .. } => max_in_flight,
    };
    LocalSet::new().block_on(&runtime, async {
        let connecting = C::connect(plan, part(width), part(plan.connections));
        let callers = tokio::time::timeout(plan.timeout, connecting).await.map_err(|_| {
            BenchError::Connect { address: plan.address.clone(), reason: "timed out".into() }
        })??;
        drop(to_coordinator.send(Message::Connected));
        let Ok((started, window)) = start.recv() else {
            return Err(BenchError::Stopped);
        };
        let lane = Rc::new(Lane {
            plan: Arc::clone(plan),
            shared: Arc::clone(shared),
            window,
            recorder: RefCell::new(Recorder::new(window)),
            arrivals: RefCell::default(),
            arrived: Notify::new(),
            all_arrived: Cell::new(false),
        });
        let mut loops = JoinSet::new();
        if let Load::Open { rate, arrival, seed, .. } = plan.load {
            let lane = Rc::clone(&lane);
            let schedule = Schedule::new(rate, arrival, seed).share(index, plan.threads);
            loops.spawn_local(async move { lane.dispatch(started, schedule).await });
        }
        for caller in callers {
            let lane = Rc::clone(&lane);
            match plan.load {
                Load::Closed { .. } => {
                    loops.spawn_local(async move { lane.closed_loop(caller).await });
                }
                Load::Open { .. } => {
                    loops.spawn_local(async move { lane.open_loop(caller).await });
                }
            }
        }
        let cpu = async {
            tokio::time::sleep_until(window.opens.into()).await;
            thread_cpu()
        };
        let finished = async {
            while let Some(ended) = loops.join_next().await {
                ended.map_err(|_| died())?;
            }
            Ok::<_, BenchError>(thread_cpu())
        };
        let (cpu_before, cpu_after) = tokio::select! {
            (before, after) = async { tokio::join!(cpu, finished) } => (before, after?),
            () = lane.stopped() => return Err(BenchError::Stopped),
        };
        let mut recorder = lane.recorder.replace(Recorder::new(window));
        recorder.client_cpu = cpu_after.saturating_sub(cpu_before);
        Ok(recorder)
    })
}

/// What the loops of one thread share.
struct Lane {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    window: Window,
    recorder: RefCell<Recorder>,
    /// Requests that are due and that no caller has taken yet.
    arrivals: RefCell<VecDeque<(Instant, Admission)>>,
    arrived: Notify,
    all_arrived: Cell<bool>,
}

impl Lane {
    async fn closed_loop<C: Caller>(&self, mut caller: C) {
        loop {
            let due = Instant::now();
            let Some(admission) = self.admit(due) else { return };
            self.send(&mut caller, due, due, admission).await;
        }
    }

    async fn open_loop<C: Caller>(&self, mut caller: C) {
        loop {
            let arrival = self.arrivals.borrow_mut().pop_front();
            match arrival {
                Some((due, admission)) => {
                    self.send(&mut caller, due, Instant::now(), admission).await;
                }
                None if self.all_arrived.get() => return,
                None => self.arrived.notified().await,
            }
        }
    }

    /// Hand the requests out when they are due.
    async fn dispatch(&self, started: Instant, schedule: impl Iterator<Item = Duration>) {
        let pacer = Pacer::new();
        for offset in schedule {
            let due = started + offset;
            let Some(admission) = self.admit(due) else { break };
            pacer.wait_until(due).await;
            self.arrivals.borrow_mut().push_back((due, admission));
            // The one that waited least: its connection is the warmest.
            self.arrived.notify_last();
        }
        self.all_arrived.set(true);
        self.arrived.notify_waiters();
    }

    fn admit(&self, due: Instant) -> Option<Admission> {
        let claim = || match self.plan.amount {
            Amount::Requests(n) => self.shared.claimed.fetch_add(1, Ordering::Relaxed) < n,
            Amount::Time(_) => true,
        };
        self.window.admit(due, claim)
    }

    async fn send<C: Caller>(
        &self,
        caller: &mut C,
        due: Instant,
        sent: Instant,
        admission: Admission,
    ) {
        let outcome = match tokio::time::timeout(self.plan.timeout, caller.call()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Timeout),
        };
        let unreachable = matches!(outcome, Err(Failure::Connect(_)));
        self.recorder.borrow_mut().record(admission, due, sent, Instant::now(), outcome);
        if unreachable {
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    async fn stopped(&self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(TICK).await;
        }
    }
}

/// Waits more finely than the milliseconds of the runtime's own timers.
struct Pacer {
    #[cfg(target_os = "linux")]
    timer: Option<linux::Timer>,
}

impl Pacer {
    fn new() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            timer: linux::Timer::new().ok(),
        }
    }

    async fn wait_until(&self, due: Instant) {
        let Some(pause) = due.checked_duration_since(Instant::now()).filter(|p| !p.is_zero())
        else {
            // Late already: let the callers send what has arrived before more arrives.
            return tokio::task::yield_now().await;
        };
        #[cfg(target_os = "linux")]
        if let Some(timer) = &self.timer {
            if timer.wait(pause).await.is_ok() {
                return;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(target_os = "linux")]
mod linux {
    //! A timer of the kernel as a file that becomes readable.

    use std::io;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::time::Duration;

    use tokio::io::unix::AsyncFd;
    use tokio::io::Interest;

    pub(super) struct Timer(AsyncFd<OwnedFd>);

    impl Timer {
        pub fn new() -> io::Result<Self> {
            // SAFETY: takes and returns numbers.
            let fd = unsafe {
                libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC)
            };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: `fd` was opened above and nothing else owns it; the wrapper keeps it open until it
            // is dropped itself.
            let registered = unsafe {
                AsyncFd::register_with_interest(OwnedFd::from_raw_fd(fd), Interest::READABLE)
            };
            Ok(Self(registered?))
        }

        pub async fn wait(&self, pause: Duration) -> io::Result<()> {
            let mut setting = libc::itimerspec {
                it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
                it_value: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            };
            setting.it_value.tv_sec =
                pause.as_secs().try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
            setting.it_value.tv_nsec = pause.subsec_nanos().into();
            // SAFETY: `setting` outlives the call, and no old setting is asked for.
            let set = unsafe {
                libc::timerfd_settime(
                    self.0.as_raw_fd(),
                    0,
                    &raw const setting,
                    std::ptr::null_mut(),
                )
            };
            if set != 0 {
                return Err(io::Error::last_os_error());
            }
            loop {
                let mut guard = self.0.readable().await?;
                let mut expirations = [0_u8; 8];
                let read = guard.try_io(|fd| {
                    // SAFETY: the buffer is eight bytes long and outlives the call.
                    let read =
                        unsafe { libc::read(fd.as_raw_fd(), expirations.as_mut_ptr().cast(), 8) };
                    if read < 0 {
                        Err(io::Error::last_os_error())
                    } else {
                        Ok(())
                    }
                });
                if let Ok(result) = read {
                    return result;
                }
            }
        }
    }
}
