//! Our own page: by version and signature, in seconds, with help.
//!
//! What a version counted is read from the version, so it is gone when the version is. Nothing
//! that a client chooses becomes a label.

use std::sync::Arc;
use std::time::Instant;

use super::{batching, gpu, process};
use crate::access::Refusal;
use crate::admission::Limit;
use crate::app::App;
use crate::inference::model_status::STATES;
use crate::metrics::text::Page;
use crate::metrics::{Codes, Method, Protocol, RequestSeries, Stage};
use crate::serving_map::ServableHandle;

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";
const HISTOGRAM: &str = "histogram";

const REQUESTS: &str = "servable_requests_total";
const DURATION: &str = "servable_request_duration_seconds";
const IN_FLIGHT: &str = "servable_requests_in_flight";
const QUEUE: &str = "servable_compute_queue_depth";
const BYTES: &str = "servable_in_flight_bytes";
const MAX_BYTES: &str = "servable_in_flight_bytes_limit";
const CONNECTIONS: &str = "servable_connections";
const REFUSED: &str = "servable_refused_total";
const STUCK: &str = "servable_stuck_runs";
const STUCK_TOTAL: &str = "servable_stuck_runs_total";
const LOGGED: &str = "servable_request_log_records_total";
const LOG_QUEUE: &str = "servable_request_log_queue_bytes";
const HUNG_RUNS: &str = "servable_hung_runs_total";
const RESTARTS: &str = "servable_process_restarts_total";
const MLMD: &str = "servable_model_version_mlmd_info";
const READY: &str = "servable_ready";
const STATE: &str = "servable_model_version_state";
const SHARE: &str = "servable_default_traffic_ratio";
const DECISIONS: &str = "servable_rollout_decisions_total";
const SHADOW: &str = "servable_shadow_requests_total";
const REFUSALS: &str = "servable_authorization_refusals_total";
const INFO: &str = "servable_info";

/// The last state, in which a version is no more.
const END: i32 = 50;

pub fn page(app: &App) -> String {
    let mut page = Page::default();
    page.declare(INFO, GAUGE, Some("The server's version."));
    page.sample(INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.declare(
        READY,
        GAUGE,
        Some("1 if every model was available and the server is not stopping."),
    );
    page.sample(READY, &[], u8::from(app.is_ready()));
    states(&mut page, app);
    rollouts(&mut page, app);
    requests(&mut page, app);
    page.declare(IN_FLIGHT, GAUGE, Some("Requests that are being answered."));
    for protocol in Protocol::ALL {
        let in_flight = app.metrics.in_flight(protocol);
        page.sample(IN_FLIGHT, &[("protocol", protocol.name())], in_flight);
    }
    page.declare(QUEUE, GAUGE, Some("Work that waits for a compute thread."));
    page.sample(QUEUE, &[], app.compute.queue_depth());
    admission(&mut page, app);
    page.declare(
        LOGGED,
        COUNTER,
        Some("Requests that were chosen to be logged: OK if they are in a file, RESOURCE_EXHAUSTED if they were dropped because writing is behind, another code if writing failed."),
    );
    for (model, codes) in app.metrics.request_logs.all() {
        for (code, count) in codes.counted() {
            page.sample(LOGGED, &[("model", &model), ("code", code.name())], count);
        }
    }
    page.declare(LOG_QUEUE, GAUGE, Some("Bytes of requests that wait to be logged."));
    page.sample(LOG_QUEUE, &[], app.request_logs.queued_bytes());
    page.declare(REFUSALS, COUNTER, Some("Requests that no token allowed, by what is wrong."));
    if app.access.is_asked_for() {
        for (reason, name) in Refusal::ALL {
            page.sample(REFUSALS, &[("reason", name)], app.access.refusals(reason));
        }
    }
    batching::write(&mut page, app);
    page.declare(MLMD, GAUGE, Some("1 for each version that says what ML Metadata calls it."));
    for (model, version, uuid) in app.metrics.mlmd.all() {
        let version = version.to_string();
        page.sample(MLMD, &[("model", &model), ("version", &version), ("uuid", &uuid)], 1);
    }
    gpu::write(&mut page);
    process::write(&mut page);
    page.finish()
}

fn states(page: &mut Page, app: &App) {
    page.declare(
        STATE,
        GAUGE,
        Some("1 for the state that a version is in; versions that ended have none."),
    );
    for (model, status) in app.states.all() {
        let state = STATES.iter().find(|(number, _)| *number == status.state);
        let Some((_, state)) = state.filter(|(number, _)| *number != END) else { continue };
        let version = status.version.to_string();
        page.sample(STATE, &[("model", &model), ("version", &version), ("state", state)], 1);
    }
}

/// What is in flight, what was refused for it, and what goes on for nobody.
fn admission(page: &mut Page, app: &App) {
    let admission = &app.admission;
    page.declare(BYTES, GAUGE, Some("Bytes that requests in flight hold."));
    page.sample(BYTES, &[], admission.bytes());
    page.declare(MAX_BYTES, GAUGE, Some("Bytes that requests in flight may hold together."));
    page.sample(MAX_BYTES, &[], admission.limits().bytes);
    page.declare(CONNECTIONS, GAUGE, Some("Open connections of both ports."));
    page.sample(CONNECTIONS, &[], admission.connections());
    page.declare(
        REFUSED,
        COUNTER,
        Some("Requests and connections that were refused, by the limit that they met."),
    );
    for limit in Limit::ALL {
        page.sample(REFUSED, &[("limit", limit.name())], admission.refused(limit));
    }
    page.declare(
        STUCK,
        GAUGE,
        Some("Runs that go on although nobody has waited for them for --abandoned_run_seconds."),
    );
    for (model, count) in app.abandoned.stuck(Instant::now()) {
        page.sample(STUCK, &[("model", &model)], count);
    }
    page.declare(STUCK_TOTAL, COUNTER, Some("Runs that have got stuck so far."));
    page.sample(STUCK_TOTAL, &[], app.abandoned.total());
}

/// Of models whose default traffic is divided, copied, or was.
fn rollouts(page: &mut Page, app: &App) {
    let snapshot = app.map.snapshot();
    let mut models: Vec<_> = snapshot.models.iter().collect();
    models.sort_by_key(|(name, _)| *name);
    page.declare(
        SHARE,
        GAUGE,
        Some("Part of the requests without version and label that a version answers, where they are divided."),
    );
    for (name, model) in &models {
        let Some(route) = &model.route else { continue };
        for version in model.versions.keys() {
            let labels = [("model", name.as_str()), ("version", &version.to_string())];
            page.sample(SHARE, &labels, route.part_of(*version));
        }
    }
    page.declare(DECISIONS, COUNTER, Some("Versions that were promoted or rolled back."));
    for ((model, decision), count) in app.metrics.decisions.all() {
        page.sample(DECISIONS, &[("model", &model), ("decision", &decision)], count);
    }
    page.declare(
        SHADOW,
        COUNTER,
        Some("Copies of requests, by how the answer of the version compares that got them."),
    );
    for (name, model) in &models {
        for (version, handle) in &model.versions {
            for (result, count) in handle.series.shadow.counted().filter(|(_, count)| *count > 0) {
                let labels = [
                    ("model", name.as_str()),
                    ("version", &version.to_string()),
                    ("result", result.name()),
                ];
                page.sample(SHADOW, &labels, count);
            }
        }
    }
}

fn requests(page: &mut Page, app: &App) {
    let snapshot = app.map.snapshot();
    let mut versions: Vec<_> =
        snapshot.models.values().flat_map(|model| model.versions.values()).collect();
    versions.sort_by(|one, other| (&one.name, one.version).cmp(&(&other.name, other.version)));
    let mut series = Vec::new();
    for handle in &versions {
        let version = handle.version.to_string();
        let all = handle.series.all();
        series.extend(all.iter().map(|one| (&handle.name, version.clone(), one.clone())));
    }

    processes(page, &versions);

    let count = |page: &mut Page, labels: [(&str, &str); 5], codes: &Codes| {
        let [model, version, signature, method, protocol] = labels;
        for (code, count) in codes.counted() {
            let labels = [model, version, signature, method, protocol, ("code", code.name())];
            page.sample(REQUESTS, &labels, count);
        }
    };
    page.declare(
        REQUESTS,
        COUNTER,
        Some("Requests that were answered, by canonical code; model and version are empty when none was found."),
    );
    for (model, version, series) in &series {
        count(page, labels(model, version, series), &series.codes);
    }
    for protocol in Protocol::ALL {
        for method in Method::ALL {
            let labels = [
                ("model", ""),
                ("version", ""),
                ("signature", ""),
                ("method", method.name()),
                ("protocol", protocol.name()),
            ];
            count(page, labels, app.metrics.unresolved(method, protocol));
        }
    }

    page.declare(
        DURATION,
        HISTOGRAM,
        Some("Time to answer requests with success, from the whole request to the whole answer: the total, and stages of it."),
    );
    for (model, version, series) in &series {
        if series.total.is_empty() {
            continue;
        }
        let [model, version, signature, method, protocol] = labels(model, version, series);
        let mut write = |stage, histogram| {
            let labels = [model, version, signature, method, protocol, ("stage", stage)];
            page.histogram(DURATION, &labels, histogram, |sum| sum.to_string());
        };
        write("total", &series.total);
        for (stage, histogram) in Stage::ALL.iter().zip(&series.stages) {
            write(stage.name(), histogram);
        }
    }
}

/// Of servables that have a process of their own.
fn processes(page: &mut Page, versions: &[&Arc<ServableHandle>]) {
    let counts: Vec<_> = versions
        .iter()
        .filter_map(|handle| {
            let counts = handle.servable.process_counts()?;
            Some((handle.name.as_str(), handle.version.to_string(), counts))
        })
        .collect();
    page.declare(
        HUNG_RUNS,
        COUNTER,
        Some("Runs of models in processes of their own that took longer than they may."),
    );
    for (model, version, counts) in &counts {
        page.sample(HUNG_RUNS, &[("model", model), ("version", version)], counts.hung_runs);
    }
    page.declare(RESTARTS, COUNTER, Some("How often the process of a model was started again."));
    for (model, version, counts) in &counts {
        page.sample(RESTARTS, &[("model", model), ("version", version)], counts.restarts);
    }
}

fn labels<'l>(
    model: &'l str,
    version: &'l str,
    series: &'l RequestSeries,
) -> [(&'l str, &'l str); 5] {
    [
        ("model", model),
        ("version", version),
        ("signature", &series.signature_name),
        ("method", series.method.name()),
        ("protocol", series.protocol.name()),
    ]
}
