//! The part of our own page about queues whose sizes are decided while they run: what waits, what
//! was decided, and what the decisions rest on.

use crate::app::App;
use crate::batching::{Observation, Queues, Reason};
use crate::metrics::text::Page;

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

type Labels<'l> = [(&'static str, &'l str); 3];
type Write = fn(&mut Page, &'static str, &Labels<'_>, &Observation);

/// Name, kind and meaning of each metric, and how a queue's samples of it are written.
const METRICS: [(&str, &str, &str, Write); 12] = [
    (
        "servable_batching_waiting_rows",
        GAUGE,
        "Rows that wait for a batch.",
        |page, name, labels, seen| page.sample(name, labels, seen.waiting_rows),
    ),
    (
        "servable_batching_in_flight",
        GAUGE,
        "Batches that are being run.",
        |page, name, labels, seen| page.sample(name, labels, seen.in_flight),
    ),
    (
        "servable_batching_arriving_rows_per_second",
        GAUGE,
        "Rows that came in a second, of late.",
        |page, name, labels, seen| page.sample(name, labels, seen.arrival_rate),
    ),
    (
        "servable_batching_decided_rows",
        GAUGE,
        "Most rows of a batch, as it was decided last.",
        |page, name, labels, seen| page.sample(name, labels, seen.decision.size),
    ),
    (
        "servable_batching_decided_wait_seconds",
        GAUGE,
        "How long a batch waits for rows although it could run, as it was decided last.",
        |page, name, labels, seen| page.sample(name, labels, seen.decision.wait.as_secs_f64()),
    ),
    (
        "servable_batching_decided_in_flight",
        GAUGE,
        "Most batches that run at a time, as it was decided last.",
        |page, name, labels, seen| page.sample(name, labels, seen.decision.in_flight),
    ),
    (
        "servable_batching_policy_decides",
        GAUGE,
        "1 if an installed policy made the last decision, 0 if it was the engine's own.",
        |page, name, labels, seen| page.sample(name, labels, u8::from(seen.is_decided)),
    ),
    (
        "servable_batching_row_seconds",
        GAUGE,
        "What a row was found to cost in batches of up to so many rows.",
        |page, name, labels, seen| {
            let [model, version, signature] = *labels;
            for (size, row_s, _) in seen.costs.known() {
                let labels = [model, version, signature, ("rows", &*size.to_string())];
                page.sample(name, &labels, row_s);
            }
        },
    ),
    (
        "servable_batching_batches_total",
        COUNTER,
        "Batches that were begun, by why they had no more rows.",
        |page, name, labels, seen| {
            let [model, version, signature] = *labels;
            for (reason, count) in Reason::ALL.iter().zip(seen.counts.reasons) {
                let labels = [model, version, signature, ("reason", reason.name())];
                page.sample(name, &labels, count);
            }
        },
    ),
    (
        "servable_batching_rows_total",
        COUNTER,
        "Rows of batches that were begun.",
        |page, name, labels, seen| page.sample(name, labels, seen.counts.rows),
    ),
    (
        "servable_batching_refused_total",
        COUNTER,
        "Requests that there was no room or no time for.",
        |page, name, labels, seen| page.sample(name, labels, seen.refused),
    ),
    (
        "servable_batching_expected_wait_seconds",
        GAUGE,
        "How long a request that comes now is expected to take.",
        |page, name, labels, seen| {
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
            let observed = handle.batching.iter().flat_map(Queues::observe);
            let version = handle.version.to_string();
            queues.extend(
                observed.map(|(signature, seen)| {
                    (handle.name.as_str(), version.clone(), signature, seen)
                }),
            );
        }
    }
    if queues.is_empty() {
        return;
    }
    queues.sort_by(|one, other| (one.0, &one.1, &one.2).cmp(&(other.0, &other.1, &other.2)));
    for (name, kind, help, write) in METRICS {
        page.declare(name, kind, Some(help));
        for (model, version, signature, seen) in &queues {
            let labels = [("model", *model), ("version", version), ("signature", signature)];
            write(page, name, &labels, seen);
        }
    }
}
