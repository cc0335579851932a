//! One request's rows on their way through a queue: what is fed, who waits, what came back so far.

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::signature::Signature;
use super::tensors::{self, Part};
use crate::abandoned::Going;
use crate::metrics::Run;
use crate::status::{Result, Status};
use crate::tensor::Tensor;

/// Outputs in the order of the signature's fetches, and when they were made.
pub type Answer = Result<(Vec<Tensor>, Run)>;

/// Whatever has to live for as long as a task may still run.
pub type Hold = Arc<dyn Any + Send + Sync>;

/// Shared by the waiter and by every batch that has rows of it.
pub struct Task {
    pub signature: Arc<Signature>,
    pub rows: usize,
    pub arrived: Instant,
    pub deadline: Option<Instant>,
    /// In the order of the signature's feeds; taken when they are handed to the runtime.
    feeds: Mutex<Arc<Vec<Tensor>>>,
    /// The first batch that rows of it are in.
    batch: OnceLock<Weak<Going>>,
    progress: Mutex<Progress>,
    _hold: Hold,
}

struct Progress {
    reply: Option<oneshot::Sender<Answer>>,
    /// First row and outputs of what has run.
    parts: Vec<(usize, Vec<Tensor>)>,
    rows_done: usize,
    run: Option<Run>,
}

impl Task {
    pub fn new(
        signature: Arc<Signature>,
        feeds: Vec<Tensor>,
        rows: usize,
        arrived: Instant,
        deadline: Option<Instant>,
        hold: Hold,
    ) -> (Arc<Self>, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        let progress = Progress { reply: Some(reply), parts: Vec::new(), rows_done: 0, run: None };
        let task = Self {
            signature,
            rows,
            arrived,
            deadline,
            feeds: Mutex::new(Arc::new(feeds)),
            batch: OnceLock::new(),
            progress: Mutex::new(progress),
            _hold: hold,
        };
        (Arc::new(task), answer)
    }

    /// What is fed. All of it, when `rows` are the whole task: it is then taken from the task.
    pub fn feeds(&self, rows: &Range<usize>) -> Arc<Vec<Tensor>> {
        let mut feeds = self.feeds.lock();
        if self.is_whole(rows) {
            std::mem::take(&mut feeds)
        } else {
            feeds.clone()
        }
    }

    pub fn is_whole(&self, rows: &Range<usize>) -> bool {
        rows.len() == self.rows
    }

    /// Say that rows are being run, in this batch.
    pub fn begin(&self, batch: &Arc<Going>) {
        self.batch.get_or_init(|| Arc::downgrade(batch));
    }

    pub fn has_begun(&self) -> bool {
        self.batch.get().is_some()
    }

    /// The batch that it is run in, if it is.
    pub fn going(&self) -> Option<Weak<Going>> {
        self.batch.get().cloned()
    }

    /// Whether somebody still waits for an answer.
    pub fn is_wanted(&self) -> bool {
        self.progress.lock().reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }

    pub fn is_expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Answer with an error, unless there was an answer already.
    pub fn fail(&self, status: Status) {
        if let Some(reply) = self.progress.lock().reply.take() {
            // Nobody may be waiting any more.
            let _ = reply.send(Err(status));
        }
    }

    /// Take the outputs of some rows; the last of them complete the answer.
    pub fn succeed(&self, rows: &Range<usize>, outputs: Vec<Tensor>, run: Run) {
        let mut progress = self.progress.lock();
        progress.rows_done += rows.len();
        let began = progress.run.map_or(run.began, |before| before.began.min(run.began));
        let run = Run { began, ended: run.ended };
        progress.run = Some(run);
        if self.is_whole(rows) {
            if let Some(reply) = progress.reply.take() {
                let _ = reply.send(Ok((outputs, run)));
            }
            return;
        }
        progress.parts.push((rows.start, outputs));
        if progress.rows_done < self.rows {
            return;
        }
        let mut parts = std::mem::take(&mut progress.parts);
        let reply = progress.reply.take();
        drop(progress);
        parts.sort_by_key(|(start, _)| *start);
        if let Some(reply) = reply {
            let _ = reply.send(joined(&parts).map(|outputs| (outputs, run)));
        }
    }
}

/// The outputs of several pieces as the outputs of the task.
fn joined(parts: &[(usize, Vec<Tensor>)]) -> Result<Vec<Tensor>> {
    let count = parts.first().map_or(0, |(_, outputs)| outputs.len());
    (0..count)
        .map(|at| {
            let outputs = parts.iter().map(|(_, outputs)| &outputs[at]);
            let kind = |tensor: &Tensor| (tensor.dtype(), tensors::row_shape(tensor).to_vec());
            let first = kind(&parts[0].1[at]);
            if outputs.clone().any(|tensor| kind(tensor) != first) {
                return Err(Status::failed_precondition(
                    "The batches that a request was split into gave outputs of different shapes",
                ));
            }
            let parts: Vec<Part<'_>> = outputs
                .map(|tensor| Part::new(tensor, &(0..tensors::rows(tensor).unwrap_or_default())))
                .collect();
            tensors::join(&parts, 0)
        })
        .collect()
}
