//! Requests that wait together run as one batch.
//!
//! Every combination of feeds and fetches of a version has a queue of its own; nothing here knows
//! a protocol. What decides is pure (`queue`, `scheduler`); `pool` has the threads, `run` does with
//! tensors what was decided, `rows` or an installed `batcher` says how they go together, and this file
//! is the way in.

mod adaptive;
mod batcher;
mod dynamic;
mod observation;
mod pool;
#[cfg(feature = "python")]
mod python;
pub mod queue;
mod rows;
mod run;
pub mod scheduler;
mod signature;
mod task;
mod tensors;
#[cfg(test)]
mod testing;
mod waiting;

use std::hash::{Hash, Hasher};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::{Equivalent, HashMap};
use parking_lot::RwLock;

pub use self::adaptive::{Decision, Reason};
pub use self::dynamic::AtOnce;
use self::dynamic::Dynamic;
pub use self::observation::Observation;
pub use self::pool::Pool;
use self::queue::Entry;
pub use self::run::queue_timeout;
pub use self::scheduler::Priority;
use self::scheduler::QueueId;
pub use self::signature::Parameters;
use self::signature::Signature;
pub use self::task::{Hold, Task};
use crate::compute::Compute;
use crate::metrics::{Batching, Run};
use crate::servable::{RunOptions, Servable};
use crate::status::{Result, Status};
use crate::tensor::Tensor;

/// What is to be done with a request.
pub enum Admitted {
    /// It is in a queue.
    Queued(Ticket),
    /// Nobody else is there: it runs where it is.
    AtOnce(Vec<(String, Tensor)>, Vec<String>, AtOnce),
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
        let (outputs, run) = (&mut self.answer).await.unwrap_or_else(|_| Err(lost()))?;
        Ok((ordered(&self.order, outputs)?, run))
    }
}

fn lost() -> Status {
    Status::internal("The request could not be run.")
}

/// Outputs in the order of a request's fetches.
fn ordered(order: &[usize], outputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
    let mut outputs: Vec<Option<Tensor>> = outputs.into_iter().map(Some).collect();
    let ordered = order.iter().map(|&at| outputs.get_mut(at)?.take());
    ordered.collect::<Option<_>>().ok_or_else(|| Status::unknown("Predict internal error"))
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
        mut shared: Shared,
    ) -> Self {
        if let Some(compute) = servable.compute() {
            // A servable that hangs takes no threads but its own.
            shared.pool = Arc::new(shared.pool.beside(compute.limit()));
        }
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

    /// Signature and state of the queues whose requests are batched, sorted. Of several queues of a
    /// signature, which are for different outputs, the one that ran most.
    pub fn observe(&self) -> Vec<(String, Observation)> {
        let now = Instant::now();
        let queues = self.by_names.read();
        let batched =
            queues.values().filter(|queue| !queue.signature.is_unbatchable.load(Ordering::Relaxed));
        let observed = batched.filter_map(|queue| {
            let seen = match &queue.line {
                Line::Fixed([high, low], pool) => {
                    pool.observe(*high, now)?.joined(&pool.observe(*low, now)?)
                }
                Line::Dynamic(line) => line.observe(now),
            };
            Some((queue.signature.name.clone(), seen))
        });
        let mut observed: Vec<_> = observed.collect();
        observed.sort_by(|(one, seen), (other, also)| {
            one.cmp(other).then(also.counts.rows.cmp(&seen.counts.rows))
        });
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
        let Some(rows) = self.rows(&feeds, signature_name)? else {
            return Ok(Admitted::Alone(feeds, fetches));
        };
        let queue = self.queue(&feeds, &fetches);
        let signature = &queue.signature;
        if signature.is_unbatchable.load(Ordering::Relaxed) {
            return Ok(Admitted::Alone(feeds, fetches));
        }
        let now = Instant::now();
        if let Line::Dynamic(line) = &queue.line {
            if let Some(leave) = line.at_once(&feeds, &fetches, rows, now) {
                return Ok(Admitted::AtOnce(feeds, fetches, leave));
            }
        }
        let order = places(&fetches, &signature.fetches);
        let feeds = sorted(feeds);
        let (task, answer) = Task::new(signature.clone(), feeds, rows, now, options.deadline, hold);
        let priority = if options.is_low_priority { Priority::Low } else { Priority::High };
        match &queue.line {
            Line::Fixed(ids, pool) => pool.submit(ids[priority as usize], task.clone())?,
            Line::Dynamic(line) => line.submit(task.clone(), priority, options.client)?,
        }
        Ok(Admitted::Queued(Ticket { task, answer, order }))
    }

    /// Run a request as a batch of its own on this thread, without a queue and whatever it takes:
    /// what is to be warm is what batches will run. With `all_sizes`, have its rows, repeated or
    /// left out, then run as a batch of each of the allowed sizes.
    ///
    /// # Errors
    /// As for any request but for a full queue.
    pub fn run_here(
        &self,
        feeds: Vec<(String, Tensor)>,
        fetches: Vec<String>,
        signature_name: &str,
        all_sizes: bool,
    ) -> Result<Vec<Tensor>> {
        let rows = self.rows(&feeds, signature_name)?;
        let Key { feeds: names, fetches: sorted_fetches } = Names::of(&feeds, &fetches).to_key();
        let signature = self.signature(names, sorted_fetches);
        let rows = rows.filter(|_| !signature.is_unbatchable.load(Ordering::Relaxed));
        let Some(rows) = rows else {
            return self.servable.run(feeds, &fetches, RunOptions::default());
        };
        self.parameters.limits().check_size(rows)?;
        let feeds = sorted(feeds);
        let largest = self.parameters.limits().max_batch_size;
        let parameters = &self.parameters;
        let sizes: Vec<usize> = parameters
            .allowed_sizes()
            .filter(|&size| {
                all_sizes && rows > 0 && size <= largest && size != parameters.padded_size(rows)
            })
            .collect();
        let resized: Vec<Vec<Tensor>> = sizes
            .iter()
            .map(|&size| feeds.iter().map(|feed| tensors::resized(feed, rows, size)).collect())
            .collect::<Result<_>>()?;
        let outputs = self.run_whole(&signature, feeds, rows)?;
        for (feeds, size) in resized.into_iter().zip(sizes) {
            self.run_whole(&signature, feeds, size)?;
        }
        ordered(&places(&fetches, &signature.fetches), outputs)
    }

    fn run_whole(
        &self,
        signature: &Arc<Signature>,
        feeds: Vec<Tensor>,
        rows: usize,
    ) -> Result<Vec<Tensor>> {
        let hold: Hold = Arc::new(());
        let now = Instant::now();
        let (task, mut answer) = Task::new(signature.clone(), feeds, rows, now, None, hold);
        let largest = self.parameters.limits().max_batch_size;
        let mut start = 0;
        loop {
            let end = (start + largest).min(rows);
            let entry = Entry { task: task.clone(), rows: start..end };
            run::run(vec![entry], &self.shared.metrics);
            start = end;
            if start >= rows {
                break;
            }
        }
        let (outputs, _) = answer.try_recv().unwrap_or_else(|_| Err(lost()))?;
        Ok(outputs)
    }

    /// How many rows a request has in its batch; `None` when it is not to be in any.
    fn rows(&self, feeds: &[(String, Tensor)], signature_name: &str) -> Result<Option<usize>> {
        let parameters = &self.parameters;
        if parameters.unbatched_signatures.iter().any(|name| name == signature_name) {
            return Ok(None);
        }
        match rows(feeds) {
            Ok(rows) => Ok(Some(rows)),
            Err(_) if parameters.run_unbatchable_alone => Ok(None),
            Err(status) => Err(status),
        }
    }

    fn signature(&self, feeds: Vec<String>, fetches: Vec<String>) -> Arc<Signature> {
        let (model, servable) = (self.model.clone(), self.servable.clone());
        Arc::new(Signature::new(model, servable, feeds, fetches, self.parameters.clone()))
    }

    fn queue(&self, feeds: &[(String, Tensor)], fetches: &[String]) -> Arc<SignatureQueue> {
        let names = Names::of(feeds, fetches);
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
        let signature = self.signature(key.feeds.clone(), key.fetches.clone());
        let Shared { pool, compute, metrics } = self.shared.clone();
        let line = if self.parameters.is_fixed() {
            let limits = self.parameters.limits();
            let ids =
                [Priority::High, Priority::Low].map(|priority| pool.add(limits.clone(), priority));
            Line::Fixed(ids, pool)
        } else {
            Line::Dynamic(Dynamic::new(signature.clone(), compute, metrics))
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

/// Tensors, by name.
fn sorted(mut feeds: Vec<(String, Tensor)>) -> Vec<Tensor> {
    feeds.sort_by(|(one, _), (other, _)| one.cmp(other));
    feeds.into_iter().map(|(_, tensor)| tensor).collect()
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

impl<'r> Names<'r> {
    fn of(feeds: &'r [(String, Tensor)], fetches: &'r [String]) -> Self {
        Self {
            feeds: sorted_names(feeds.iter().map(|(name, _)| name)),
            fetches: sorted_names(fetches),
        }
    }

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

#[cfg(test)]
mod tests {
    use super::testing::{ints, parameters, Echo, Runs, POISON};
    use super::*;

    fn queues(parameters: Parameters) -> (Queues, Runs) {
        let (echo, runs) = Echo::new(None);
        (queues_of(echo, parameters), runs)
    }

    fn queues_of(echo: Echo, parameters: Parameters) -> Queues {
        let metrics = Arc::new(Batching::default());
        let shared = Shared {
            pool: Arc::new(Pool::new(2, "batch".to_owned(), metrics.clone())),
            compute: Arc::new(Compute::new(2)),
            metrics,
        };
        Queues::new("m".to_owned(), Arc::new(echo), parameters, shared)
    }

    /// What a request with these rows is answered.
    async fn ask(queues: &Queues, values: &[i32]) -> Result<Vec<i32>> {
        let feeds = vec![("x:0".to_owned(), ints(&[values.len() as i64], values))];
        let fetches = vec!["y:0".to_owned()];
        let options = RunOptions::default();
        let outputs = match queues.admit(feeds, fetches, "", options, Arc::new(()))? {
            Admitted::Queued(mut ticket) => ticket.answer().await?.0,
            Admitted::AtOnce(feeds, fetches, leave) => {
                leave.run(feeds, &fetches, options, Instant::now())?.0
            }
            Admitted::Alone(..) => unreachable!("the servable takes batches"),
        };
        Ok(outputs[0].buffer().unwrap().elements::<i32>().to_vec())
    }

    #[test]
    fn everybody_gets_their_own_rows_and_poison_hurts_nobody_else() {
        const CLIENTS: i32 = 32;
        const REQUESTS: i32 = 300;
        let adaptive = Parameters { policy: "adaptive".to_owned(), ..parameters() };
        let splitting = Parameters {
            enable_large_batch_splitting: true,
            max_execution_batch_size: 3,
            allowed_batch_sizes: vec![2, 3, 16],
            max_enqueued_batches: 1000,
            ..parameters()
        };
        let fixed = Parameters { max_enqueued_batches: 1000, ..parameters() };
        for parameters in [adaptive, fixed, splitting] {
            let (queues, runs) =
                queues(Parameters { run_unbatchable_alone: true, ..parameters.clone() });
            let queues = Arc::new(queues);
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(async {
                let clients = (0..CLIENTS).map(|client| {
                    let queues = queues.clone();
                    tokio::spawn(async move {
                        for request in 0..REQUESTS {
                            let rows = 1 + (client + request) % 5;
                            let first = (client * REQUESTS + request) * 5;
                            let mut values: Vec<i32> = (first..first + rows).collect();
                            let is_poison = client == 0 && request % 4 == 0;
                            if is_poison {
                                values[0] = POISON;
                            }
                            let answer = ask(&queues, &values).await;
                            assert_eq!(answer.is_err(), is_poison, "{answer:?}");
                            assert!(is_poison || answer == Ok(values));
                        }
                    })
                });
                for client in clients.collect::<Vec<_>>() {
                    client.await.unwrap();
                }
            });
            // By themselves requests of four and five rows would run in two pieces of three.
            let pieces = if parameters.enable_large_batch_splitting { 7 } else { 5 };
            let (runs, alone) = (runs.lock().len(), CLIENTS * REQUESTS * pieces / 5);
            assert!(runs < alone as usize, "{runs} runs: nothing was batched");
        }
    }

    #[test]
    fn what_runs_here_is_a_batch_of_its_own_of_one_size_or_of_all() {
        let padding = Parameters {
            batch_timeout_s: 3600.0,
            allowed_batch_sizes: vec![2, 4, 16],
            ..parameters()
        };
        let run_here = |all_sizes| {
            let (queues, runs) = queues(padding.clone());
            let feeds = vec![("x:0".to_owned(), ints(&[3], &[5, 6, 7]))];
            let outputs = queues.run_here(feeds, vec!["y:0".to_owned()], "", all_sizes).unwrap();
            assert_eq!(outputs[0].buffer().unwrap().elements::<i32>(), [5, 6, 7]);
            let runs = runs.lock().clone();
            runs
        };

        assert_eq!(run_here(false), [[4]]);
        assert_eq!(run_here(true), [[4], [2], [16]]);
    }

    #[tokio::test]
    async fn queues_of_every_policy_show_what_ran_but_for_those_that_turned_out_to_be_none() {
        for policy in ["fixed", "adaptive"] {
            let observed = |output| async move {
                let (echo, _) = Echo::new(output);
                let parameters = Parameters {
                    policy: policy.to_owned(),
                    allowed_batch_sizes: vec![4, 16],
                    run_unbatchable_alone: true,
                    ..parameters()
                };
                let queues = queues_of(echo, parameters);
                ask(&queues, &[1, 2, 3]).await.unwrap();
                queues.observe()
            };

            let seen = observed(None).await;
            let [(_, seen)] = &seen[..] else { panic!("{policy}: {seen:?}") };
            assert_eq!((seen.counts.rows, seen.counts.batches), (3, 1), "{policy}");
            assert_eq!(seen.waiting_rows, 0, "{policy}");
            let seen = observed(Some(vec![1])).await;
            assert!(seen.is_empty(), "{policy}: {seen:?}");
        }
    }

    #[test]
    fn what_runs_here_is_refused_as_any_request() {
        let (queues, _) = queues(parameters());
        for (shape, values, text) in [
            (&[][..], vec![1], "Batching Run() input tensors must have at least one dimension"),
            (&[17], vec![1; 17], "Task size 17 is larger than maximum input batch size 16"),
        ] {
            let feeds = vec![("x:0".to_owned(), ints(shape, &values))];
            let refused = queues.run_here(feeds, vec!["y:0".to_owned()], "", false).map(drop);

            assert_eq!(refused.unwrap_err().message, text);
        }
    }
}
