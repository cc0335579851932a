//! The queue of one signature, as TensorFlow Serving forms batches: what fits, what waits, when a
//! batch is due.
//!
//! Pure: time is an argument, and what is queued is anything that can be cloned (a task whose rows
//! are split stands in several batches). Threads and tensors are elsewhere.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::adaptive::{Costs, Decision, Reason};
use super::observation::{Arrivals, Counts, Observation};
use crate::status::{Result, Status};

/// How large batches may be, how many may wait, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most rows of one task.
    pub max_task_size: usize,
    /// Most rows of one batch.
    pub max_batch_size: usize,
    /// Most batches that wait, the one that is being filled among them.
    pub max_enqueued_batches: usize,
    /// How long the first task of a batch waits for others.
    pub timeout: Duration,
    /// Whether a task may be spread over several batches.
    pub splits: bool,
}

impl Limits {
    /// # Errors
    /// INVALID_ARGUMENT when a task of `size` rows is larger than any may be.
    pub fn check_size(&self, size: usize) -> Result<()> {
        if size <= self.max_task_size {
            return Ok(());
        }
        Err(Status::invalid_argument(format!(
            "Task size {size} is larger than maximum input batch size {}",
            self.max_task_size
        )))
    }
}

/// Rows of a task that stand in one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    pub task: T,
    pub rows: Range<usize>,
}

/// What runs together, in the order in which it came.
pub type Batch<T> = Vec<Entry<T>>;

struct Filling<T> {
    entries: Batch<T>,
    size: usize,
    /// When its first task came.
    since: Option<Instant>,
}

impl<T> Default for Filling<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), size: 0, since: None }
    }
}

/// Batches that wait. The last of them is open: it takes what comes next.
pub struct Queue<T> {
    limits: Limits,
    closed: VecDeque<Filling<T>>,
    open: Filling<T>,
    is_closing: bool,
    in_flight: usize,
    arrivals: Arrivals,
    counts: Counts,
    refused: u64,
}

impl<T: Clone> Queue<T> {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            closed: VecDeque::new(),
            open: Filling::default(),
            is_closing: false,
            in_flight: 0,
            arrivals: Arrivals::default(),
            counts: Counts::default(),
            refused: 0,
        }
    }

    /// Put a task of `size` rows into the queue, and say into how many batches.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when it is larger than any task may be; UNAVAILABLE when there is no room.
    pub fn offer(&mut self, task: T, size: usize, now: Instant) -> Result<usize> {
        self.limits.check_size(size)?;
        self.arrivals.came(size, now);
        self.check_room(size).inspect_err(|_| self.refused += 1)?;
        let mut pieces = 0;
        let mut start = 0;
        loop {
            let limits = &self.limits;
            let free = limits.max_batch_size - self.open.size.min(limits.max_batch_size);
            let left = size - start;
            if left > free && (free == 0 || !limits.splits) {
                self.close_batch();
                continue;
            }
            let taken = left.min(free);
            self.open.since.get_or_insert(now);
            self.open.size += taken;
            self.open.entries.push(Entry { task: task.clone(), rows: start..start + taken });
            pieces += 1;
            start += taken;
            if start == size {
                return Ok(pieces);
            }
        }
    }

    /// The next batch, if one is due. It is in flight until [`Self::ended`].
    pub fn take(&mut self, now: Instant) -> Option<Batch<T>> {
        if self.due_at()? > now {
            return None;
        }
        let (batch, is_closed) = match self.closed.pop_front() {
            Some(batch) => (batch, true),
            None => (std::mem::take(&mut self.open), false),
        };
        let is_full = is_closed || batch.size >= self.limits.max_batch_size;
        self.counts.count(batch.size, if is_full { Reason::SizeLimit } else { Reason::QueueEmpty });
        self.in_flight += 1;
        Some(batch.entries)
    }

    /// A batch that was taken has been run.
    pub fn ended(&mut self) {
        self.in_flight -= 1;
    }

    /// What the queue shows of itself, where at most so many batches run at a time.
    pub fn observe(&mut self, max_in_flight: usize, now: Instant) -> Observation {
        let limits = &self.limits;
        Observation {
            waiting_rows: self.closed.iter().chain([&self.open]).map(|batch| batch.size).sum(),
            in_flight: self.in_flight,
            arrival_rate: self.arrivals.look(now),
            decision: Decision {
                size: limits.max_batch_size,
                wait: limits.timeout,
                in_flight: max_in_flight,
            },
            is_decided: false,
            expected_wait: None,
            costs: Costs::default(),
            counts: self.counts,
            refused: self.refused,
        }
    }

    /// When the next batch is due if nothing else comes; possibly in the past. `None`: never.
    pub fn due_at(&self) -> Option<Instant> {
        if let Some(batch) = self.closed.front() {
            return batch.since;
        }
        let since = self.open.since?;
        let is_full = self.open.size >= self.limits.max_batch_size;
        let waits = if is_full || self.is_closing { Duration::ZERO } else { self.limits.timeout };
        // A timeout beyond the end of time never comes.
        since.checked_add(waits)
    }

    /// Let go of what waits at once, and of what comes later, too.
    pub fn close(&mut self) {
        self.is_closing = true;
    }

    pub fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.open.entries.is_empty()
    }

    /// Batches that wait; the open one counts, be it empty.
    pub fn num_batches(&self) -> usize {
        self.closed.len() + 1
    }

    fn check_room(&self, size: usize) -> Result<()> {
        let Limits { max_batch_size, max_enqueued_batches, splits, .. } = self.limits;
        let (batches, open) = (self.num_batches(), self.open.size);
        const FULL: &str = "The batch scheduling queue to which this task was submitted is full";
        if !splits {
            if open + size > max_batch_size && batches >= max_enqueued_batches {
                return Err(Status::unavailable(format!(
                    "{FULL}; currently {batches} batches enqueued and max_enqueued_batches is \
                     {max_enqueued_batches}"
                )));
            }
            return Ok(());
        }
        let signed = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let whole = signed(max_enqueued_batches) - signed(batches);
        let capacity = whole
            .saturating_mul(signed(max_batch_size))
            .saturating_add(signed(max_batch_size - open));
        if signed(size) > capacity {
            return Err(Status::unavailable(format!(
                "{FULL}; task size is {size} but scheduling capacity is only {capacity} \
                 (num_enqueued_batches={batches}, max_enqueued_batches={max_enqueued_batches}, \
                 open_batch_size={open}, max_execution_batch_size={max_batch_size})"
            )));
        }
        Ok(())
    }

    fn close_batch(&mut self) {
        let batch = std::mem::take(&mut self.open);
        self.closed.push_back(batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn limits(max_batch_size: usize, max_enqueued_batches: usize) -> Limits {
        Limits {
            max_task_size: max_batch_size,
            max_batch_size,
            max_enqueued_batches,
            timeout: 10 * MS,
            splits: false,
        }
    }

    fn splitting(
        max_task_size: usize,
        max_batch_size: usize,
        max_enqueued_batches: usize,
    ) -> Limits {
        let limits = limits(max_batch_size, max_enqueued_batches);
        Limits { max_task_size, splits: true, ..limits }
    }

    /// Offer tasks, named by their position, all at once.
    fn offered(limits: Limits, sizes: &[usize], now: Instant) -> Queue<usize> {
        let mut queue = Queue::new(limits);
        for (task, &size) in sizes.iter().enumerate() {
            queue.offer(task, size, now).unwrap();
        }
        queue
    }

    /// What is taken as task, start and end of rows.
    fn taken(queue: &mut Queue<usize>, now: Instant) -> Vec<Vec<(usize, usize, usize)>> {
        let batches = std::iter::from_fn(|| queue.take(now));
        batches
            .map(|batch| batch.into_iter().map(|e| (e.task, e.rows.start, e.rows.end)).collect())
            .collect()
    }

    #[test]
    fn a_lone_task_waits_for_the_timeout_and_no_longer() {
        let now = Instant::now();
        let mut queue = offered(limits(4, 10), &[1], now);

        assert!(queue.take(now + 9 * MS).is_none());
        assert_eq!(queue.due_at(), Some(now + 10 * MS));
        assert_eq!(taken(&mut queue, now + 10 * MS), [[(0, 0, 1)]]);
        assert_eq!(queue.due_at(), None);
    }

    #[test]
    fn the_timeout_counts_from_the_first_task_of_a_batch() {
        let now = Instant::now();
        let mut queue = offered(limits(4, 10), &[1], now);
        queue.offer(1, 1, now + 8 * MS).unwrap();

        assert_eq!(taken(&mut queue, now + 10 * MS), [[(0, 0, 1), (1, 0, 1)]]);
    }

    #[test]
    fn batches_are_formed_as_specified() {
        let split = splitting(20, 4, 10);
        for (what, limits, sizes, expected) in [
            (
                "a full batch waits for nothing",
                limits(4, 10),
                &[2, 2][..],
                vec![vec![(0, 0, 2), (1, 0, 2)]],
            ),
            (
                "what does not fit closes the batch, and nothing is reordered",
                limits(4, 10),
                &[3, 2, 1][..],
                vec![vec![(0, 0, 3)]],
            ),
            (
                "a closed batch stays under-full",
                limits(4, 10),
                &[3, 4, 1][..],
                vec![vec![(0, 0, 3)], vec![(1, 0, 4)]],
            ),
            ("no rows wait like one row", limits(4, 10), &[0][..], vec![]),
            (
                "no rows fit into a full batch",
                limits(4, 10),
                &[4, 0][..],
                vec![vec![(0, 0, 4), (1, 0, 0)]],
            ),
            (
                "the first piece fills the open batch",
                split.clone(),
                &[3, 6][..],
                vec![vec![(0, 0, 3), (1, 0, 1)], vec![(1, 1, 5)]],
            ),
            (
                "pieces are whole batches, and the last is what is left",
                split.clone(),
                &[11][..],
                vec![vec![(0, 0, 4)], vec![(0, 4, 8)]],
            ),
            (
                "a task of whole batches leaves nothing behind",
                split,
                &[8][..],
                vec![vec![(0, 0, 4)], vec![(0, 4, 8)]],
            ),
        ] {
            let now = Instant::now();
            assert_eq!(taken(&mut offered(limits, sizes, now), now), expected, "{what}");
        }
    }

    #[test]
    fn what_is_refused() {
        let full = "The batch scheduling queue to which this task was submitted is full;";
        for (limits, sizes, expected) in [
            (limits(4, 10), &[5][..], "INVALID_ARGUMENT: Task size 5 is larger than maximum input batch size 4".to_owned()),
            (splitting(16, 4, 10), &[17], "INVALID_ARGUMENT: Task size 17 is larger than maximum input batch size 16".to_owned()),
            (limits(1, 1), &[1, 1], format!("UNAVAILABLE: {full} currently 1 batches enqueued and max_enqueued_batches is 1")),
            (limits(4, 2), &[3, 3, 2], format!("UNAVAILABLE: {full} currently 2 batches enqueued and max_enqueued_batches is 2")),
            (splitting(16, 4, 2), &[3, 6], format!("UNAVAILABLE: {full} task size is 6 but scheduling capacity is only 5 (num_enqueued_batches=1, max_enqueued_batches=2, open_batch_size=3, max_execution_batch_size=4)")),
            (splitting(16, 4, 0), &[1], format!("UNAVAILABLE: {full} task size is 1 but scheduling capacity is only 0 (num_enqueued_batches=1, max_enqueued_batches=0, open_batch_size=0, max_execution_batch_size=4)")),
        ] {
            let now = Instant::now();
            let (last, before) = sizes.split_last().unwrap();
            let mut queue = offered(limits, before, now);

            let refused = queue.offer(9, *last, now).unwrap_err();
            assert_eq!(refused.to_string(), expected);
        }
    }

    #[test]
    fn a_queue_that_closes_lets_go_at_once() {
        let now = Instant::now();
        let mut queue = offered(limits(4, 10), &[1], now);
        queue.close();

        assert_eq!(taken(&mut queue, now), [[(0, 0, 1)]]);
    }

    #[test]
    fn it_shows_what_waits_runs_and_ran_and_why_batches_were_no_larger() {
        let now = Instant::now();
        let mut queue = offered(limits(4, 2), &[3, 2], now);
        queue.offer(9, 3, now).unwrap_err();
        queue.take(now + 10 * MS).unwrap();
        queue.take(now + 10 * MS).unwrap();
        queue.offer(2, 1, now + 10 * MS).unwrap();
        queue.ended();

        let seen = queue.observe(5, now + 1000 * MS);

        let decision = Decision { size: 4, wait: 10 * MS, in_flight: 5 };
        assert_eq!(seen.decision, decision);
        assert_eq!((seen.waiting_rows, seen.in_flight, seen.refused), (1, 1, 1));
        assert!((seen.arrival_rate - 9.0).abs() < 1e-9, "{}", seen.arrival_rate);
        let [queue_empty, size_limit, trial] = seen.counts.reasons;
        assert_eq!([queue_empty, size_limit, trial], [1, 1, 0]);
        assert_eq!((seen.counts.rows, seen.counts.batches), (5, 2));
    }

    #[test]
    fn a_timeout_beyond_the_end_of_time_never_comes() {
        let now = Instant::now();
        let limits = Limits { timeout: Duration::MAX, ..limits(4, 10) };

        assert_eq!(offered(limits, &[1], now).due_at(), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Offer(usize),
        Pass(u64),
        Take,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0_usize..14).prop_map(Step::Offer),
            1 => (0_u64..12).prop_map(Step::Pass),
            2 => Just(Step::Take),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn no_row_is_lost_or_doubled_and_order_and_sizes_are_kept(
            steps in steps(),
            max_batch_size in 1_usize..6,
            max_enqueued_batches in 1_usize..5,
            splits: bool,
        ) {
            let limits = if splits {
                splitting(12, max_batch_size, max_enqueued_batches)
            } else {
                limits(max_batch_size, max_enqueued_batches)
            };
            let mut queue = Queue::new(limits.clone());
            let mut now = Instant::now();
            let mut came = Vec::new();
            let mut went = Vec::new();
            let mut refused = 0;
            for (task, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Offer(size) => match queue.offer(task, size, now) {
                        Ok(pieces) => {
                            prop_assert!(size <= limits.max_task_size);
                            prop_assert!(pieces == 1 || splits);
                            came.push((task, size));
                        }
                        Err(_) => refused += u64::from(size <= limits.max_task_size),
                    },
                    Step::Pass(ms) => now += u32::try_from(ms).unwrap() * MS,
                    Step::Take => {
                        let due = queue.due_at();
                        let batch = queue.take(now);
                        prop_assert_eq!(batch.is_some(), due.is_some_and(|due| due <= now));
                        went.extend(batch);
                    }
                }
                prop_assert!(queue.num_batches() <= max_enqueued_batches);
                let seen = queue.observe(1, now);
                let all_rows: usize = came.iter().map(|(_, size)| size).sum();
                prop_assert_eq!(seen.counts.rows, (all_rows - seen.waiting_rows) as u64);
                prop_assert_eq!(seen.counts.batches, went.len() as u64);
                prop_assert_eq!(seen.in_flight, went.len());
                prop_assert_eq!(seen.refused, refused);
            }
            queue.close();
            went.extend(std::iter::from_fn(|| queue.take(now)));

            prop_assert!(queue.is_empty());
            let mut rebuilt: Vec<(usize, usize)> = Vec::new();
            for batch in &went {
                prop_assert!(batch.iter().map(|e| e.rows.len()).sum::<usize>() <= max_batch_size);
                prop_assert!(!batch.is_empty());
                for Entry { task, rows } in batch {
                    match rebuilt.last_mut() {
                        Some((last, end)) if last == task => {
                            prop_assert_eq!(*end, rows.start);
                            *end = rows.end;
                        }
                        _ => {
                            prop_assert_eq!(rows.start, 0);
                            rebuilt.push((*task, rows.end));
                        }
                    }
                }
            }
            prop_assert_eq!(rebuilt, came);
        }
    }
}
