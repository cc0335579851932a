//! The part of our own page about queues: what waits, what was decided by whom, and what the
//! decisions rest on.

use crate::app::App;
use crate::batching::{Observation, Parameters, Reason};
use crate::metrics::text::Page;

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

type Labels<'l> = [(&'static str, &'l str); 3];
type Write = fn(&mut Page, &'static str, &Queue<'_>);

/// The queue of a signature.
struct Queue<'q> {
    labels: Labels<'q>,
    parameters: &'q Parameters,
    seen: &'q Observation,
}

impl Queue<'_> {
    /// The labels, and one more.
    fn labels_and<'l>(
        &'l self,
        name: &'static str,
        value: &'l str,
    ) -> [(&'static str, &'l str); 4] {
        let [model, version, signature] = self.labels;
        [model, version, signature, (name, value)]
    }
}

/// Name, kind and meaning of each metric, and how a queue's samples of it are written.
const METRICS: [(&str, &str, &str, Write); 14] = [
    (
        "servable_batching_info",
        GAUGE,
        "1, by the policy that decides about a queue.",
        |page, name, queue| {
            page.sample(name, &queue.labels_and("policy", &queue.parameters.policy), 1);
        },
    ),
    (
        "servable_batching_max_waiting_batches",
        GAUGE,
        "Most batches that may wait.",
        |page, name, queue| page.sample(name, &queue.labels, queue.parameters.max_enqueued_batches),
    ),
    (
        "servable_batching_waiting_rows",
        GAUGE,
        "Rows that wait for a batch.",
        |page, name, Queue { labels, seen, .. }| page.sample(name, labels, seen.waiting_rows),
    ),
    (
        "servable_batching_in_flight",
        GAUGE,
        "Batches that are being run.",
        |page, name, Queue { labels, seen, .. }| page.sample(name, labels, seen.in_flight),
    ),
    (
        "servable_batching_arriving_rows_per_second",
        GAUGE,
        "Rows that came in a second, of late.",
        |page, name, Queue { labels, seen, .. }| page.sample(name, labels, seen.arrival_rate),
    ),
    (
        "servable_batching_decided_rows",
        GAUGE,
        "Most rows of a batch, as it was decided last.",
        |page, name, Queue { labels, seen, .. }| page.sample(name, labels, seen.decision.size),
    ),
    (
        "servable_batching_decided_wait_seconds",
        GAUGE,
        "How long a batch waits for rows although it could run, as it was decided last.",
        |page, name, Queue { labels, seen, .. }| {
            page.sample(name, labels, seen.decision.wait.as_secs_f64());
        },
    ),
    (
        "servable_batching_decided_in_flight",
        GAUGE,
        "Most batches that run at a time, as it was decided last.",
        |page, name, Queue { labels, seen, .. }| page.sample(name, labels, seen.decision.in_flight),
    ),
    (
        "servable_batching_policy_decides",
        GAUGE,
        "1 if an installed policy made the last decision, 0 if it was the engine's own.",
        |page, name, Queue { labels, seen, .. }| {
            page.sample(name, labels, u8::from(seen.is_decided));
        },
    ),
    (
        "servable_batching_row_seconds",
        GAUGE,
        "What a row was found to cost in batches of up to so many rows.",
        |page, name, queue| {
            for (size, row_s, _) in queue.seen.costs.known() {
                page.sample(name, &queue.labels_and("rows", &size.to_string()), row_s);
            }
        },
    ),
    (
        "servable_batching_batches_total",
        COUNTER,
        "Batches that were begun, by why they had no more rows.",
        |page, name, queue| {
            for (reason, count) in Reason::ALL.iter().zip(queue.seen.counts.reasons) {
                page.sample(name, &queue.labels_and("reason", reason.name()), count);
            }
        },
    ),
    (
        "servable_batching_rows_total",
        COUNTER,
        "Rows of batches that were begun.",
        |page, name, Queue { labels, seen, .. }| page.sample(name, labels, seen.counts.rows),
    ),
    (
        "servable_batching_refused_total",
        COUNTER,
        "Requests that there was no room or no time for.",
        |page, name, Queue { labels, seen, .. }| page.sample(name, labels, seen.refused),
    ),
    (
        "servable_batching_expected_wait_seconds",
        GAUGE,
        "How long a request that comes now is expected to take.",
        |page, name, Queue { labels, seen, .. }| {
            if let Some(wait) = seen.expected_wait {
                page.sample(name, labels, wait.as_secs_f64());
            }
        },
    ),
];

pub fn write(page: &mut Page, app: &App) {
    let snapshot = app.map.snapshot();
    let mut queues = Vec::new();
    for model in snapshot.models.values() {
        for handle in model.versions.values() {
            let Some(batching) = &handle.batching else { continue };
            let version = handle.version.to_string();
            queues.extend(batching.observe().into_iter().map(|(signature, seen)| {
                (handle.name.as_str(), version.clone(), signature, batching.parameters(), seen)
            }));
        }
    }
    if queues.is_empty() {
        return;
    }
    queues.sort_by(|one, other| (one.0, &one.1, &one.2).cmp(&(other.0, &other.1, &other.2)));
    for (name, kind, help, write) in METRICS {
        page.declare(name, kind, Some(help));
        for (model, version, signature, parameters, seen) in &queues {
            let labels = [("model", *model), ("version", version), ("signature", signature)];
            write(page, name, &Queue { labels, parameters, seen });
        }
    }
}
