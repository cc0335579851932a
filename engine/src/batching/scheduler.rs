//! Which queue runs next: queues take turns, and those of high priority go before those of low.
//!
//! Pure, as `queue` is; `pool` puts threads round it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::observation::Observation;
use super::queue::{Batch, Limits, Queue};
use crate::status::Result;

/// What a request is worth against others of its queue's model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    #[default]
    High,
    Low,
}

/// Priority first, so that the queues of high priority stand before the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId {
    pub priority: Priority,
    pub number: u64,
}

/// All queues that share threads.
pub struct Scheduler<T> {
    queues: BTreeMap<QueueId, Queue<T>>,
    /// The queue of each priority that ran last.
    last: [Option<QueueId>; 2],
    made: u64,
}

impl<T> Default for Scheduler<T> {
    fn default() -> Self {
        Self { queues: BTreeMap::new(), last: [None; 2], made: 0 }
    }
}

impl<T: Clone> Scheduler<T> {
    pub fn add(&mut self, limits: Limits, priority: Priority) -> QueueId {
        self.made += 1;
        let id = QueueId { priority, number: self.made };
        self.queues.insert(id, Queue::new(limits));
        id
    }

    /// Forget a queue that nobody offers to any more; what waits in it is given back.
    pub fn remove(&mut self, id: QueueId, now: Instant) -> Vec<Batch<T>> {
        let Some(mut queue) = self.queues.remove(&id) else { return Vec::new() };
        queue.close();
        std::iter::from_fn(|| queue.take(now)).collect()
    }

    /// Let go of what waits in a queue without waiting for more.
    pub fn close(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.close();
        }
    }

    /// See [`Queue::offer`]; what is offered to no queue is lost.
    ///
    /// # Errors
    /// As there.
    pub fn offer(&mut self, id: QueueId, task: T, size: usize, now: Instant) -> Result<usize> {
        self.queues.get_mut(&id).map_or(Ok(0), |queue| queue.offer(task, size, now))
    }

    /// The batch whose turn it is, if one is due.
    pub fn take(&mut self, now: Instant) -> Option<(QueueId, Batch<T>)> {
        [Priority::High, Priority::Low].into_iter().find_map(|priority| {
            let last = self.last[priority as usize].map_or(0, |id| id.number);
            let at = |number| QueueId { priority, number };
            let (after, before) = ((last + 1)..=u64::MAX, 0..=last);
            let id = [after, before].into_iter().find_map(|range| {
                let mut queues = self.queues.range(at(*range.start())..=at(*range.end()));
                let is_due = |queue: &Queue<T>| queue.due_at().is_some_and(|due| due <= now);
                queues.find(|(_, queue)| is_due(queue)).map(|(id, _)| *id)
            })?;
            self.last[priority as usize] = Some(id);
            Some((id, self.queues.get_mut(&id)?.take(now)?))
        })
    }

    /// A batch of a queue, which may have been forgotten meanwhile, has been run.
    pub fn ended(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.ended();
        }
    }

    /// See [`Queue::observe`]; `None` for a queue that was forgotten.
    pub fn observe(
        &mut self,
        id: QueueId,
        max_in_flight: usize,
        now: Instant,
    ) -> Option<Observation> {
        Some(self.queues.get_mut(&id)?.observe(max_in_flight, now))
    }

    /// When the next batch is due if nothing else comes; possibly in the past. `None`: never.
    pub fn due_at(&self) -> Option<Instant> {
        self.queues.values().filter_map(Queue::due_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limits(timeout: Duration) -> Limits {
        Limits {
            max_task_size: 1,
            max_batch_size: 1,
            max_enqueued_batches: 9,
            timeout,
            splits: false,
        }
    }

    fn drained(scheduler: &mut Scheduler<&'static str>, now: Instant) -> Vec<&'static str> {
        std::iter::from_fn(|| scheduler.take(now)).map(|(_, batch)| batch[0].task).collect()
    }

    #[test]
    fn queues_take_turns_and_one_with_much_to_do_holds_up_no_other() {
        let now = Instant::now();
        let mut scheduler = Scheduler::default();
        let one = scheduler.add(limits(Duration::ZERO), Priority::High);
        let other = scheduler.add(limits(Duration::ZERO), Priority::High);
        for (queue, task) in [(one, "a1"), (one, "a2"), (one, "a3"), (other, "b1"), (other, "b2")] {
            scheduler.offer(queue, task, 1, now).unwrap();
        }

        assert_eq!(drained(&mut scheduler, now), ["a1", "b1", "a2", "b2", "a3"]);
    }

    #[test]
    fn low_priority_waits_for_high() {
        let now = Instant::now();
        let mut scheduler = Scheduler::default();
        let low = scheduler.add(limits(Duration::ZERO), Priority::Low);
        let high = scheduler.add(limits(Duration::ZERO), Priority::High);
        for (queue, task) in [(low, "low 1"), (low, "low 2"), (high, "high 1"), (high, "high 2")] {
            scheduler.offer(queue, task, 1, now).unwrap();
        }

        assert_eq!(drained(&mut scheduler, now), ["high 1", "high 2", "low 1", "low 2"]);
    }

    #[test]
    fn the_next_is_due_when_the_first_of_all_queues_is() {
        let now = Instant::now();
        let wait = Duration::from_secs;
        let mut scheduler = Scheduler::default();
        let mut limits = limits(wait(5));
        limits.max_batch_size = 2;
        let late = scheduler.add(limits.clone(), Priority::High);
        limits.timeout = wait(2);
        let early = scheduler.add(limits, Priority::Low);
        assert_eq!(scheduler.due_at(), None);
        scheduler.offer(late, "late", 1, now).unwrap();
        scheduler.offer(early, "early", 1, now).unwrap();

        assert_eq!(scheduler.due_at(), Some(now + wait(2)));
        assert_eq!(drained(&mut scheduler, now + wait(2)), ["early"]);
        scheduler.close(late);
        assert_eq!(scheduler.due_at(), Some(now));
    }

    #[test]
    fn a_queue_that_is_removed_gives_back_what_waits() {
        let now = Instant::now();
        let mut scheduler = Scheduler::default();
        let queue = scheduler.add(limits(Duration::from_secs(9)), Priority::High);
        scheduler.offer(queue, "a", 1, now).unwrap();
        scheduler.offer(queue, "b", 1, now).unwrap();

        let left = scheduler.remove(queue, now);
        assert_eq!(left.iter().map(|batch| batch[0].task).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(scheduler.due_at(), None);
    }
}
