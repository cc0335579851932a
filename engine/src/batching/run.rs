//! Runs a batch: drops whom nobody waits for, has rows put together, runs, has them taken apart.
//!
//! How rows stand in tensors is told in `rows`, or by whoever is installed for that (`batcher`).

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use super::batcher::{self, Batcher};
use super::queue::{Batch, Entry};
use super::rows;
use super::signature::Signature;
use super::task::Task;
use crate::abandoned::Going;
use crate::metrics::{Batching, Run};
use crate::servable::{ProcessCounts, RunOptions};
use crate::status::{Code, Result, Status};
use crate::tensor::{Shape, Tensor};

/// What is answered to a task that waited for longer than it may.
pub fn queue_timeout() -> Status {
    Status::resource_exhausted("Run() timeout exceeded while waiting in batching queue")
}

/// Rows of a task with what they are fed.
pub struct Member {
    pub task: Arc<Task>,
    pub rows: Range<usize>,
    pub feeds: Arc<Vec<Tensor>>,
    /// The rows of `feeds` that count: other than `rows` once they have been padded.
    pub fed: Range<usize>,
    /// The row shapes that the feeds had, where they were padded.
    pub before_padding: Option<Vec<Shape>>,
}

/// Run a batch on the calling thread and answer its tasks. Returns the rows that ran; 0 where the
/// time that it took tells nothing of what rows cost.
pub fn run(batch: Batch<Arc<Task>>, metrics: &Batching) -> usize {
    let now = Instant::now();
    let going = Arc::new(Going::begun());
    let mut members = Vec::with_capacity(batch.len());
    for Entry { task, rows } in batch {
        if !task.is_wanted() {
            continue;
        }
        metrics.queuing.record_time(now.saturating_duration_since(task.arrived));
        if task.is_expired(now) {
            task.fail(queue_timeout());
            continue;
        }
        task.begin(&going);
        let feeds = task.feeds(&rows);
        members.push(Member { task, fed: rows.clone(), rows, feeds, before_padding: None });
    }
    let Some(signature) = members.first().map(|member| member.task.signature.clone()) else {
        return 0;
    };
    let runner = Runner { signature: &signature, metrics };
    if let Some(installed) = &signature.parameters.batcher {
        return runner.run_installed(&**installed, members).unwrap_or(0);
    }
    let groups = rows::groups(members, &signature.parameters);
    let ran: Option<usize> = groups.into_iter().map(|group| runner.run_group(group)).sum();
    ran.unwrap_or(0)
}

/// Runs members of one signature; `None` is for rows whose cost cannot be told.
struct Runner<'r> {
    signature: &'r Signature,
    metrics: &'r Batching,
}

impl Runner<'_> {
    fn run_group(&self, mut group: Vec<Member>) -> Option<usize> {
        let parameters = &self.signature.parameters;
        if let Some(at) = rows::differing_feed(&group) {
            if !parameters.pad_variable_length_inputs {
                fail_all(&group, &rows::different_shapes(&self.signature.feeds[at]));
                return Some(0);
            }
            group = rows::padded(group, parameters);
        }
        for member in &group {
            for _ in &self.signature.feeds {
                self.metrics.input_size.record(member.rows.len() as u64);
            }
        }
        self.run_rows(group)
    }

    fn run_rows(&self, mut group: Vec<Member>) -> Option<usize> {
        if group.is_empty() {
            return Some(0);
        }
        let parameters = &self.signature.parameters;
        let rows = num_rows(&group);
        let size = parameters.padded_size(rows);
        self.metrics.ran(size, size - rows);
        let is_alone = group.len() == 1 && size == rows;
        let largest = rows::shapes(&group[0].feeds);
        let counts = self.process_counts();
        let feeds = match rows::joined(&mut group, size - rows) {
            Ok(feeds) => feeds,
            Err(status) => {
                fail_all(&group, &status);
                return None;
            }
        };
        let (outputs, run) = self.run_servable(feeds, &group);
        let outputs = match outputs {
            Ok(outputs) if is_alone && parameters.run_unbatchable_alone => outputs,
            Ok(outputs) => match rows::check_outputs(&outputs, size) {
                Ok(()) => outputs,
                Err(_) if parameters.run_unbatchable_alone => {
                    self.signature.is_unbatchable.store(true, Ordering::Relaxed);
                    for member in group {
                        self.run_alone(member);
                    }
                    return None;
                }
                Err(status) => {
                    fail_all(&group, &status);
                    return Some(size);
                }
            },
            Err(status) if self.may_concern_one(&status, &group, counts) => {
                for half in halves(group) {
                    self.run_rows(half);
                }
                return None;
            }
            Err(status) => {
                fail_all(&group, &status);
                return Some(size);
            }
        };
        if is_alone {
            group[0].task.succeed(&group[0].rows, outputs, run);
        } else {
            rows::deliver(&group, outputs, &largest, run);
        }
        Some(size)
    }

    /// Run without others what turned out to fit into no batch.
    fn run_alone(&self, member: Member) {
        if !member.task.is_whole(&member.rows) {
            member.task.fail(Status::failed_precondition(
                "The request was split, and its outputs cannot be put together",
            ));
            return;
        }
        let rows = member.rows.clone();
        let mut group = [member];
        let ran = rows::joined(&mut group, 0).and_then(|feeds| {
            let (outputs, run) = self.run_servable(feeds, &group);
            Ok((outputs?, run))
        });
        match ran {
            Ok((outputs, run)) => group[0].task.succeed(&rows, outputs, run),
            Err(status) => group[0].task.fail(status),
        }
    }

    /// Run what an installed batcher makes of the members.
    fn run_installed(&self, installed: &dyn Batcher, mut members: Vec<Member>) -> Option<usize> {
        members.retain_mut(|member| {
            for _ in &self.signature.feeds {
                self.metrics.input_size.record(member.rows.len() as u64);
            }
            if member.task.is_whole(&member.fed) {
                return true;
            }
            let own = rows::joined(std::slice::from_mut(member), 0);
            own.map_err(|status| member.task.fail(status)).is_ok_and(|feeds| {
                member.feeds = Arc::new(feeds);
                member.fed = 0..member.rows.len();
                true
            })
        });
        self.run_grouped(installed, members)
    }

    fn run_grouped(&self, installed: &dyn Batcher, members: Vec<Member>) -> Option<usize> {
        if members.is_empty() {
            return Some(0);
        }
        let names = batcher::Aliases::of(self.signature);
        let grouped = batcher::groups(installed, self.signature, &names, &members);
        let groups = match grouped {
            Ok(groups) => groups,
            Err(status) => return self.divide(installed, members, &status, None),
        };
        let mut members: Vec<Option<Member>> = members.into_iter().map(Some).collect();
        let mut ran = Some(0);
        for group in groups {
            let of_group: Vec<Member> =
                group.places().iter().filter_map(|&place| members[place].take()).collect();
            let rows = num_rows(&of_group);
            let size = self.signature.parameters.padded_size(rows);
            let counts = self.process_counts();
            let mut times = None;
            let parts = batcher::feeds(&*group, &names, size).and_then(|feeds| {
                self.metrics.ran(size, size - rows);
                let (outputs, run) = self.run_servable(feeds, &of_group);
                times = Some(run);
                batcher::parts(&*group, &names, &outputs?)
            });
            let here = match (parts, times) {
                (Ok(parts), Some(run)) => {
                    for (member, outputs) in of_group.iter().zip(parts) {
                        member.task.succeed(&member.rows, outputs, run);
                    }
                    Some(size)
                }
                (Ok(_), None) => Some(0),
                (Err(status), _) => self.divide(installed, of_group, &status, counts),
            };
            ran = ran.zip(here).map(|(before, here)| before + here);
        }
        ran
    }

    /// Have what an installed batcher, or the run of what it made, failed for fail alone.
    fn divide(
        &self,
        installed: &dyn Batcher,
        members: Vec<Member>,
        status: &Status,
        counts: Option<ProcessCounts>,
    ) -> Option<usize> {
        if self.may_concern_one(status, &members, counts) {
            for half in halves(members) {
                self.run_grouped(installed, half);
            }
        } else {
            fail_all(&members, status);
        }
        None
    }

    fn run_servable(&self, feeds: Vec<Tensor>, group: &[Member]) -> (Result<Vec<Tensor>>, Run) {
        let signature = self.signature;
        // Nobody waits beyond the last deadline.
        let deadlines: Option<Vec<Instant>> =
            group.iter().map(|member| member.task.deadline).collect();
        let options = RunOptions {
            deadline: deadlines.and_then(|all| all.into_iter().max()),
            ..RunOptions::default()
        };
        let feeds = signature.feeds.iter().cloned().zip(feeds).collect();
        let began = Instant::now();
        let outputs = signature.servable.run(feeds, &signature.fetches, options);
        (outputs, Run { began, ended: Instant::now() })
    }

    /// Whether a batch may have failed for one of several members, so that it is worth to look for
    /// which. A process that has ended is not ended again to find out.
    fn may_concern_one(
        &self,
        status: &Status,
        members: &[Member],
        before: Option<ProcessCounts>,
    ) -> bool {
        let concerns_all = matches!(
            status.code,
            Code::DeadlineExceeded | Code::Unavailable | Code::ResourceExhausted | Code::Cancelled
        );
        let ends = |counts: Option<ProcessCounts>| counts.map(|counts| counts.ends);
        let has_lived = before.is_none() || ends(self.process_counts()) == ends(before);
        members.len() > 1
            && self.signature.parameters.run_unbatchable_alone
            && !concerns_all
            && has_lived
    }

    fn process_counts(&self) -> Option<ProcessCounts> {
        self.signature.servable.process_counts()
    }
}

/// Both halves, without those that nobody waits for any more.
fn halves(mut members: Vec<Member>) -> [Vec<Member>; 2] {
    members.retain(|member| member.task.is_wanted());
    let second = members.split_off(members.len() / 2);
    [members, second]
}

fn num_rows(members: &[Member]) -> usize {
    members.iter().map(|member| member.rows.len()).sum()
}

fn fail_all(members: &[Member], status: &Status) {
    for member in members {
        member.task.fail(status.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batching::signature::Parameters;
    use crate::batching::task::Answer;
    use crate::batching::tensors;
    use crate::batching::testing::{ints, parameters, Echo, Runs, POISON};
    use crate::tensor::{Buffer, DType};
    use tokio::sync::oneshot::Receiver;

    struct Fixture {
        signature: Arc<Signature>,
        runs: Runs,
    }

    impl Fixture {
        fn new(parameters: Parameters, output: Option<Vec<i64>>) -> Self {
            Self::of(Echo::new(output), parameters)
        }

        fn of((echo, runs): (Echo, Runs), parameters: Parameters) -> Self {
            let names = |name: &str| vec![name.to_owned()];
            let signature = Signature::new(
                "m".to_owned(),
                Arc::new(echo),
                names("x:0"),
                names("y:0"),
                Arc::new(parameters),
            );
            Self { signature: Arc::new(signature), runs }
        }

        fn task(&self, tensor: Tensor, deadline: Option<Instant>) -> (Arc<Task>, Receiver<Answer>) {
            let rows = tensors::rows(&tensor).unwrap();
            let now = Instant::now();
            Task::new(self.signature.clone(), vec![tensor], rows, now, deadline, Arc::new(()))
        }

        /// What tasks of these feeds are answered when they run as one batch.
        fn answers(&self, feeds: Vec<Tensor>) -> Vec<std::result::Result<Seen, String>> {
            let (tasks, answers): (Vec<_>, Vec<_>) =
                feeds.into_iter().map(|tensor| self.task(tensor, None)).unzip();
            let entries = tasks.into_iter().map(|task| Entry { rows: 0..task.rows, task });
            run(entries.collect(), &Batching::default());
            answers.into_iter().map(|answer| seen(answer).unwrap()).collect()
        }

        fn runs(&self) -> Vec<Vec<i64>> {
            self.runs.lock().clone()
        }
    }

    type Seen = (Vec<i64>, Vec<i32>);

    fn seen(mut answer: Receiver<Answer>) -> Option<std::result::Result<Seen, String>> {
        let answer = answer.try_recv().ok()?;
        Some(answer.map_err(|status| status.to_string()).map(|(outputs, _)| {
            let elements = outputs[0].buffer().unwrap().elements::<i32>().to_vec();
            (outputs[0].shape().to_vec(), elements)
        }))
    }

    #[test]
    fn each_task_gets_its_own_rows_and_none_of_those_added() {
        let allowed = Parameters { allowed_batch_sizes: vec![2, 4, 8, 16], ..parameters() };
        let fixture = Fixture::new(allowed, None);
        let feeds = vec![ints(&[2], &[1, 2]), ints(&[0], &[]), ints(&[3], &[3, 4, 5])];

        let expected = [(vec![2], vec![1, 2]), (vec![0], vec![]), (vec![3], vec![3, 4, 5])];
        assert_eq!(fixture.answers(feeds), expected.map(Ok));
        assert_eq!(fixture.runs(), [[8]]);
    }

    #[test]
    fn a_batch_there_is_no_memory_for_is_refused_and_run_by_nobody() {
        let allowed = Parameters { allowed_batch_sizes: vec![1 << 20], ..parameters() };
        let fixture = Fixture::new(allowed, None);
        // Nobody touches it; a batch of them is more than addresses there are.
        let wide = Tensor::dense(DType::UInt8, vec![1, 1 << 28], Buffer::zeroed(1 << 28));

        let no_memory = Status::no_memory(1 << 48).to_string();
        assert_eq!(fixture.answers(vec![wide]), [Err(no_memory)]);
        assert!(fixture.runs().is_empty());
    }

    #[test]
    fn rows_that_do_not_fit_together_are_refused_together_or_run_apart() {
        let feeds = || vec![ints(&[1, 2], &[1, 2]), ints(&[1, 1], &[3]), ints(&[1, 2], &[4, 5])];
        let together = Fixture::new(parameters(), None);
        let apart = Parameters { run_unbatchable_alone: true, ..parameters() };
        let apart = Fixture::new(apart, None);

        let refused = together.answers(feeds());
        assert!(refused.iter().all(|answer| {
            let text = "FAILED_PRECONDITION: Tensors with name 'x:0' from different tasks have";
            answer.as_ref().is_err_and(|message| message.starts_with(text))
        }));
        assert!(together.runs().is_empty());
        let expected = [(vec![1, 2], vec![1, 2]), (vec![1, 1], vec![3]), (vec![1, 2], vec![4, 5])];
        assert_eq!(apart.answers(feeds()), expected.map(Ok));
        assert_eq!(apart.runs(), [[2, 2], [1, 1]]);
    }

    #[test]
    fn types_never_mix() {
        let fixture = Fixture::new(parameters(), None);
        let bytes = Tensor::dense(DType::Float, vec![1], Buffer::zeroed(4));

        assert_eq!(fixture.answers(vec![ints(&[1], &[1]), bytes]).len(), 2);
        assert_eq!(fixture.runs(), [[1], [1]]);
    }

    #[test]
    fn variable_lengths_are_padded_and_cut_again_where_that_is_asked_for() {
        let feeds = || vec![ints(&[1, 2], &[1, 2]), ints(&[1, 3], &[3, 4, 5])];
        for (padding_value, unpad_outputs, first) in [
            (None, false, (vec![1, 3], vec![1, 2, 1])),
            (Some(0.0), false, (vec![1, 3], vec![1, 2, 0])),
            (Some(0.0), true, (vec![1, 2], vec![1, 2])),
        ] {
            let padding = Parameters {
                pad_variable_length_inputs: true,
                padding_value,
                unpad_outputs,
                ..parameters()
            };
            let fixture = Fixture::new(padding, None);

            assert_eq!(fixture.answers(feeds()), [Ok(first), Ok((vec![1, 3], vec![3, 4, 5]))]);
            assert_eq!(fixture.runs(), [[2, 3]]);
        }
    }

    #[test]
    fn what_cannot_be_padded_fails_alone_and_other_ranks_run_apart() {
        let padding = Parameters { pad_variable_length_inputs: true, ..parameters() };
        let fixture = Fixture::new(padding, None);
        let feeds = vec![ints(&[1, 1], &[1]), ints(&[1, 0], &[]), ints(&[1], &[3])];

        let empty = "INVALID_ARGUMENT: Got empty tensor in batch of non-empty tensors.";
        assert_eq!(
            fixture.answers(feeds),
            [Ok((vec![1, 1], vec![1])), Err(empty.to_owned()), Ok((vec![1], vec![3]))]
        );
        assert_eq!(fixture.runs(), [vec![1, 1], vec![1]]);
    }

    #[test]
    fn outputs_without_a_row_for_each_row_are_refused_or_run_apart() {
        let feeds = || vec![ints(&[1], &[1]), ints(&[1], &[2])];
        for (output, text) in [
            (vec![], "Batched output tensor has 0 dimensions"),
            (
                vec![1],
                "Batched output tensor's 0th dimension does not equal the sum of the 0th \
                 dimension sizes of the input tensors",
            ),
        ] {
            let refusing = Fixture::new(parameters(), Some(output.clone()));
            let expected = format!("FAILED_PRECONDITION: {text}");
            assert_eq!(refusing.answers(feeds()), vec![Err(expected); 2]);

            let apart = Parameters { run_unbatchable_alone: true, ..parameters() };
            let apart = Fixture::new(apart, Some(output.clone()));
            assert_eq!(apart.answers(feeds()), vec![Ok((output, vec![7])); 2]);
            assert_eq!(apart.runs(), [[2], [1], [1]]);
            assert!(apart.signature.is_unbatchable.load(Ordering::Relaxed));
        }
    }

    #[test]
    fn what_fails_for_one_fails_for_it_alone_where_requests_may_run_alone() {
        let feeds = || (1..=8).map(|one| ints(&[1], &[if one == 6 { POISON } else { one }]));
        let text = "INVALID_ARGUMENT: poison".to_owned();
        let alone = Parameters { run_unbatchable_alone: true, ..parameters() };
        let dividing = Fixture::new(alone, None);
        let expected: Vec<_> = (1..=8)
            .map(|one| if one == 6 { Err(text.clone()) } else { Ok((vec![1], vec![one])) })
            .collect();

        assert_eq!(dividing.answers(feeds().collect()), expected);
        assert_eq!(dividing.runs(), [[8], [4], [4], [2], [1], [1], [2]]);
        let together = Fixture::new(parameters(), None);
        assert_eq!(together.answers(feeds().collect()), vec![Err(text); 8]);
        assert_eq!(together.runs(), [[8]]);
    }

    #[test]
    fn nobody_looks_for_one_who_is_to_blame_where_that_helps_no_other() {
        for (failure, crashes) in [
            (Status::deadline_exceeded("late"), false),
            (Status::unavailable("busy"), false),
            (Status::resource_exhausted("full"), false),
            (Status::internal("the process has ended"), true),
        ] {
            let alone = Parameters { run_unbatchable_alone: true, ..parameters() };
            let fixture = Fixture::of(Echo::failing(failure.clone(), crashes), alone);
            let feeds = vec![ints(&[1], &[1]), ints(&[1], &[POISON])];

            assert_eq!(fixture.answers(feeds), vec![Err(failure.to_string()); 2]);
            assert_eq!(fixture.runs(), [[2]]);
        }
    }

    #[test]
    fn time_that_tells_nothing_of_rows_counts_for_none() {
        let alone = Parameters { run_unbatchable_alone: true, ..parameters() };
        for (last, expected) in [(2, 2), (POISON, 0)] {
            let fixture = Fixture::new(alone.clone(), None);
            let feeds = [1, last].map(|one| fixture.task(ints(&[1], &[one]), None));
            let entries = feeds.iter().map(|(task, _)| Entry { rows: 0..1, task: task.clone() });

            assert_eq!(run(entries.collect(), &Batching::default()), expected);
        }
    }

    #[test]
    fn nothing_is_run_for_those_who_do_not_wait_any_more() {
        let fixture = Fixture::new(parameters(), None);
        let (kept, answer) = fixture.task(ints(&[1], &[1]), None);
        let (expired, too_late) = fixture.task(ints(&[1], &[2]), Some(Instant::now()));
        let (cancelled, given_up) = fixture.task(ints(&[1], &[3]), None);
        drop(given_up);
        let entry = |task: Arc<Task>| Entry { rows: 0..1, task };

        run(vec![entry(kept), entry(expired), entry(cancelled)], &Batching::default());
        assert_eq!(fixture.runs(), [[1]]);
        assert_eq!(seen(answer), Some(Ok((vec![1], vec![1]))));
        let timeout = "RESOURCE_EXHAUSTED: Run() timeout exceeded while waiting in batching queue";
        assert_eq!(seen(too_late), Some(Err(timeout.to_owned())));
    }

    #[test]
    fn the_pieces_of_a_task_come_together_in_whatever_order_they_ran() {
        let fixture = Fixture::new(parameters(), None);
        let (task, mut answer) = fixture.task(ints(&[3, 1], &[1, 2, 3]), None);
        let piece = |rows| vec![Entry { task: task.clone(), rows }];

        run(piece(2..3), &Batching::default());
        assert!(answer.try_recv().is_err());
        run(piece(0..2), &Batching::default());
        assert_eq!(seen(answer), Some(Ok((vec![3, 1], vec![1, 2, 3]))));
        assert_eq!(fixture.runs(), [[1, 1], [2, 1]]);
    }

    #[test]
    fn batches_and_rows_are_counted() {
        let allowed = Parameters { allowed_batch_sizes: vec![4], ..parameters() };
        let fixture = Fixture::new(allowed, None);
        let (task, _answer) = fixture.task(ints(&[3], &[1, 2, 3]), None);
        let metrics = Batching::default();
        run(vec![Entry { rows: 0..3, task }], &metrics);

        assert_eq!(metrics.runs.load(Ordering::Relaxed), 1);
        assert_eq!(metrics.input_size.sum(), 3.0);
        assert_eq!(metrics.processed_size.sum(), 4.0);
        let padding = metrics.padding();
        assert_eq!((padding[0].0, padding[0].1.sum()), (4, 1.0));
    }
}
