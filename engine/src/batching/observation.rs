//! What a queue shows of itself, whoever decides about its batches, and the counting for that.
//!
//! Pure: time is an argument.

use std::time::{Duration, Instant};

use super::adaptive::{Costs, Decision, Reason};

/// What the queue of one signature shows of itself.
#[derive(Clone, Debug)]
pub struct Observation {
    pub waiting_rows: usize,
    pub in_flight: usize,
    /// Rows that came in a second, of late.
    pub arrival_rate: f64,
    pub decision: Decision,
    /// Whether the decision is that of a policy in Python.
    pub is_decided: bool,
    /// How long a request that comes now is expected to take, where somebody expects anything.
    pub expected_wait: Option<Duration>,
    /// What rows were found to cost, where somebody looks.
    pub costs: Costs,
    pub counts: Counts,
    pub refused: u64,
}

impl Observation {
    /// This queue and another that the same was decided about, as one.
    #[must_use]
    pub fn joined(self, other: &Self) -> Self {
        Self {
            waiting_rows: self.waiting_rows + other.waiting_rows,
            in_flight: self.in_flight + other.in_flight,
            arrival_rate: self.arrival_rate + other.arrival_rate,
            counts: self.counts.joined(&other.counts),
            refused: self.refused + other.refused,
            ..self
        }
    }
}

/// What ran so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Batches by why they had the size they had.
    pub reasons: [u64; Reason::ALL.len()],
    pub rows: u64,
    pub batches: u64,
}

impl Counts {
    /// A batch of so many rows was begun.
    pub fn count(&mut self, rows: usize, reason: Reason) {
        self.reasons[reason as usize] += 1;
        self.rows += rows as u64;
        self.batches += 1;
    }

    fn joined(mut self, other: &Self) -> Self {
        for (reason, count) in self.reasons.iter_mut().zip(other.reasons) {
            *reason += count;
        }
        self.rows += other.rows;
        self.batches += other.batches;
        self
    }
}

/// Rows that came, by the second.
#[derive(Debug, Default)]
pub struct Arrivals {
    rate: f64,
    rows: usize,
    since: Option<Instant>,
}

impl Arrivals {
    const SPAN: Duration = Duration::from_millis(250);

    pub fn came(&mut self, rows: usize, now: Instant) {
        self.look(now);
        self.rows += rows;
    }

    /// Rows a second over the last span that is over, which may have been a long one.
    pub fn look(&mut self, now: Instant) -> f64 {
        let span = now.saturating_duration_since(*self.since.get_or_insert(now));
        if span >= Self::SPAN {
            self.rate = self.rows as f64 / span.as_secs_f64();
            self.rows = 0;
            self.since = Some(now);
        }
        self.rate
    }
}
