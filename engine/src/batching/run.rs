//! Runs a batch: drops whom nobody waits for, puts rows together, runs, takes them apart.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use super::queue::{Batch, Entry};
use super::signature::{Parameters, Signature};
use super::task::Task;
use super::tensors::{self, Part};
use crate::abandoned::Going;
use crate::metrics::{Batching, Run};
use crate::servable::RunOptions;
use crate::status::{Result, Status};
use crate::tensor::{Shape, Tensor};

/// What is answered to a task that waited for longer than it may.
pub fn queue_timeout() -> Status {
    Status::resource_exhausted("Run() timeout exceeded while waiting in batching queue")
}

/// Rows of a task with what they are fed.
struct Member {
    task: Arc<Task>,
    rows: Range<usize>,
    feeds: Arc<Vec<Tensor>>,
    /// The rows of `feeds` that count: other than `rows` once they have been padded.
    fed: Range<usize>,
    /// The row shapes that the feeds had, where they were padded.
    before_padding: Option<Vec<Shape>>,
}

/// Run a batch on the calling thread and answer its tasks. Returns the rows that ran.
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
    let mut ran = 0;
    for group in groups(members, &signature.parameters) {
        ran += run_group(&signature, group, metrics);
    }
    ran
}

/// Members that can stand in one tensor: of the same types, and of the same row shapes where
/// nothing is padded. Differences of shape alone stay in one group, to be refused as one, where
/// nothing runs by itself.
fn groups(members: Vec<Member>, parameters: &Parameters) -> Vec<Vec<Member>> {
    let joins = |one: &Member, other: &Member| {
        one.feeds.iter().zip(other.feeds.iter()).all(|(one, other)| {
            let shapes_agree = if parameters.pad_variable_length_inputs {
                one.shape().len() == other.shape().len()
            } else {
                !parameters.run_unbatchable_alone
                    || tensors::row_shape(one) == tensors::row_shape(other)
            };
            one.dtype() == other.dtype() && shapes_agree
        })
    };
    let mut groups: Vec<Vec<Member>> = Vec::with_capacity(1);
    for member in members {
        match groups.iter_mut().find(|group| joins(&group[0], &member)) {
            Some(group) => group.push(member),
            None => groups.push(vec![member]),
        }
    }
    groups
}

fn run_group(signature: &Signature, mut group: Vec<Member>, metrics: &Batching) -> usize {
    let parameters = &signature.parameters;
    if let Some(at) = differing_feed(&group) {
        if !parameters.pad_variable_length_inputs {
            fail_all(&group, &different_shapes(&signature.feeds[at]));
            return 0;
        }
        group = padded(group, parameters);
    }
    if group.is_empty() {
        return 0;
    }
    let rows: usize = group.iter().map(|member| member.rows.len()).sum();
    let size = parameters.padded_size(rows);
    for member in &group {
        for _ in &signature.feeds {
            metrics.input_size.record(member.rows.len() as u64);
        }
    }
    metrics.ran(size, size - rows);
    let is_alone = group.len() == 1 && size == rows;
    let largest = shapes(&group[0].feeds);
    let feeds = joined_feeds(&mut group, size - rows);
    let (outputs, run) = run_servable(signature, feeds, &group);
    let outputs = match outputs {
        Ok(outputs) if is_alone && parameters.run_unbatchable_alone => Ok(outputs),
        Ok(outputs) => match check_outputs(&outputs, size) {
            Ok(()) => Ok(outputs),
            Err(_) if parameters.run_unbatchable_alone => {
                signature.is_unbatchable.store(true, Ordering::Relaxed);
                return size
                    + group.into_iter().map(|one| run_alone(signature, one)).sum::<usize>();
            }
            Err(status) => Err(status),
        },
        Err(status) => Err(status),
    };
    match outputs {
        Err(status) => fail_all(&group, &status),
        Ok(outputs) if is_alone => group[0].task.succeed(&group[0].rows, outputs, run),
        Ok(outputs) => deliver(&group, outputs, &largest, run),
    }
    size
}

/// Run without others what turned out to fit into no batch.
fn run_alone(signature: &Signature, member: Member) -> usize {
    if !member.task.is_whole(&member.rows) {
        member.task.fail(Status::failed_precondition(
            "The request was split, and its outputs cannot be put together",
        ));
        return 0;
    }
    let rows = member.rows.clone();
    let mut group = [member];
    let feeds = joined_feeds(&mut group, 0);
    let (outputs, run) = run_servable(signature, feeds, &group);
    match outputs {
        Ok(outputs) => group[0].task.succeed(&rows, outputs, run),
        Err(status) => group[0].task.fail(status),
    }
    rows.len()
}

fn run_servable(
    signature: &Signature,
    feeds: Vec<Tensor>,
    group: &[Member],
) -> (Result<Vec<Tensor>>, Run) {
    // Nobody waits beyond the last deadline.
    let deadlines: Option<Vec<Instant>> = group.iter().map(|member| member.task.deadline).collect();
    let options = RunOptions {
        deadline: deadlines.and_then(|all| all.into_iter().max()),
        is_low_priority: false,
    };
    let feeds = signature.feeds.iter().cloned().zip(feeds).collect();
    let began = Instant::now();
    let outputs = signature.servable.run(feeds, &signature.fetches, options);
    (outputs, Run { began, ended: Instant::now() })
}

/// Give each task its rows, without what padding added.
fn deliver(group: &[Member], outputs: Vec<Tensor>, largest: &[Shape], run: Run) {
    let outputs: Vec<Arc<Tensor>> = outputs.into_iter().map(Arc::new).collect();
    let mut start = 0;
    for member in group {
        let end = start + member.rows.len();
        let unpads = member.task.signature.parameters.unpad_outputs;
        let own = member.before_padding.as_ref().filter(|_| unpads);
        let parts = outputs.iter().map(|output| {
            let part = tensors::part(output, start..end);
            match own {
                Some(own) => unpadded(part, largest, own),
                None => part,
            }
        });
        member.task.succeed(&member.rows, parts.collect(), run);
        start = end;
    }
}

/// The first feed whose row shape is not the same in all members.
fn differing_feed(group: &[Member]) -> Option<usize> {
    let first = &group.first()?.feeds;
    (0..first.len()).find(|&at| {
        let row = tensors::row_shape(&first[at]);
        group.iter().any(|member| tensors::row_shape(&member.feeds[at]) != row)
    })
}

fn shapes(feeds: &[Tensor]) -> Vec<Shape> {
    feeds.iter().map(|tensor| tensors::row_shape(tensor).to_vec()).collect()
}

fn fail_all(group: &[Member], status: &Status) {
    for member in group {
        member.task.fail(status.clone());
    }
}

fn different_shapes(name: &str) -> Status {
    Status::failed_precondition(format!(
        "Tensors with name '{name}' from different tasks have different shapes and padding is \
         turned off. Set pad_variable_length_inputs to true, or ensure that all tensors with the \
         same name have equal dimensions starting with the first dim."
    ))
}

/// Members whose feeds all have the largest row shapes; those that cannot be padded fail.
fn padded(group: Vec<Member>, parameters: &Parameters) -> Vec<Member> {
    let count = group[0].feeds.len();
    let largest: Vec<Shape> = (0..count)
        .map(|at| tensors::largest_row(group.iter().map(|member| &member.feeds[at])))
        .collect();
    let pad = |member: Member| {
        let feeds = member.feeds.iter().zip(&largest).map(|(tensor, row)| {
            let rows = Part::new(tensor, &member.fed);
            if tensors::row_shape(tensor) == &row[..] {
                return Ok(tensors::join(&[rows], 0));
            }
            tensors::pad(&tensors::join(&[rows], 0), row, parameters.fill())
        });
        match feeds.collect::<Result<Vec<Tensor>>>() {
            Ok(feeds) => {
                let fed = 0..member.rows.len();
                let before_padding = Some(shapes(&member.feeds));
                Some(Member { feeds: Arc::new(feeds), fed, before_padding, ..member })
            }
            Err(status) => {
                member.task.fail(status);
                None
            }
        }
    };
    group.into_iter().filter_map(pad).collect()
}

/// The tensors to feed. Those of a task that runs alone are not copied.
fn joined_feeds(group: &mut [Member], extra: usize) -> Vec<Tensor> {
    if let ([member], 0) = (&mut *group, extra) {
        if member.task.is_whole(&member.rows) {
            match Arc::try_unwrap(std::mem::take(&mut member.feeds)) {
                Ok(feeds) => return feeds,
                Err(shared) => member.feeds = shared,
            }
        }
    }
    (0..group[0].feeds.len())
        .map(|at| {
            let parts: Vec<Part<'_>> =
                group.iter().map(|member| Part::new(&member.feeds[at], &member.fed)).collect();
            tensors::join(&parts, extra)
        })
        .collect()
}

fn check_outputs(outputs: &[Tensor], size: usize) -> Result<()> {
    for output in outputs {
        match tensors::rows(output) {
            None => {
                return Err(Status::failed_precondition("Batched output tensor has 0 dimensions"))
            }
            Some(rows) if rows != size => {
                return Err(Status::failed_precondition(
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th \
                     dimension sizes of the input tensors",
                ))
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// A task's part of an output without what padding of its inputs added: a size that is the largest
/// of some input, in the same dimension, becomes the task's own.
fn unpadded(part: Tensor, largest: &[Shape], own: &[Shape]) -> Tensor {
    let mut row = tensors::row_shape(&part).to_vec();
    for (dim, size) in row.iter_mut().enumerate() {
        let mut inputs = largest.iter().zip(own);
        let found = inputs.find_map(|(largest, own)| {
            let (largest, own) = (largest.get(dim)?, own.get(dim)?);
            (largest == size && own < largest).then_some(*own)
        });
        *size = found.unwrap_or(*size);
    }
    if row == tensors::row_shape(&part) {
        part
    } else {
        tensors::cut(&part, &row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batching::task::Answer;
    use crate::batching::testing::{ints, parameters, Echo, Runs};
    use crate::tensor::{Buffer, DType};
    use tokio::sync::oneshot::Receiver;

    struct Fixture {
        signature: Arc<Signature>,
        runs: Runs,
    }

    impl Fixture {
        fn new(parameters: Parameters, output: Option<Vec<i64>>) -> Self {
            let (echo, runs) = Echo::new(output);
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
