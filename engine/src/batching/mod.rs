//! Requests that wait together run as one batch.
//!
//! Every combination of feeds and fetches of a version has a queue of its own; nothing here knows
//! a protocol. What decides is pure (`queue`, `scheduler`); `pool` has the threads, `run` does with
//! tensors what was decided, and this file is the way in.

mod adaptive;
mod dynamic;
mod pool;
pub mod queue;
mod run;
pub mod scheduler;
mod signature;
mod task;
mod tensors;
#[cfg(test)]
mod testing;

use std::hash::{Hash, Hasher};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::{Equivalent, HashMap};
use parking_lot::RwLock;

pub use self::adaptive::{Decision, Reason};
use self::dynamic::Dynamic;
pub use self::dynamic::Observation;
pub use self::pool::Pool;
pub use self::run::queue_timeout;
pub use self::scheduler::Priority;
use self::scheduler::QueueId;
pub use self::signature::Parameters;
use self::signature::Signature;
pub use self::task::Hold;
pub use self::task::Task;
use crate::compute::Compute;
use crate::metrics::{Batching, Run};
use crate::servable::{RunOptions, Servable};
use crate::status::{Result, Status};
use crate::tensor::Tensor;

/// What is to be done with a request.
pub enum Admitted {
    /// It is in a queue.
    Queued(Ticket),
    /// It is none that a batch can hold, and runs by itself.
    Alone(Vec<(String, Tensor)>, Vec<String>),
}

/// A request's place in a queue.
pub struct Ticket {
    task: Arc<Task>,
    answer: tokio::sync::oneshot::Receiver<task::Answer>,
    /// For each output asked for, its place among the signature's fetches.
    order: Vec<usize>,
}

impl Ticket {
    /// The request's rows on their way.
    pub fn task(&self) -> Arc<Task> {
        self.task.clone()
    }

    /// Whether the request is being run, or was.
    pub fn has_begun(&self) -> bool {
        self.task.has_begun()
    }

    /// Wait for the outputs, in the order of the fetches. Dropping the ticket gives up: what has
    /// not begun by then is not run.
    ///
    /// # Errors
    /// The batch's, or the runtime's.
    pub async fn answer(&mut self) -> Result<(Vec<Tensor>, Run)> {
        let lost = || Err(Status::internal("The request could not be run."));
        let (outputs, run) = (&mut self.answer).await.unwrap_or_else(|_| lost())?;
        let mut outputs: Vec<Option<Tensor>> = outputs.into_iter().map(Some).collect();
        let ordered = self.order.iter().map(|&at| outputs.get_mut(at)?.take());
        let ordered: Option<Vec<Tensor>> = ordered.collect();
        ordered
            .map(|outputs| (outputs, run))
            .ok_or_else(|| Status::unknown("Predict internal error"))
    }
}

/// What the queues of all versions share.
#[derive(Clone)]
pub struct Shared {
    /// Runs batches of queues with fixed parameters.
    pub pool: Arc<Pool>,
    /// Runs those of others.
    pub compute: Arc<Compute>,
    pub metrics: Arc<Batching>,
}

/// The queues of one version.
pub struct Queues {
    model: String,
    servable: Arc<dyn Servable>,
    parameters: Arc<Parameters>,
    shared: Shared,
    by_names: RwLock<HashMap<Key, Arc<SignatureQueue>>>,
}

struct SignatureQueue {
    signature: Arc<Signature>,
    line: Line,
}

impl SignatureQueue {
    fn is_in_use(&self) -> bool {
        // Tasks hold the signature, and so do this and a queue of its own kind.
        let idle = match self.line {
            Line::Fixed(..) => 1,
            Line::Dynamic(_) => 2,
        };
        Arc::strong_count(&self.signature) > idle
    }
}

enum Line {
    /// By priority.
    Fixed([QueueId; 2], Arc<Pool>),
    Dynamic(Arc<Dynamic>),
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Line::Fixed(ids, pool) = self {
            for id in ids {
                pool.remove(*id);
            }
        }
    }
}

impl Queues {
    /// Queues kept; requests can ask for more combinations of outputs than are worth keeping.
    const MAX: usize = 256;

    pub fn new(
        model: String,
        servable: Arc<dyn Servable>,
        parameters: Parameters,
        shared: Shared,
    ) -> Self {
        Self {
            model,
            servable,
            parameters: Arc::new(parameters),
            shared,
            by_names: RwLock::default(),
        }
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Signature and state of the queues whose sizes are decided while they run, sorted. Of several
    /// queues of a signature, which are for different outputs, the one that ran most.
    pub fn observe(&self) -> Vec<(String, Observation)> {
        let now = Instant::now();
        let queues = self.by_names.read();
        let observed = queues.values().filter_map(|queue| match &queue.line {
            Line::Dynamic(line) => Some((queue.signature.name.clone(), line.observe(now))),
            Line::Fixed(..) => None,
        });
        let mut observed: Vec<_> = observed.collect();
        observed
            .sort_by(|(one, seen), (other, also)| one.cmp(other).then(also.rows.cmp(&seen.rows)));
        observed.dedup_by(|(one, _), (other, _)| one == other);
        observed
    }

    /// Have a decision hold for the queues of a signature.
    pub fn decide(&self, signature_name: &str, decision: Decision) {
        for queue in self.by_names.read().values() {
            match &queue.line {
                Line::Dynamic(line) if queue.signature.name == signature_name => {
                    line.decide(decision);
                }
                _ => {}
            }
        }
    }

    /// Run what waits without waiting for more: the version is on its way out.
    pub fn close(&self) {
        for queue in self.by_names.read().values() {
            if let Line::Fixed(ids, pool) = &queue.line {
                for id in ids {
                    pool.close(*id);
                }
            }
        }
    }

    /// Take a request in. `hold` keeps the version loaded for as long as it may run.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when no batch can hold it, UNAVAILABLE when the queue is full.
    pub fn admit(
        &self,
        feeds: Vec<(String, Tensor)>,
        fetches: Vec<String>,
        signature_name: &str,
        options: RunOptions,
        hold: Hold,
    ) -> Result<Admitted> {
        if self.parameters.unbatched_signatures.iter().any(|name| name == signature_name) {
            return Ok(Admitted::Alone(feeds, fetches));
        }
        let rows = match rows(&feeds) {
            Ok(rows) => rows,
            Err(_) if self.parameters.run_unbatchable_alone => {
                return Ok(Admitted::Alone(feeds, fetches))
            }
            Err(status) => return Err(status),
        };
        let queue = self.queue(&feeds, &fetches);
        let signature = &queue.signature;
        let order = places(&fetches, &signature.fetches);
        let (names, feeds) = sorted(feeds);
        if signature.is_unbatchable.load(Ordering::Relaxed) {
            return Ok(Admitted::Alone(names.into_iter().zip(feeds).collect(), fetches));
        }
        let now = Instant::now();
        let (task, answer) = Task::new(signature.clone(), feeds, rows, now, options.deadline, hold);
        let priority = if options.is_low_priority { Priority::Low } else { Priority::High };
        match &queue.line {
            Line::Fixed(ids, pool) => pool.submit(ids[priority as usize], task.clone())?,
            Line::Dynamic(line) => line.submit(task.clone(), priority)?,
        }
        Ok(Admitted::Queued(Ticket { task, answer, order }))
    }

    fn queue(&self, feeds: &[(String, Tensor)], fetches: &[String]) -> Arc<SignatureQueue> {
        let names = Names {
            feeds: sorted_names(feeds.iter().map(|(name, _)| name)),
            fetches: sorted_names(fetches),
        };
        if let Some(queue) = self.by_names.read().get(&names) {
            return queue.clone();
        }
        let mut queues = self.by_names.write();
        if let Some(queue) = queues.get(&names) {
            return queue.clone();
        }
        if queues.len() >= Self::MAX {
            // Those that somebody is about to use stay.
            queues.retain(|_, queue| Arc::strong_count(queue) > 1 || queue.is_in_use());
        }
        let key = names.to_key();
        let signature = Signature::new(
            self.model.clone(),
            self.servable.clone(),
            key.feeds.clone(),
            key.fetches.clone(),
            self.parameters.clone(),
        );
        let signature = Arc::new(signature);
        let Shared { pool, compute, metrics } = self.shared.clone();
        let line = if self.parameters.is_fixed() {
            let limits = self.parameters.limits();
            let ids =
                [Priority::High, Priority::Low].map(|priority| pool.add(limits.clone(), priority));
            Line::Fixed(ids, pool)
        } else {
            Line::Dynamic(Dynamic::new(signature.clone(), compute, metrics, Instant::now()))
        };
        let queue = Arc::new(SignatureQueue { signature, line });
        queues.insert(key, queue.clone());
        queue
    }
}

/// How many rows a request has.
fn rows(feeds: &[(String, Tensor)]) -> Result<usize> {
    if feeds.is_empty() {
        return Err(Status::invalid_argument("Batching Run() must have at least one input tensor"));
    }
    let scalar = || {
        Status::invalid_argument("Batching Run() input tensors must have at least one dimension")
    };
    let mut rows = None;
    for (_, tensor) in feeds {
        let these = tensors::rows(tensor).ok_or_else(scalar)?;
        if *rows.get_or_insert(these) != these {
            return Err(Status::invalid_argument(
                "Batching Run() input tensors must have equal 0th-dimension size",
            ));
        }
    }
    Ok(rows.unwrap_or_default())
}

/// Names and tensors, by name.
fn sorted(mut feeds: Vec<(String, Tensor)>) -> (Vec<String>, Vec<Tensor>) {
    feeds.sort_by(|(one, _), (other, _)| one.cmp(other));
    feeds.into_iter().unzip()
}

fn sorted_names<'n>(names: impl IntoIterator<Item = &'n String>) -> Vec<&'n str> {
    let mut names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// For each name, its place in the same names sorted; equal names have places of their own.
fn places(names: &[String], sorted: &[String]) -> Vec<usize> {
    let mut used = vec![false; sorted.len()];
    let mut place = |name: &String| {
        let at = (0..sorted.len()).find(|&at| !used[at] && sorted[at] == *name)?;
        used[at] = true;
        Some(at)
    };
    names.iter().filter_map(&mut place).collect()
}

/// Which queue a request belongs to: sorted names.
#[derive(PartialEq, Eq)]
struct Key {
    feeds: Vec<String>,
    fetches: Vec<String>,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_names(self.feeds.iter().map(String::as_str), state);
        hash_names(self.fetches.iter().map(String::as_str), state);
    }
}

/// The same of a request, before anything is copied.
struct Names<'r> {
    feeds: Vec<&'r str>,
    fetches: Vec<&'r str>,
}

impl Names<'_> {
    fn to_key(&self) -> Key {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Key { feeds: owned(&self.feeds), fetches: owned(&self.fetches) }
    }
}

impl Hash for Names<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_names(self.feeds.iter().copied(), state);
        hash_names(self.fetches.iter().copied(), state);
    }
}

impl Equivalent<Key> for Names<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.feeds == key.feeds && self.fetches == key.fetches
    }
}

fn hash_names<'n, H: Hasher>(names: impl ExactSizeIterator<Item = &'n str>, state: &mut H) {
    names.len().hash(state);
    names.for_each(|name| name.hash(state));
}
