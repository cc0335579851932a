//! The process of one loaded version: started, spoken to, ended when it hangs, started again.
//!
//! A thread of its own reads what the process answers, and is also who starts a new process when
//! the old one has died. Runs wait for their answers on the threads that ask. Nothing here knows
//! what a model is: frames in, frames out.

use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::frame::{self, Answer, Ready};
use crate::servable::{ProcessCounts, RunOptions};
use crate::status::{Result, Status};
use crate::tensor::Tensor;

/// The largest answer; requests have limits of their own.
const MAX_FRAME_BYTES: u64 = u32::MAX as u64;
/// How long a process may take to end by itself once nobody needs it.
const END: Duration = Duration::from_secs(2);
/// How long to wait before a process that died is started again: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// A process that lived for so long is started again as if it were the first time.
const HEALTHY: Duration = Duration::from_secs(60);

/// How to start the process, and what to expect of it.
pub struct Recipe {
    pub command: Vec<String>,
    /// Body of the hello frame.
    pub payload: Vec<u8>,
    /// A run that takes longer has hung: its process is ended.
    pub run_limit: Duration,
}

/// A process that answers calls; ended when this is dropped.
pub struct Process {
    shared: Arc<Shared>,
}

struct Shared {
    recipe: Recipe,
    state: Mutex<State>,
    changed: Condvar,
    hung_runs: AtomicU64,
    ends: AtomicU64,
    restarts: AtomicU64,
}

#[derive(Default)]
struct State {
    child: Option<Child>,
    /// Where calls are written to, while the process takes them.
    connection: Option<Arc<Connection>>,
    /// Why the last attempt to start it again failed.
    failure: Option<Status>,
    waiting: HashMap<u64, SyncSender<Answer>>,
    next_id: u64,
    in_flight: usize,
    /// How many calls the process takes at a time.
    capacity: usize,
    is_closed: bool,
    has_ended: bool,
}

struct Connection {
    writer: Mutex<UnixStream>,
}

impl Process {
    /// Start the process and wait until it is ready. Blocks for as long as its model takes to load.
    ///
    /// # Errors
    /// What the model fails to load with, INTERNAL when its process ends meanwhile.
    pub fn start(recipe: Recipe) -> Result<(Self, Ready)> {
        let shared = Arc::new(Shared {
            recipe,
            state: Mutex::default(),
            changed: Condvar::new(),
            hung_runs: AtomicU64::new(0),
            ends: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
        });
        let (stream, ready) = shared.launch()?;
        shared.state.lock().capacity = ready.threads.max(1);
        let supervised = shared.clone();
        let signature_def_map = ready.signature_def_map.clone();
        let supervise = move || supervised.supervise(stream, &signature_def_map);
        let process = Self { shared };
        on_spawner(move || {
            std::thread::Builder::new().name("servable-model".to_owned()).spawn(supervise)
        })
        .map_err(|error| Status::resource_exhausted(format!("No thread: {error}")))?;
        Ok((process, ready))
    }

    /// Have one call answered. Blocks until the process takes it (at the deadline at the latest),
    /// and then until it has answered, or the run limit is over.
    ///
    /// # Errors
    /// What the model says; DEADLINE_EXCEEDED when it hangs, INTERNAL when its process dies,
    /// UNAVAILABLE when it cannot be started again.
    pub fn call(
        &self,
        method: &str,
        signature_name: &str,
        inputs: &[(&str, &Tensor)],
        outputs: &[&str],
        options: RunOptions,
    ) -> Answer {
        let shared = &self.shared;
        let (answered, answer) = mpsc::sync_channel(1);
        let (connection, id) = shared.enter(answered, options.deadline)?;
        let _turn = Turn(shared);
        let frame = frame::call(id, method, signature_name, inputs, outputs);
        let limit = Instant::now() + shared.recipe.run_limit;
        // A write that fails or stands still tells of a process that the answer tells of, too.
        if connection.writer.lock().write_all(&frame).is_err() {
            shared.end_process(&connection);
        }
        match answer.recv_timeout(limit.saturating_duration_since(Instant::now())) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                shared.state.lock().waiting.remove(&id);
                shared.hung_runs.fetch_add(1, Ordering::Relaxed);
                shared.end_process(&connection);
                Err(Status::deadline_exceeded(format!(
                    "The model did not answer within {} s; its process is started again",
                    shared.recipe.run_limit.as_secs_f64()
                )))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(Status::internal("The process of the model ended during the run"))
            }
        }
    }

    pub fn counts(&self) -> ProcessCounts {
        ProcessCounts {
            hung_runs: self.shared.hung_runs.load(Ordering::Relaxed),
            ends: self.shared.ends.load(Ordering::Relaxed),
            restarts: self.shared.restarts.load(Ordering::Relaxed),
        }
    }

    /// The number of the process, while there is one.
    pub fn id(&self) -> Option<u32> {
        self.shared.state.lock().child.as_ref().map(Child::id)
    }
}

/// One of the calls that the process takes at a time.
struct Turn<'s>(&'s Shared);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state.lock().in_flight -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.is_closed = true;
        match &state.connection {
            // It ends when it has nothing more to read.
            Some(connection) => {
                if let Some(writer) = connection.writer.try_lock() {
                    let _ = writer.shutdown(Shutdown::Write);
                }
            }
            None => state.kill(),
        }
        self.shared.changed.notify_all();
        let ended = self.shared.changed.wait_while_for(&mut state, |state| !state.has_ended, END);
        if ended.timed_out() {
            state.kill();
        }
    }
}

impl State {
    fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have died by itself, which is as good.
            let _ = child.kill();
        }
    }
}

impl Shared {
    /// Wait for a turn; where to write the call to, and with which number. From then on `answered`
    /// hears of the process.
    fn enter(
        &self,
        answered: SyncSender<Answer>,
        deadline: Option<Instant>,
    ) -> Result<(Arc<Connection>, u64)> {
        // A process that is started again may take as long as a run; one that runs has its limit.
        let restart_limit = Instant::now() + self.recipe.run_limit;
        let mut state = self.state.lock();
        loop {
            if state.is_closed || state.has_ended {
                return Err(Status::unavailable("The model was unloaded"));
            }
            let limit = match &state.connection {
                Some(connection) if state.in_flight < state.capacity => {
                    let connection = connection.clone();
                    state.in_flight += 1;
                    state.next_id += 1;
                    let id = state.next_id;
                    state.waiting.insert(id, answered);
                    return Ok((connection, id));
                }
                Some(_) => deadline,
                None => {
                    if let Some(failure) = &state.failure {
                        return Err(Status::unavailable(format!(
                            "The process of the model cannot be started again: {}",
                            failure.message
                        )));
                    }
                    Some(deadline.map_or(restart_limit, |deadline| deadline.min(restart_limit)))
                }
            };
            let timed_out = match limit {
                Some(limit) => self.changed.wait_until(&mut state, limit).timed_out(),
                None => {
                    self.changed.wait(&mut state);
                    false
                }
            };
            if timed_out {
                return Err(match state.connection {
                    Some(_) => Status::deadline_exceeded("Timed out waiting for notification"),
                    None => Status::unavailable("The process of the model is being started again"),
                });
            }
        }
    }

    /// End the process behind `connection`, unless there is another one by now.
    fn end_process(&self, connection: &Arc<Connection>) {
        let mut state = self.state.lock();
        if state.connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            // Calls from now on are for the next process.
            state.connection = None;
            state.kill();
        }
    }

    /// Start a process, and wait until it is ready.
    fn launch(&self) -> Result<(UnixStream, Ready)> {
        let failed = |error: io::Error| {
            Status::internal(format!("The process of the model cannot be started: {error}"))
        };
        let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
        let command = self.recipe.command.clone();
        let child = on_spawner(move || spawn(&command, theirs.into())).map_err(failed)?;
        {
            let mut state = self.state.lock();
            state.child = Some(child);
            if state.is_closed {
                state.kill();
            }
        }
        let ready = ours
            .write_all(&frame::hello(&self.recipe.payload))
            .and_then(|()| frame::read(&mut ours, MAX_FRAME_BYTES))
            .map_err(|_| ())
            .and_then(|body| frame::ready(&body).map_err(|_| ()));
        let ready = match ready {
            Ok(ready) => ready,
            Err(()) => Err(Status::internal(format!(
                "The process of the model ended while it was loaded: {}",
                self.reap()
            ))),
        };
        match ready {
            Ok(ready) => Ok((ours, ready)),
            Err(status) => {
                self.reap();
                Err(status)
            }
        }
    }

    /// End the process, and say how it ended.
    fn reap(&self) -> String {
        let child = self.state.lock().child.take();
        let Some(mut child) = child else { return "it was not there".to_owned() };
        // What has closed its end but lives on is of no use.
        let ended = child.try_wait().ok().flatten().or_else(|| {
            std::thread::sleep(Duration::from_millis(20));
            let _ = child.kill();
            child.wait().ok()
        });
        ended.map_or_else(|| "it is gone".to_owned(), how_it_ended)
    }

    /// Serve the calls to the process behind `stream`, and to those that come after it.
    fn supervise(&self, stream: UnixStream, signature_def_map: &[u8]) {
        let mut next = Some(stream);
        let mut backoff = BACKOFF.0;
        while let Some(stream) = next.take() {
            let began = Instant::now();
            if self.connect(&stream) {
                self.deliver(stream);
            }
            let end = self.disconnect();
            let is_closed = self.state.lock().is_closed;
            if is_closed {
                break;
            }
            if began.elapsed() > HEALTHY {
                backoff = BACKOFF.0;
            }
            // The log is Python's; this is rare, and the operator's first question.  Whether
            // anybody reads it is no matter.
            let _ =
                writeln!(io::stderr(), "The process of a model ended and is started again: {end}");
            next = self.start_again(signature_def_map, &mut backoff);
        }
        let mut state = self.state.lock();
        state.has_ended = true;
        state.waiting.clear();
        self.changed.notify_all();
    }

    /// Let calls be written to `stream`; false when nobody will any more.
    fn connect(&self, stream: &UnixStream) -> bool {
        let Ok(writer) = stream.try_clone() else { return false };
        // A process that reads nothing for so long has hung.
        let _ = writer.set_write_timeout(Some(self.recipe.run_limit));
        let mut state = self.state.lock();
        if state.is_closed {
            return false;
        }
        state.failure = None;
        state.connection = Some(Arc::new(Connection { writer: Mutex::new(writer) }));
        self.changed.notify_all();
        true
    }

    /// Hand out answers until the stream ends, or has no sense any more.
    fn deliver(&self, stream: UnixStream) {
        let mut stream = BufReader::with_capacity(64 << 10, stream);
        while let Ok(body) = frame::read(&mut stream, MAX_FRAME_BYTES) {
            let Ok((id, answer)) = frame::answer(&body) else { return };
            let waiting = self.state.lock().waiting.remove(&id);
            if let Some(waiting) = waiting {
                let _ = waiting.send(answer);
            }
        }
    }

    /// Take no more calls, and answer those that wait.
    fn disconnect(&self) -> String {
        // Calls from now on are for the next process.
        self.state.lock().connection = None;
        let end = self.reap();
        self.ends.fetch_add(1, Ordering::Relaxed);
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        for (_, waiting) in waiting {
            let _ = waiting.send(Err(Status::internal(format!(
                "The process of the model ended during the run: {end}"
            ))));
        }
        end
    }

    /// The stream of a new process; `None` when nobody needs one any more.
    fn start_again(&self, expected: &[u8], backoff: &mut Duration) -> Option<UnixStream> {
        loop {
            {
                let mut state = self.state.lock();
                self.changed.wait_while_for(&mut state, |state| !state.is_closed, *backoff);
                if state.is_closed {
                    return None;
                }
            }
            *backoff = (*backoff * 2).min(BACKOFF.1);
            self.restarts.fetch_add(1, Ordering::Relaxed);
            let failure = match self.launch() {
                Ok((stream, ready)) if ready.signature_def_map == expected => return Some(stream),
                Ok(_) => {
                    self.reap();
                    Status::failed_precondition("Its signatures are not what they were")
                }
                Err(status) => status,
            };
            let mut state = self.state.lock();
            state.failure = Some(failure);
            self.changed.notify_all();
        }
    }
}

fn how_it_ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit status {code}"),
        (None, None) => "unknown".to_owned(),
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Do `work` on the one thread that starts processes and the threads that wait for them.
///
/// It lives as long as this process: Linux can tell a process that the thread that started it is
/// gone, and ours ask for that. And it is made with the engine: what a thread starts has its
/// priority, and the threads that load models may have a low one.
fn on_spawner<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (done, result) = mpsc::sync_channel(1);
    let job: Job = Box::new(move || drop(done.send(work())));
    let gone = || io::Error::other("nobody starts processes any more");
    spawner().send(job).map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}

pub(super) fn spawner() -> &'static SyncSender<Job> {
    static SPAWNER: OnceLock<SyncSender<Job>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (order, orders) = mpsc::sync_channel::<Job>(0);
        std::thread::Builder::new()
            .name("servable-spawn".to_owned())
            .spawn(move || orders.into_iter().for_each(|job| job()))
            .expect("a thread can be started");
        order
    })
}

/// Start a program with `stdin` as its one connection, and its output where our errors go.
fn spawn(command: &[String], stdin: OwnedFd) -> io::Result<Child> {
    let (program, arguments) =
        command.split_first().ok_or_else(|| io::Error::other("there is no command"))?;
    let output = io::stderr().as_fd().try_clone_to_owned()?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(output))
        // Ctrl-C is for the server, which lets requests finish.
        .process_group(0)
        .spawn()
}
