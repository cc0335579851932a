//! Which requests count, and what they add up to.
//!
//! Times are arguments, so nothing here depends on a clock or a connection.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::process::Usage;
use super::spec::Amount;

/// Why one request was not answered as it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Connect(io::Error),
    #[error("{0}")]
    ConnectionLost(String),
    #[error("no answer in time")]
    Timeout,
    #[error("{message}")]
    Grpc { code: u16, message: String },
    #[error("{body}")]
    Http { status: u16, body: String },
    #[error("{0}")]
    UnexpectedBody(String),
    #[error("{0}")]
    Protocol(String),
}

impl Failure {
    /// What it is counted under.
    pub fn kind(&self) -> String {
        match self {
            Self::Connect(_) => "connect".into(),
            Self::ConnectionLost(_) => "connection lost".into(),
            Self::Timeout => "timeout".into(),
            Self::Grpc { code, .. } => format!("grpc {code} {}", grpc_code_name(*code)),
            Self::Http { status, .. } => format!("http {status}"),
            Self::UnexpectedBody(_) => "unexpected body".into(),
            Self::Protocol(_) => "protocol".into(),
        }
    }
}

const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

fn grpc_code_name(code: u16) -> &'static str {
    GRPC_CODES.get(usize::from(code)).copied().unwrap_or("?")
}

/// What was decided about a request when it was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Uncounted,
    Counted,
    /// The answers set the pace, so what counts is what was answered while the window was open: then
    /// requests over its length is the rate the server kept up.
    CountedIfFinishedInside,
}

/// The part of a run that is measured: what follows the warm-up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub opens: Instant,
    /// Unknown beforehand when a number of requests is measured.
    pub closes: Option<Instant>,
    closed_loop: bool,
}

impl Window {
    pub fn new(opens: Instant, amount: Amount, closed_loop: bool) -> Self {
        let closes = match amount {
            Amount::Time(length) => Some(opens + length),
            Amount::Requests(_) => None,
        };
        Self { opens, closes, closed_loop }
    }

    /// Say what becomes of a request that is due at `due`: None when the run is over.
    ///
    /// `claim` takes one of the requests there are to measure, and says whether there was one left.
    pub fn admit(&self, due: Instant, claim: impl FnOnce() -> bool) -> Option<Admission> {
        match self.closes {
            Some(closes) if due >= closes => None,
            Some(_) if self.closed_loop => Some(Admission::CountedIfFinishedInside),
            _ if due < self.opens => Some(Admission::Uncounted),
            Some(_) => Some(Admission::Counted),
            None => claim().then_some(Admission::Counted),
        }
    }

    fn counts(&self, admission: Admission, done: Instant) -> bool {
        match admission {
            Admission::Uncounted => false,
            Admission::Counted => true,
            Admission::CountedIfFinishedInside => {
                done >= self.opens && self.closes.is_none_or(|closes| done < closes)
            }
        }
    }

    /// The time that the requests which count took together.
    fn length(&self, last_done: Option<Instant>) -> Duration {
        let until_last = last_done.map_or(Duration::ZERO, |done| done.duration_since(self.opens));
        match self.closes {
            Some(closes) if self.closed_loop => closes - self.opens,
            Some(closes) => until_last.max(closes - self.opens),
            None => until_last,
        }
    }
}

/// What the requests of one thread, or of several merged, have added up to.
pub(super) struct Recorder {
    window: Window,
    latency: Histogram<u64>,
    lateness: Histogram<u64>,
    requests: u64,
    errors: BTreeMap<String, ErrorCount>,
    last_done: Option<Instant>,
    response_bytes: usize,
    pub client_cpu: Duration,
}

impl Recorder {
    pub fn new(window: Window) -> Self {
        Self {
            window,
            latency: nanoseconds(),
            lateness: nanoseconds(),
            requests: 0,
            errors: BTreeMap::new(),
            last_done: None,
            response_bytes: 0,
            client_cpu: Duration::ZERO,
        }
    }

    /// Add one request if it counts.  `outcome` is the length of the answer or what went wrong.
    pub fn record(
        &mut self,
        admission: Admission,
        due: Instant,
        sent: Instant,
        done: Instant,
        outcome: Result<usize, Failure>,
    ) {
        if !self.window.counts(admission, done) {
            return;
        }
        self.requests += 1;
        self.last_done = self.last_done.max(Some(done));
        self.lateness.saturating_record(nanos(sent.saturating_duration_since(due)));
        match outcome {
            Ok(length) => {
                self.response_bytes = length;
                self.latency.saturating_record(nanos(done.saturating_duration_since(due)));
            }
            Err(failure) => {
                let error = self.errors.entry(failure.kind()).or_default();
                error.count += 1;
                if error.count == 1 {
                    error.message = failure.to_string();
                }
            }
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.latency += &other.latency;
        self.lateness += &other.lateness;
        self.requests += other.requests;
        self.last_done = self.last_done.max(other.last_done);
        self.response_bytes = self.response_bytes.max(other.response_bytes);
        self.client_cpu += other.client_cpu;
        for (kind, theirs) in &other.errors {
            let ours = self.errors.entry(kind.clone()).or_default();
            if ours.count == 0 {
                ours.message.clone_from(&theirs.message);
            }
            ours.count += theirs.count;
        }
    }

    /// Sum up.  `server` is what the server had used when the window opened and when it closed.
    pub fn report(&self, server: Option<(u32, Usage, Usage)>) -> Report {
        let seconds = self.window.length(self.last_done).as_secs_f64();
        let ok = self.latency.len();
        Report {
            requests: self.requests,
            ok,
            errors: self.errors.clone(),
            seconds,
            requests_per_s: ratio(count(ok), seconds),
            latency_us: Latency::of(&self.latency),
            lateness_us: Latency::of(&self.lateness),
            response_bytes: self.response_bytes,
            server: server
                .map(|(pid, before, after)| self.server_usage(pid, before, after, seconds)),
            client_cpu_us_per_request: ratio(micros(self.client_cpu), count(self.requests)),
            percentiles: curve(&self.latency),
        }
    }

    fn server_usage(&self, pid: u32, before: Usage, after: Usage, seconds: f64) -> ServerUsage {
        let requests = count(self.requests);
        let cpu = after.cpu.saturating_sub(before.cpu);
        ServerUsage {
            pid,
            cpu_us_per_request: ratio(micros(cpu), requests),
            user_us_per_request: ratio(micros(after.user.saturating_sub(before.user)), requests),
            system_us_per_request: ratio(
                micros(after.system.saturating_sub(before.system)),
                requests,
            ),
            cores_used: ratio(cpu.as_secs_f64(), seconds),
            rss_bytes: after.rss_bytes,
            peak_rss_bytes: after.peak_rss_bytes,
        }
    }
}

/// The result of a run, as it goes to Python.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Requests that count, answered well or not.
    pub requests: u64,
    pub ok: u64,
    pub errors: BTreeMap<String, ErrorCount>,
    pub seconds: f64,
    /// Good answers a second.
    pub requests_per_s: f64,
    /// Of good answers, from when the request was due.
    pub latency_us: Latency,
    /// From when a request was due to when it was sent: high when the server or the generator could not
    /// keep up with the rate asked for.
    pub lateness_us: Latency,
    /// Length of one good answer.
    pub response_bytes: usize,
    pub server: Option<ServerUsage>,
    pub client_cpu_us_per_request: f64,
    /// Pairs of percentile and latency in microseconds, finer towards the end.
    pub percentiles: Vec<(f64, f64)>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ErrorCount {
    pub count: u64,
    /// Of the first one.
    pub message: String,
}

/// Microseconds; all zero when there was nothing to measure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    pub max: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| to_micros(histogram.value_at_quantile(quantile));
        Self {
            min: to_micros(histogram.min()),
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: to_micros(histogram.max()),
        }
    }
}

/// What the server's process used for the requests that count.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerUsage {
    pub pid: u32,
    pub cpu_us_per_request: f64,
    /// In steps of a hundredth of a second of the whole run, as the system counts it.
    pub user_us_per_request: f64,
    pub system_us_per_request: f64,
    /// CPU time over wall time.
    pub cores_used: f64,
    pub rss_bytes: u64,
    /// Since the process began.
    pub peak_rss_bytes: u64,
}

fn nanoseconds() -> Histogram<u64> {
    // Up to an hour, with three significant digits.
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("bounds are in order")
}

fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    histogram
        .iter_quantiles(5)
        .map(|step| (step.quantile_iterated_to() * 100.0, to_micros(step.value_iterated_to())))
        .collect()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn to_micros(nanoseconds: u64) -> f64 {
    count(nanoseconds) / 1e3
}

#[allow(clippy::cast_precision_loss)] // counts stay far below 2^53
fn count(n: u64) -> f64 {
    n as f64
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 {
        part / whole
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MILLI: Duration = Duration::from_millis(1);

    fn window(closed_loop: bool) -> Window {
        Window::new(Instant::now() + SECOND, Amount::Time(2 * SECOND), closed_loop)
    }

    fn never() -> bool {
        unreachable!("only a run of a number of requests claims them")
    }

    #[test]
    fn a_closed_loop_counts_what_is_answered_inside_the_window() {
        let window = window(true);
        let mut recorder = Recorder::new(window);
        let opens = window.opens;
        for (due, done) in [
            (opens - 20 * MILLI, opens - MILLI),
            (opens - MILLI, opens + MILLI),
            (opens + SECOND, opens + SECOND + MILLI),
            (opens + 2 * SECOND - MILLI, opens + 2 * SECOND),
        ] {
            let admission = window.admit(due, never).expect("not over");
            recorder.record(admission, due, due, done, Ok(1));
        }
        let report = recorder.report(None);

        assert_eq!(report.ok, 2);
        assert!((report.seconds - 2.0).abs() < 1e-9);
        assert!((report.requests_per_s - 1.0).abs() < 1e-9);
        assert_eq!(window.admit(opens + 2 * SECOND, never), None);
    }

    #[test]
    fn an_open_loop_counts_what_is_due_inside_the_window_however_late_the_answer() {
        let window = window(false);
        let mut recorder = Recorder::new(window);
        let due = window.opens + SECOND;
        let admission = window.admit(due, never).expect("not over");
        recorder.record(admission, due, due + SECOND, due + 3 * SECOND, Ok(1));
        let before = window.opens - MILLI;

        assert_eq!(window.admit(before, never), Some(Admission::Uncounted));
        let report = recorder.report(None);
        assert_eq!(report.ok, 1);
        // From when it was due, not from when it was sent: nothing is omitted.
        assert!((report.latency_us.max / 3e6 - 1.0).abs() < 1e-2, "{}", report.latency_us.max);
        assert!((report.lateness_us.max / 1e6 - 1.0).abs() < 1e-2);
        assert!((report.seconds - 4.0).abs() < 1e-9);
    }

    #[test]
    fn a_number_of_requests_is_claimed_one_by_one_after_the_warm_up() {
        let window = Window::new(Instant::now() + SECOND, Amount::Requests(1), true);

        assert_eq!(window.admit(window.opens - MILLI, never), Some(Admission::Uncounted));
        assert_eq!(window.admit(window.opens, || true), Some(Admission::Counted));
        assert_eq!(window.admit(window.opens, || false), None);
    }

    #[test]
    fn errors_are_counted_by_kind_and_kept_out_of_the_latencies() {
        let window = window(true);
        let at = window.opens + MILLI;
        let fail = |recorder: &mut Recorder, failure| {
            recorder.record(Admission::Counted, at, at, at + SECOND, Err(failure));
        };
        let mut one = Recorder::new(window);
        let mut two = Recorder::new(window);
        fail(&mut one, Failure::Grpc { code: 14, message: "full".into() });
        fail(&mut two, Failure::Grpc { code: 14, message: "later".into() });
        fail(&mut two, Failure::Http { status: 503, body: "busy".into() });
        two.record(Admission::Counted, at, at, at + MILLI, Ok(5));
        one.merge(&two);
        let report = one.report(None);

        assert_eq!((report.requests, report.ok, report.response_bytes), (4, 1, 5));
        assert_eq!(report.errors["grpc 14 UNAVAILABLE"].count, 2);
        assert_eq!(report.errors["grpc 14 UNAVAILABLE"].message, "full");
        assert_eq!(report.errors["http 503"].count, 1);
        assert!(report.latency_us.max < 1_100.0);
    }

    #[test]
    fn percentiles_are_right_to_three_digits_and_the_curve_ends_at_the_maximum() {
        let window = window(true);
        let mut recorder = Recorder::new(window);
        let at = window.opens;
        for micros in 1..=1000_u32 {
            let done = at + micros * Duration::from_micros(1);
            recorder.record(Admission::Counted, at, at, done, Ok(0));
        }
        let latency = recorder.report(None).latency_us;
        for (found, expected) in [
            (latency.min, 1.0),
            (latency.mean, 500.5),
            (latency.p50, 500.0),
            (latency.p90, 900.0),
            (latency.p99, 990.0),
            (latency.p99_9, 999.0),
            (latency.max, 1000.0),
        ] {
            assert!((found / expected - 1.0).abs() < 2e-3, "{found} for {expected}");
        }

        let curve = recorder.report(None).percentiles;
        let (percentile, value) = *curve.last().expect("not empty");
        assert!((percentile - 100.0).abs() < 1e-9 && (value / 1000.0 - 1.0).abs() < 2e-3);
        assert!(curve.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 <= w[1].1));
    }

    #[test]
    fn the_servers_cpu_time_is_shared_out_over_the_requests() {
        let window = window(true);
        let mut recorder = Recorder::new(window);
        for _ in 0..4 {
            let at = window.opens;
            recorder.record(Admission::Counted, at, at, at + MILLI, Ok(0));
        }
        let before = Usage { cpu: SECOND, user: SECOND, ..Usage::default() };
        let after = Usage { cpu: 2 * SECOND, user: SECOND + SECOND / 2, ..before };
        let server = recorder.report(Some((1, before, after))).server.expect("asked for");

        assert!((server.cpu_us_per_request - 250_000.0).abs() < 1e-6);
        assert!((server.user_us_per_request - 125_000.0).abs() < 1e-6);
        assert!((server.cores_used - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_run_without_requests_divides_by_nothing() {
        let report =
            Recorder::new(window(true)).report(Some((1, Usage::default(), Usage::default())));

        assert_eq!(report.ok, 0);
        assert!(report.requests_per_s.abs() < 1e-9 && report.latency_us.p99.abs() < 1e-9);
    }
}
