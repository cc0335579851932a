//! What waits in a queue whose sizes are decided while it runs, and what runs next.
//!
//! Pure, as `queue` is for fixed parameters: time is an argument, and what is queued is anything
//! that can be cloned. `dynamic` carries out what is decided here.

use std::time::{Duration, Instant};

use super::adaptive::{Adaptive, Decision, Reason};
use super::observation::{Arrivals, Counts, Observation};
use super::queue::{Batch, Entry};
use super::scheduler::Priority;
use crate::turns::{Client, Turns};

/// The queue of one signature.
pub struct Waiting<T> {
    /// By priority, with the times at which they came.
    entries: [Turns<(Instant, Entry<T>)>; 2],
    rows: usize,
    in_flight: usize,
    policy: Adaptive,
    /// What a policy in Python decided last.
    decided: Option<Decision>,
    arrivals: Arrivals,
    solitude: Solitude,
    counts: Counts,
}

/// A batch that is to run now.
pub struct Formed<T> {
    pub batch: Batch<T>,
    pub rows: usize,
    /// Whether others ran when it was formed.
    pub beside: bool,
}

impl<T: Clone> Waiting<T> {
    pub fn new(policy: Adaptive) -> Self {
        Self {
            entries: Default::default(),
            rows: 0,
            in_flight: 0,
            policy,
            decided: None,
            arrivals: Arrivals::default(),
            solitude: Solitude::default(),
            counts: Counts::default(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.iter().all(Turns::is_empty)
    }

    /// Rows that wait.
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn has_place(&self) -> bool {
        self.in_flight < self.decision().in_flight
    }

    pub fn policy(&self) -> &Adaptive {
        &self.policy
    }

    /// What is in force.
    pub fn decision(&self) -> Decision {
        self.decided.unwrap_or_else(|| self.policy.decision())
    }

    /// Take over what a policy in Python decided; it holds until the next time.
    pub fn decide(&mut self, decision: Decision) {
        self.decided = Some(decision);
    }

    /// Rows came, whatever becomes of them.
    pub fn came(&mut self, rows: usize, now: Instant) {
        self.arrivals.came(rows, now);
    }

    /// Put a client's task of `rows` rows into the queue, in pieces of at most `largest` rows.
    pub fn push(
        &mut self,
        task: &T,
        rows: usize,
        largest: usize,
        (priority, client): (Priority, Client),
        now: Instant,
    ) {
        let mut start = 0_usize;
        loop {
            let end = start.saturating_add(largest.max(1)).min(rows);
            let entry = Entry { task: task.clone(), rows: start..end };
            self.entries[priority as usize].push(client, (now, entry));
            start = end;
            if start >= rows {
                break;
            }
        }
        self.rows += rows;
    }

    /// The next batch, where something waits and there is a place.
    pub fn form(&mut self) -> Option<Formed<T>> {
        if self.is_empty() || !self.has_place() {
            return None;
        }
        let (size, is_trial) = match self.decided {
            Some(decision) => (decision.size, false),
            None => self.policy.next_size(),
        };
        let mut batch = Batch::new();
        let mut rows = 0;
        let mut is_full = false;
        'filling: for waiting in &mut self.entries {
            while let Some((_, entry)) = waiting.front() {
                if rows + entry.rows.len() > size && !batch.is_empty() {
                    is_full = true;
                    break 'filling;
                }
                rows += entry.rows.len();
                batch.extend(waiting.pop().map(|(_, entry)| entry));
            }
        }
        self.rows -= rows;
        self.in_flight += 1;
        let beside = self.in_flight > 1;
        self.solitude.ran(batch.len() == 1 && !is_full && !beside);
        self.counts.count(
            rows,
            match (is_full, is_trial) {
                (false, _) => Reason::QueueEmpty,
                (true, true) => Reason::Trial,
                (true, false) => Reason::SizeLimit,
            },
        );
        Some(Formed { batch, rows, beside })
    }

    /// Let a task of `rows` rows run without being queued, where `is_quick` and nobody is there
    /// whose company it would miss. It runs from now on.
    pub fn form_at_once(&mut self, rows: usize, is_quick: impl FnOnce() -> bool) -> bool {
        let decision = self.decision();
        let is_idle = self.is_empty() && self.in_flight == 0;
        let is_free = is_idle && decision.wait.is_zero() && rows <= decision.size;
        if !is_free || !self.solitude.is_certain() || !is_quick() {
            return false;
        }
        self.solitude.ran_at_once();
        self.in_flight += 1;
        self.counts.count(rows, Reason::QueueEmpty);
        true
    }

    /// A batch has ended; `rows` are 0 where the time tells nothing of their cost.
    pub fn ended(&mut self, rows: usize, beside: bool, took: Duration) {
        self.in_flight -= 1;
        self.policy.ran(rows, beside, took);
    }

    /// Until when a batch that is not full is to wait for more rows; possibly in the past.
    pub fn waits_until(&self) -> Option<Instant> {
        let decision = self.decision();
        if self.rows >= decision.size || decision.wait.is_zero() {
            return None;
        }
        let came = self.entries.iter().flat_map(Turns::iter).map(|(came, _)| *came);
        came.min()?.checked_add(decision.wait)
    }

    pub fn observe(&mut self, refused: u64, now: Instant) -> Observation {
        Observation {
            waiting_rows: self.rows,
            in_flight: self.in_flight,
            arrival_rate: self.arrivals.look(now),
            decision: self.decision(),
            is_decided: self.decided.is_some(),
            expected_wait: self.policy.expected_wait(self.rows),
            costs: self.policy.costs().clone(),
            counts: self.counts,
            refused,
        }
    }
}

/// Whether tasks come one by one.
///
/// What runs where it was read finds no company, because nobody reads meanwhile. So that is done
/// only after some tasks in a row have looked for company and found none, and not for long before
/// the next looks again.
#[derive(Debug, Default)]
struct Solitude {
    /// Tasks in a row that were queued and ran alone.
    alone: u32,
    /// Tasks since then that were not queued.
    at_once: u32,
}

impl Solitude {
    const CERTAIN: u32 = 4;
    const UNTIL_NEXT_LOOK: u32 = 16;

    fn ran(&mut self, was_alone: bool) {
        self.alone = if was_alone { (self.alone + 1).min(Self::CERTAIN) } else { 0 };
        self.at_once = 0;
    }

    fn ran_at_once(&mut self) {
        self.at_once += 1;
    }

    fn is_certain(&self) -> bool {
        self.alone >= Self::CERTAIN && self.at_once < Self::UNTIL_NEXT_LOOK
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use proptest::prelude::*;

    const HIGH: (Priority, Client) = (Priority::High, Client::NOBODY);

    fn waiting(size: usize, in_flight: usize) -> Waiting<usize> {
        let mut waiting = Waiting::new(Adaptive::new(size, in_flight, None));
        waiting.decide(Decision { size, wait: Duration::ZERO, in_flight });
        waiting
    }

    /// Serve tasks of one row that come as many at a time as `crowds` says; which of the first of
    /// each were not queued.
    fn at_once(crowds: &[usize]) -> Vec<bool> {
        let mut waiting = waiting(64, 2);
        let now = Instant::now();
        let mut ran = Vec::new();
        for &crowd in crowds {
            let is_at_once = waiting.form_at_once(1, || true);
            ran.push(is_at_once);
            if is_at_once {
                waiting.ended(1, false, Duration::from_micros(5));
            }
            for task in usize::from(is_at_once)..crowd {
                waiting.push(&task, 1, 64, HIGH, now);
            }
            while let Some(formed) = waiting.form() {
                waiting.ended(formed.rows, formed.beside, Duration::from_micros(5));
            }
        }
        ran
    }

    #[test]
    fn who_is_alone_is_not_queued_but_for_a_look_now_and_then() {
        let ran = at_once(&[1; 100]);

        assert_eq!(ran[..4], [false; 4]);
        assert_eq!(ran[4..20], [true; 16]);
        assert!(!ran[20]);
        assert_eq!(ran[21..37], [true; 16]);
    }

    #[test]
    fn who_has_company_is_queued() {
        assert!(!at_once(&[2; 100]).contains(&true));
        // And so is everybody, from the next look on, once others have come.
        let ran = at_once(&[[1; 10], [9; 10], [9; 10], [9; 10]].concat());
        assert_eq!(ran.iter().rposition(|&is_at_once| is_at_once), Some(10));
    }

    #[test]
    fn nobody_runs_at_once_beside_others_or_where_batches_wait_or_are_smaller() {
        let alone = || {
            let mut waiting = waiting(4, 2);
            for task in 0..4 {
                waiting.push(&task, 1, 4, HIGH, Instant::now());
                let formed = waiting.form().unwrap();
                waiting.ended(formed.rows, formed.beside, Duration::from_micros(5));
            }
            waiting
        };
        assert!(alone().form_at_once(4, || true));
        assert!(!alone().form_at_once(5, || true));
        assert!(!alone().form_at_once(1, || false));

        let mut queued = alone();
        queued.push(&9, 1, 4, HIGH, Instant::now());
        assert!(!queued.form_at_once(1, || true));
        let mut running = alone();
        assert!(running.form_at_once(1, || true));
        assert!(!running.form_at_once(1, || true));
        let mut patient = alone();
        patient.decide(Decision { size: 4, wait: Duration::from_secs(1), in_flight: 2 });
        assert!(!patient.form_at_once(1, || true));
    }

    #[test]
    fn clients_take_turns_in_batches_and_the_oldest_says_how_long_is_waited() {
        let mut waiting = waiting(3, 2);
        let began = Instant::now();
        let clients = [Client::connected(), Client::connected()];
        for (task, client) in [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 1), (7, 1)] {
            let now = began + Duration::from_millis(task as u64);
            waiting.push(&task, 1, 3, (Priority::High, clients[client]), now);
        }
        let mut next = || {
            let formed = waiting.form().map(|formed| formed.batch).unwrap_or_default();
            formed.into_iter().map(|entry| entry.task).collect::<Vec<_>>()
        };
        assert_eq!((next(), next()), (vec![1, 6, 2], vec![7, 3, 4]));

        let wait = Duration::from_secs(1);
        waiting.push(&8, 1, 3, (Priority::High, clients[1]), began + wait);
        waiting.decide(Decision { size: 3, wait, in_flight: 2 });
        assert_eq!(waiting.waits_until(), Some(began + Duration::from_millis(5) + wait));
    }

    proptest! {
        #[test]
        fn no_row_is_lost_or_doubled_and_order_and_sizes_are_kept(
            // Rows and priority of a task that comes; `None`: the oldest batch ends.
            steps in prop::collection::vec(prop::option::of((0_usize..20, any::<bool>())), 0..60),
            sizes in prop::collection::vec(1_usize..9, 1..60),
            largest in 1_usize..9,
            in_flight in 1_usize..4,
        ) {
            let now = Instant::now();
            let mut waiting = waiting(1, in_flight);
            let mut came: [Vec<(usize, usize)>; 2] = Default::default();
            let mut went: [Vec<(usize, usize)>; 2] = Default::default();
            let mut priorities = Vec::new();
            let mut running = VecDeque::new();
            let mut sizes = sizes.into_iter().cycle();
            let ends = std::iter::repeat_n(None, 500);
            for step in steps.into_iter().chain(ends) {
                match step {
                    Some((rows, is_low)) => {
                        let priority = if is_low { Priority::Low } else { Priority::High };
                        let task = priorities.len();
                        priorities.push(priority);
                        came[priority as usize].push((task, rows));
                        waiting.push(&task, rows, largest, (priority, Client::NOBODY), now);
                    }
                    None => if let Some(rows) = running.pop_front() {
                        waiting.ended(rows, false, Duration::from_micros(9));
                    },
                }
                let size = sizes.next().unwrap_or(1);
                waiting.decide(Decision { size, wait: Duration::ZERO, in_flight });
                while let Some(formed) = waiting.form() {
                    prop_assert!(formed.rows <= size.max(largest) && !formed.batch.is_empty());
                    prop_assert!(formed.rows <= size || formed.batch.len() == 1);
                    let rows = formed.batch.iter().map(|entry| entry.rows.len()).sum::<usize>();
                    prop_assert_eq!(rows, formed.rows);
                    for Entry { task, rows } in formed.batch {
                        let went = &mut went[priorities[task] as usize];
                        match went.last_mut() {
                            Some((last, end)) if *last == task => {
                                prop_assert_eq!(*end, rows.start);
                                *end = rows.end;
                            }
                            _ => {
                                prop_assert_eq!(rows.start, 0);
                                went.push((task, rows.end));
                            }
                        }
                    }
                    running.push_back(formed.rows);
                    prop_assert!(running.len() <= in_flight);
                }
            }

            prop_assert!(waiting.is_empty());
            prop_assert_eq!(waiting.rows(), 0);
            prop_assert_eq!(went, came);
        }
    }
}
