//! Finds sizes by itself: learns from every batch what a row costs at each size, and decides how
//! many rows run together, how many batches at a time, and whom there is no time for.
//!
//! Pure: what happened comes in with its time, decisions go out. It never waits while a batch
//! could run, needs no phase of training, and asks for nothing but a target, if even that.

use std::time::Duration;

/// How the next batches are to be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Most rows of a batch.
    pub size: usize,
    /// How long the first row of a batch may wait for others while a batch could run.
    pub wait: Duration,
    /// Most batches that run at a time.
    pub in_flight: usize,
}

/// What a row costs, by the size of its batch.
#[derive(Clone, Debug, Default)]
pub struct Costs([Cell; SIZES]);

/// Sizes are looked at by powers of two; no batch is larger than the last.
const SIZES: usize = 21;

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    /// Seconds of a row, as they mostly were of late; 0 before the first.
    row_s: f64,
    batches: u64,
}

fn class(size: usize) -> usize {
    let bits = size.max(1).next_power_of_two().trailing_zeros() as usize;
    bits.min(SIZES - 1)
}

impl Costs {
    /// How much a batch counts that was cheaper than those before, and one that was dearer. A
    /// thread that loses its core has not made a row dearer, so that the cheaper ones are believed.
    const CHEAPER: f64 = 0.3;
    const DEARER: f64 = 0.1;
    /// No batch counts as more than so many times as dear.
    const MUCH_DEARER: f64 = 2.0;

    fn record(&mut self, size: usize, took: Duration) {
        let cell = &mut self.0[class(size)];
        let row_s = (took.as_secs_f64() / size.max(1) as f64).max(1e-9);
        cell.row_s = match cell.batches {
            0 => row_s,
            // The first run of a size often pays for what no later one does.
            1 => row_s.min(cell.row_s),
            _ if row_s < cell.row_s => cell.row_s + Self::CHEAPER * (row_s - cell.row_s),
            _ => {
                let row_s = row_s.min(cell.row_s * Self::MUCH_DEARER);
                cell.row_s + Self::DEARER * (row_s - cell.row_s)
            }
        };
        cell.batches += 1;
    }

    /// Sizes that ran, with the seconds of a row and how often that was.
    pub fn known(&self) -> impl Iterator<Item = (usize, f64, u64)> + '_ {
        let all = self.0.iter().enumerate().filter(|(_, cell)| cell.batches > 0);
        all.map(|(class, cell)| (1 << class, cell.row_s, cell.batches))
    }

    /// Seconds of a batch of `size` rows, by the nearest sizes that ran: it is taken to cost no more
    /// for each row than a smaller one, and no more than a larger one. `None` before anything ran.
    pub fn batch_s(&self, size: usize) -> Option<f64> {
        let wanted = class(size);
        let below = self.0[..=wanted].iter().rev().find(|cell| cell.batches > 0);
        let above = self.0.iter().enumerate().skip(wanted).find(|(_, cell)| cell.batches > 0);
        let below_s = below.map(|cell| cell.row_s * size as f64);
        let above_s = above.map(|(class, cell)| cell.row_s * (1_u64 << class) as f64);
        match (below_s, above_s) {
            (Some(below_s), Some(above_s)) => Some(below_s.min(above_s)),
            (below_s, above_s) => below_s.or(above_s),
        }
    }

    fn is_known(&self, size: usize) -> bool {
        self.0[class(size)].batches > 0
    }
}

/// Why a batch has the size it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing else waited.
    QueueEmpty,
    /// More would have cost more for each row, or taken longer than the target allows.
    SizeLimit,
    /// To see what another size costs.
    Trial,
}

impl Reason {
    pub const ALL: [Self; 3] = [Self::QueueEmpty, Self::SizeLimit, Self::Trial];

    pub fn name(self) -> &'static str {
        match self {
            Self::QueueEmpty => "queue_empty",
            Self::SizeLimit => "size_limit",
            Self::Trial => "trial",
        }
    }
}

/// The policy of one queue.
#[derive(Clone, Debug)]
pub struct Adaptive {
    /// Costs of batches that ran by themselves, and of those that ran beside others.
    costs: [Costs; 2],
    max_size: usize,
    max_in_flight: usize,
    target: Option<Duration>,
    decision: Decision,
    batches: u64,
}

impl Adaptive {
    /// Larger batches have to be this much cheaper for each row than smaller ones.
    const WORTHWHILE: f64 = 0.97;
    /// Every so many batches another size is tried: larger and smaller by turns, from twice to
    /// sixteen times, because two rows may cost twice as much as one where eight cost little more.
    const TRIALS: u64 = 32;
    const TRIAL_SHIFTS: u64 = 4;
    /// Every so many trials, the next size beyond those within the target is one of them.
    const RETRIAL: u64 = 8;
    /// How much larger than all that ran a batch may be.
    const LEAP: usize = 8;
    /// Rows that may wait whatever it takes, where there is no target: clients that wait for their
    /// answers are not many more.
    const ALWAYS_WELCOME: usize = 96;
    /// The wait beyond which others are refused, where there is no target.
    const PATIENCE: Duration = Duration::from_millis(30);

    pub fn new(max_size: usize, max_in_flight: usize, target: Option<Duration>) -> Self {
        let max_size = max_size.clamp(1, 1 << (SIZES - 1));
        let in_flight = max_in_flight.max(1);
        let decision = Decision { size: max_size, wait: Duration::ZERO, in_flight };
        Self {
            costs: Default::default(),
            max_size,
            max_in_flight: in_flight,
            target,
            decision,
            batches: 0,
        }
    }

    pub fn decision(&self) -> Decision {
        self.decision
    }

    /// What a row costs when the queue is busy.
    pub fn costs(&self) -> &Costs {
        let busy = &self.costs[1];
        if busy.known().next().is_some() {
            busy
        } else {
            &self.costs[0]
        }
    }

    /// How many rows the next batch may have, and whether that is to try something.
    pub fn next_size(&mut self) -> (usize, bool) {
        self.batches += 1;
        let size = self.decision.size;
        if self.batches % Self::TRIALS != 0 {
            return (size, false);
        }
        let trial = self.batches / Self::TRIALS;
        let factor = 2 << (trial / 2 % Self::TRIAL_SHIFTS);
        let other = if trial % 2 == 0 { size / factor } else { size.saturating_mul(factor) };
        let mut most = self.size_within_target();
        if trial % Self::RETRIAL == 1 {
            // What took too long once, in a time of trouble perhaps, need not do so any more.
            most = most.saturating_mul(2).min(self.max_size);
        }
        let other = other.min(most).max(1);
        (other, other != size)
    }

    /// Take in what a batch cost. `beside` others it ran slower than by itself.
    pub fn ran(&mut self, size: usize, beside: bool, took: Duration) {
        if size == 0 {
            return;
        }
        self.costs[usize::from(beside)].record(size, took);
        let within = self.size_within_target();
        self.decision = Decision {
            size: self.cheapest_size().min(within).max(1),
            wait: Duration::ZERO,
            in_flight: self.max_in_flight,
        };
    }

    /// Whether there is time for more rows, where so many wait.
    pub fn has_time_for(&self, waiting: usize) -> bool {
        let limit = match self.target {
            Some(target) => target,
            None if waiting < Self::ALWAYS_WELCOME => return true,
            None => Self::PATIENCE,
        };
        self.expected_wait(waiting).is_none_or(|wait| wait <= limit) || waiting == 0
    }

    /// How long it takes until what waits now, and one batch more, has run.
    pub fn expected_wait(&self, waiting: usize) -> Option<Duration> {
        let size = self.decision.size;
        let batch_s = self.costs().batch_s(size)?;
        let row_s = batch_s / size as f64;
        let queue_s = waiting as f64 * row_s / self.decision.in_flight as f64;
        // The batch of the last row is as large as what waits.
        let last_s = self.costs().batch_s(size.min(waiting.max(1)))?;
        Duration::try_from_secs_f64(queue_s + last_s).ok()
    }

    /// The smallest size at which a row costs about the least. Sizes above all that ran are tried
    /// as soon as enough rows wait, one leap after the other.
    fn cheapest_size(&self) -> usize {
        let mut known = self.costs().known();
        let Some((mut size, mut row_s, _)) = known.next() else { return self.max_size };
        let mut largest = size;
        for (next, next_s, _) in known {
            largest = next;
            if next_s < row_s * Self::WORTHWHILE {
                (size, row_s) = (next, next_s);
            }
        }
        // The largest so far was the best: a larger one may be better still.
        let size = if size == largest { size.saturating_mul(Self::LEAP) } else { size };
        size.min(self.max_size)
    }

    /// The largest size that leaves half of the target for waiting; one that never ran is tried
    /// when half of it does.
    fn size_within_target(&self) -> usize {
        let Some(target) = self.target else { return self.max_size };
        let costs = self.costs();
        if costs.known().next().is_none() {
            return self.max_size;
        }
        let half_s = target.as_secs_f64() / 2.0;
        let mut size = 1;
        while size < self.max_size {
            let next = (size * 2).min(self.max_size);
            if !costs.is_known(next) {
                return next;
            }
            if costs.batch_s(next).is_some_and(|batch_s| batch_s > half_s) {
                break;
            }
            size = next;
        }
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Serve a queue that never runs dry, where a batch of n rows takes `cost(n)` microseconds;
    /// the size of the last batches.
    fn saturated(policy: &mut Adaptive, cost: impl Fn(usize) -> f64) -> usize {
        for _ in 0..2000 {
            let (size, _) = policy.next_size();
            policy.ran(size, false, Duration::from_secs_f64(cost(size) / 1e6));
        }
        policy.decision().size
    }

    /// Small batches run first, as they do when load rises.
    fn warm(policy: &mut Adaptive, cost: impl Fn(usize) -> f64) {
        for size in [1, 1, 1, 2, 2, 2] {
            policy.ran(size, false, Duration::from_secs_f64(cost(size) / 1e6));
        }
    }

    #[test]
    fn sizes_follow_what_rows_cost() {
        let fixed = |rows: usize| 100.0 + rows as f64;
        let flat = |rows: usize| 1000.0 * rows as f64;
        let worse = |rows: usize| 1000.0 * rows as f64 * (1.0 + rows as f64 / 10.0);
        let knee = |rows: usize| 100.0 * rows.div_ceil(8) as f64;
        let hill = |rows: usize| match rows {
            1 => 100.0,
            2..=4 => 110.0 * rows as f64,
            rows => 400.0 + rows as f64,
        };
        for (what, cost, expected) in [
            (
                "a cost for each batch: as large as may be",
                &fixed as &dyn Fn(usize) -> f64,
                512..=512,
            ),
            ("rows that cost the same alone: one by one", &flat, 1..=1),
            ("rows that cost more together: one by one", &worse, 1..=1),
            ("rows that come by eights", &knee, 8..=8),
            ("a few rows that cost more than one, and many that cost less", &hill, 512..=512),
        ] {
            let mut policy = Adaptive::new(512, 1, None);
            warm(&mut policy, cost);
            let size = saturated(&mut policy, cost);
            assert!(expected.contains(&size), "{what}: {size}");
        }
    }

    #[test]
    fn a_thread_that_lost_its_core_now_and_then_misleads_nobody() {
        let mut policy = Adaptive::new(64, 1, None);
        let cost = |rows: usize| 100.0 + rows as f64;
        warm(&mut policy, cost);
        for at in 0..400 {
            let (size, _) = policy.next_size();
            let lost = if at % 5 == 0 { 20_000.0 } else { 0.0 };
            policy.ran(size, false, Duration::from_secs_f64((cost(size) + lost) / 1e6));
        }

        assert_eq!(policy.decision().size, 64);
    }

    #[test]
    fn a_size_that_took_too_long_in_a_time_of_trouble_is_tried_again() {
        let cost = |rows: usize| 100.0 + rows as f64;
        for times in [1, 20] {
            let mut policy = Adaptive::new(64, 1, Some(Duration::from_millis(20)));
            policy.ran(1, false, Duration::from_micros(100));
            for _ in 0..times {
                policy.ran(2, false, Duration::from_millis(40));
            }
            assert_eq!(policy.decision().size, 1);
            for _ in 0..4 {
                saturated(&mut policy, cost);
            }

            assert_eq!(policy.decision().size, 64, "{times}");
        }
    }

    #[test]
    fn a_model_that_changes_is_found_out() {
        let mut policy = Adaptive::new(64, 1, None);
        let flat = |rows: usize| 1000.0 * rows as f64;
        let fixed = |rows: usize| 1000.0 + rows as f64;
        warm(&mut policy, flat);
        assert_eq!(saturated(&mut policy, flat), 1);
        for _ in 0..6 {
            saturated(&mut policy, fixed);
        }

        assert_eq!(policy.decision().size, 64);
    }

    #[test]
    fn everything_that_waits_runs_together_before_anything_is_known() {
        assert_eq!(Adaptive::new(64, 1, None).next_size(), (64, false));
    }

    #[test]
    fn half_of_the_target_is_left_for_waiting() {
        let cost = |rows: usize| 1000.0 + 100.0 * rows as f64;
        for (target_ms, expected) in [(20, 64), (10, 32), (3, 4), (1, 1)] {
            let mut policy = Adaptive::new(512, 1, Some(Duration::from_millis(target_ms)));
            warm(&mut policy, cost);
            assert_eq!(saturated(&mut policy, cost), expected, "{target_ms}");
        }
    }

    #[test]
    fn those_there_is_no_time_for_are_refused() {
        let cost = |_: usize| 10_000.0;
        for (target, waiting, expected) in [
            (None, 95, true),
            (None, 96, false),
            (Some(Duration::from_millis(24)), 8, true),
            (Some(Duration::from_millis(24)), 64, false),
            (Some(Duration::from_millis(1)), 0, true),
        ] {
            let mut policy = Adaptive::new(32, 1, target);
            assert!(policy.has_time_for(waiting));
            warm(&mut policy, cost);
            saturated(&mut policy, cost);
            assert_eq!(policy.has_time_for(waiting), expected, "{target:?} {waiting}");
        }
    }

    proptest! {
        #[test]
        fn decisions_stay_within_their_limits_whatever_happens(
            max_size in 1_usize..5000,
            max_in_flight in 0_usize..9,
            target in prop::option::of(0_u64..50),
            batches in prop::collection::vec((0_usize..6000, any::<bool>(), 0_u64..10_000_000), 0..80),
        ) {
            let target = target.map(Duration::from_millis);
            let mut policy = Adaptive::new(max_size, max_in_flight, target);
            for (size, beside, nanos) in batches {
                let (next, _) = policy.next_size();
                prop_assert!((1..=max_size).contains(&next));
                policy.ran(size, beside, Duration::from_nanos(nanos));
                let Decision { size, wait, in_flight } = policy.decision();
                prop_assert!((1..=max_size).contains(&size));
                prop_assert_eq!(wait, Duration::ZERO);
                prop_assert_eq!(in_flight, max_in_flight.max(1));
            }
        }
    }
}
