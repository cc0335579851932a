//! The queue of one log, and the thread that empties it into files.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::files::{frame, Files, Limits};
use super::{Complain, Record};
use crate::status::Code;

/// How long to say nothing of a problem that was told of.
const SILENCE: Duration = Duration::from_secs(60);

/// Takes records, and has them written by a thread of its own.
pub struct Writer {
    limits: Limits,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Bytes of the records that were taken and are not written.
    bytes: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    records: VecDeque<Record>,
    is_closing: bool,
    is_closed: bool,
}

impl Writer {
    pub fn start(prefix: &str, limits: Limits, complain: Complain) -> Arc<Self> {
        let writer = Arc::new(Self {
            limits,
            queue: Mutex::default(),
            changed: Condvar::new(),
            bytes: AtomicUsize::new(0),
        });
        let mut task = Task {
            writer: writer.clone(),
            files: Files::new(prefix, limits),
            complain,
            told: None,
        };
        let prefix = prefix.to_owned();
        let started = std::thread::Builder::new().name("request-log".to_owned()).spawn(move || {
            task.run(&prefix);
            task.writer.queue.lock().is_closed = true;
            task.writer.changed.notify_all();
        });
        if started.is_err() {
            // Then nothing is taken, and everything is counted as dropped.
            let mut queue = writer.queue.lock();
            (queue.is_closing, queue.is_closed) = (true, true);
        }
        writer
    }

    pub fn queued_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn has_room(&self, size: usize) -> bool {
        self.queued_bytes() + size <= self.limits.queue_bytes
    }

    /// Take a record; false if there is no room, or the log was closed.
    pub fn push(&self, record: Record) -> bool {
        let size = record.byte_size();
        let mut queue = self.queue.lock();
        if queue.is_closing || !self.has_room(size) {
            return false;
        }
        self.bytes.fetch_add(size, Ordering::Relaxed);
        queue.records.push_back(record);
        drop(queue);
        self.changed.notify_all();
        true
    }

    /// Take nothing any more, and finish what was taken; does not wait.
    pub fn close(&self) {
        self.queue.lock().is_closing = true;
        self.changed.notify_all();
    }

    /// Whether everything was written by `give_up_at`.
    pub fn wait_until_closed(&self, give_up_at: Instant) -> bool {
        let mut queue = self.queue.lock();
        while !queue.is_closed {
            if self.changed.wait_until(&mut queue, give_up_at).timed_out() {
                return queue.is_closed;
            }
        }
        true
    }
}

/// What the thread has.
struct Task {
    writer: Arc<Writer>,
    files: Files,
    complain: Complain,
    /// When a problem was told of last.
    told: Option<Instant>,
}

impl Task {
    fn run(&mut self, prefix: &str) {
        let finished = self.files.finish_leftovers();
        self.wrote(prefix, finished);
        let mut framed = Vec::new();
        while let Some(records) = self.next() {
            for record in records {
                framed.clear();
                frame(&mut framed, |out| record.write(out));
                let now = Instant::now();
                let written = self.files.append(&framed, now);
                record.counts.count(written.as_ref().map_or_else(code, |()| Code::Ok));
                self.writer.bytes.fetch_sub(record.byte_size(), Ordering::Relaxed);
                let ended = written.and_then(|()| self.files.finish_if_due(now));
                self.wrote(prefix, ended);
            }
            let ended = self.files.finish_if_due(Instant::now());
            self.wrote(prefix, ended);
        }
        let ended = self.files.finish();
        self.wrote(prefix, ended);
    }

    /// Wait for records, or until the open file is due; `None` when there will be no more.
    fn next(&self) -> Option<VecDeque<Record>> {
        let mut queue = self.writer.queue.lock();
        loop {
            if !queue.records.is_empty() {
                return Some(std::mem::take(&mut queue.records));
            }
            if queue.is_closing {
                return None;
            }
            match self.files.due_at() {
                None => self.writer.changed.wait(&mut queue),
                Some(due_at) => {
                    if self.writer.changed.wait_until(&mut queue, due_at).timed_out() {
                        return Some(VecDeque::new());
                    }
                }
            }
        }
    }

    /// Remove files that are too many if one was `finished`, and tell of what went wrong.
    fn wrote(&mut self, prefix: &str, finished: io::Result<Option<PathBuf>>) {
        match finished {
            Ok(None) => {}
            Ok(Some(finished)) => {
                if let Err(error) = self.files.remove_oldest(&finished) {
                    self.tell(&format!("Old files {prefix}-* cannot be removed: {error}"));
                }
            }
            Err(error) => self.tell(&format!("Requests cannot be logged to {prefix}-*: {error}")),
        }
    }

    fn tell(&mut self, problem: &str) {
        if self.told.is_some_and(|told| told.elapsed() < SILENCE) {
            return;
        }
        self.told = Some(Instant::now());
        (self.complain)(problem);
    }
}

fn code(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::NotFound => Code::NotFound,
        io::ErrorKind::PermissionDenied => Code::PermissionDenied,
        _ if error.raw_os_error() == Some(libc::ENOSPC) => Code::ResourceExhausted,
        _ => Code::Unavailable,
    }
}
