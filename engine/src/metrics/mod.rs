//! What is counted while requests are answered.
//!
//! Counting is a handful of atomic additions to series that were looked up once for the request;
//! nothing is held while anything else is done. Names that clients choose never make more than a
//! bounded number of series. The pages that show all this are in `frontend::metrics`.

mod exchange;
mod histogram;
mod series;
mod sharded;
pub mod text;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use self::exchange::{Exchange, Run};
pub use self::histogram::Histogram;
use self::histogram::{BATCH_SIZES, LATENCY, QUEUING};
pub use self::series::{
    Answered, Codes, Method, ModelSeries, Models, Protocol, RequestSeries, ShadowCounts,
    ShadowResult, Stage, VersionSeries,
};
use self::sharded::Sharded;

/// Everything that is counted, but for what belongs to a version and goes with it.
#[derive(Default)]
pub struct Metrics {
    pub models: Models,
    pub warmups: Warmups,
    pub batching: Arc<Batching>,
    pub request_logs: LogCounts,
    pub mlmd: Mlmd,
    pub decisions: Decisions,
    pub fetches: Fetches,
    /// By protocol.
    in_flight: [Sharded<AtomicI64>; Protocol::ALL.len()],
    /// Requests that no version answered, by protocol and method.
    unresolved: [[Codes; Method::ALL.len()]; Protocol::ALL.len()],
}

impl Metrics {
    /// Begin to count a request.
    pub fn exchange(&self, method: Method, protocol: Protocol) -> Exchange<'_> {
        Exchange::new(self, method, protocol)
    }

    pub fn in_flight(&self, protocol: Protocol) -> i64 {
        let counts = self.in_flight[protocol as usize].all();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// A request may begin on one thread and end on another: only the sum means something.
    fn count_in_flight(&self, protocol: Protocol, change: i64) {
        let counts = &self.in_flight[protocol as usize];
        counts.here(AtomicI64::default).fetch_add(change, Ordering::Relaxed);
    }

    pub fn unresolved(&self, method: Method, protocol: Protocol) -> &Codes {
        &self.unresolved[protocol as usize][method as usize]
    }

    /// The first number under TensorFlow Serving's own name of a counter, as HandleReloadConfig
    /// answers it; 0 when nothing was counted, or there is no such counter.
    pub fn first_cell(&self, name: &str) -> i64 {
        let count = match name {
            "/tensorflow/serving/request_count" => {
                let mut models = self.models.sorted().into_iter();
                models.find_map(|(_, series)| {
                    series.codes.counted().min_by_key(|(code, _)| code.name()).map(|c| c.1)
                })
            }
            "/tensorflow/serving/request_example_count_total" => {
                let mut models = self.models.sorted().into_iter();
                models.find_map(|(_, series)| {
                    series.example_counts.get()?;
                    Some(series.examples.load(Ordering::Relaxed))
                })
            }
            "/tensorflow/serving/model_warmup_records_read" => {
                let mut warmups = self.warmups.all();
                warmups.sort_by(|one, other| one.labels().cmp(&other.labels()));
                warmups.first().map(|warmup| warmup.records.load(Ordering::Relaxed))
            }
            "/tensorflow/serving/request_log_count" => {
                let mut models = self.request_logs.all().into_iter();
                models.find_map(|(_, codes)| {
                    codes.counted().min_by_key(|(code, _)| code.name()).map(|c| c.1)
                })
            }
            "/tensorflow/serving/batching_session/wrapped_run_count" => {
                Some(self.batching.runs.load(Ordering::Relaxed))
            }
            _ => None,
        };
        count.and_then(|count| i64::try_from(count).ok()).unwrap_or_default()
    }
}

/// How often versions were promoted and rolled back, by model and decision.
#[derive(Default)]
pub struct Decisions(Mutex<BTreeMap<(String, String), u64>>);

impl Decisions {
    pub fn count(&self, model: &str, decision: &str) {
        *self.0.lock().entry((model.to_owned(), decision.to_owned())).or_default() += 1;
    }

    /// Forget those of models that are not served any more.
    pub fn keep(&self, is_served: impl Fn(&str) -> bool) {
        self.0.lock().retain(|(model, _), _| is_served(model));
    }

    pub fn all(&self) -> BTreeMap<(String, String), u64> {
        self.0.lock().clone()
    }
}

/// What became of versions that had to be fetched, by kind of store.
#[derive(Default)]
pub struct Fetches(Mutex<(BTreeMap<String, Fetched>, u64)>);

/// What was fetched from one kind of store.
#[derive(Clone, Default)]
pub struct Fetched {
    pub by_outcome: BTreeMap<String, u64>,
    pub bytes_from_store: u64,
    pub bytes_from_cache: u64,
    pub seconds: f64,
}

impl Fetches {
    /// Count one attempt, and take note of how many bytes the cache holds after it.
    pub fn count(&self, store: &str, outcome: &str, bytes: (u64, u64), seconds: f64, cached: u64) {
        let (stores, cache_bytes) = &mut *self.0.lock();
        let of_store = stores.entry(store.to_owned()).or_default();
        *of_store.by_outcome.entry(outcome.to_owned()).or_default() += 1;
        of_store.bytes_from_store += bytes.0;
        of_store.bytes_from_cache += bytes.1;
        of_store.seconds += seconds;
        *cache_bytes = cached;
    }

    /// Return what was fetched, by store, and how many bytes the cache holds.
    pub fn all(&self) -> (BTreeMap<String, Fetched>, u64) {
        self.0.lock().clone()
    }
}

/// How the recorded requests of one path fared.
pub struct Warmup {
    pub path: String,
    pub status: String,
    pub latency: Histogram,
    pub records: AtomicU64,
}

impl Warmup {
    fn labels(&self) -> (&str, &str) {
        (&self.path, &self.status)
    }
}

/// The warm-ups of the paths that were loaded last.
#[derive(Default)]
pub struct Warmups(Mutex<VecDeque<Arc<Warmup>>>);

impl Warmups {
    /// Versions come and go for as long as the server runs.
    const MAX: usize = 128;

    /// Count a warm-up that ended with `status`, which is `OK` or an error's text.
    pub fn record(&self, path: &str, status: &str, records: u64, latency: Duration) {
        let mut all = self.0.lock();
        let known = all.iter().find(|warmup| warmup.labels() == (path, status)).cloned();
        let warmup = known.unwrap_or_else(|| {
            if all.len() == Self::MAX {
                all.pop_front();
            }
            let warmup = Arc::new(Warmup {
                path: path.to_owned(),
                status: status.to_owned(),
                latency: Histogram::new(&LATENCY),
                records: AtomicU64::new(0),
            });
            all.push_back(warmup.clone());
            warmup
        });
        drop(all);
        warmup.latency.record_time(latency);
        warmup.records.fetch_add(records, Ordering::Relaxed);
    }

    pub fn all(&self) -> Vec<Arc<Warmup>> {
        self.0.lock().iter().cloned().collect()
    }
}

/// What ML Metadata calls the versions that say so, by model and version.
#[derive(Default)]
pub struct Mlmd(Mutex<BTreeMap<(String, i64), String>>);

impl Mlmd {
    /// Set or, with `None`, forget the identifier of a version.
    pub fn set(&self, model: &str, version: i64, uuid: Option<String>) {
        let key = (model.to_owned(), version);
        let mut all = self.0.lock();
        match uuid {
            Some(uuid) => all.insert(key, uuid),
            None => all.remove(&key),
        };
    }

    /// Model, version and identifier, sorted.
    pub fn all(&self) -> Vec<(String, i64, String)> {
        let all = self.0.lock();
        all.iter().map(|((model, version), uuid)| (model.clone(), *version, uuid.clone())).collect()
    }
}

/// What became of requests that were chosen to be logged, by the models that are or were logged.
#[derive(Default)]
pub struct LogCounts(Mutex<BTreeMap<String, Arc<Codes>>>);

impl LogCounts {
    pub fn get(&self, model: &str) -> Arc<Codes> {
        self.0.lock().entry(model.to_owned()).or_default().clone()
    }

    /// Sorted by model.
    pub fn all(&self) -> Vec<(String, Arc<Codes>)> {
        self.0.lock().iter().map(|(model, codes)| (model.clone(), codes.clone())).collect()
    }
}

/// What TensorFlow Serving counts of batches.
pub struct Batching {
    /// How long a task waited for its batch.
    pub queuing: Histogram,
    /// Batches that ran.
    pub runs: AtomicU64,
    /// Rows that were added, by the size that the batch had then.
    padding: Mutex<BTreeMap<usize, Arc<Histogram>>>,
    /// Rows of tasks, once for each tensor of each task.
    pub input_size: Histogram,
    /// Rows of batches that ran.
    pub processed_size: Histogram,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            queuing: Histogram::new(&QUEUING),
            runs: AtomicU64::new(0),
            padding: Mutex::default(),
            input_size: Histogram::new(&BATCH_SIZES),
            processed_size: Histogram::new(&BATCH_SIZES),
        }
    }
}

impl Batching {
    /// Count a batch that runs with `size` rows, `padding` of which were added.
    pub fn ran(&self, size: usize, padding: usize) {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.processed_size.record(size as u64);
        let mut all = self.padding.lock();
        let histogram =
            all.entry(size).or_insert_with(|| Arc::new(Histogram::new(&BATCH_SIZES))).clone();
        drop(all);
        histogram.record(padding as u64);
    }

    /// Size of the batches, and the rows that were added.
    pub fn padding(&self) -> Vec<(usize, Arc<Histogram>)> {
        self.padding.lock().iter().map(|(size, histogram)| (*size, histogram.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Code;

    #[test]
    fn the_first_cell_is_the_first_by_its_labels() {
        let metrics = Metrics::default();
        let first = |name: &str| metrics.first_cell(&format!("/tensorflow/serving/{name}"));
        assert_eq!(first("request_count"), 0);

        metrics.models.get("b").codes.count(Code::Ok);
        for code in [Code::Ok, Code::Ok, Code::NotFound, Code::NotFound, Code::NotFound] {
            metrics.models.get("a").codes.count(code);
        }
        metrics.models.get("c").record_examples(5);
        metrics.request_logs.get("b").count(Code::Ok);
        metrics.request_logs.get("a");
        metrics.warmups.record("/b", "OK", 1, Duration::ZERO);
        metrics.warmups.record("/a", "OK", 7, Duration::ZERO);
        metrics.batching.ran(4, 1);

        assert_eq!(first("request_count"), 3);
        assert_eq!(first("request_example_count_total"), 5);
        assert_eq!(first("model_warmup_records_read"), 7);
        assert_eq!(first("request_log_count"), 1);
        assert_eq!(first("batching_session/wrapped_run_count"), 1);
        assert_eq!(first("request_latency"), 0);
    }

    #[test]
    fn warmups_are_kept_for_a_bounded_number_of_versions() {
        let warmups = Warmups::default();
        for version in 0..1000 {
            warmups.record(&format!("/m/{version}"), "OK", 2, Duration::ZERO);
        }
        warmups.record("/m/999", "OK", 3, Duration::ZERO);

        let all = warmups.all();
        assert_eq!(all.len(), 128);
        assert_eq!(all[127].records.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn a_request_that_is_given_up_counts_as_cancelled_and_is_in_flight_no_more() {
        let metrics = Metrics::default();
        let mut exchange = metrics.exchange(Method::Predict, Protocol::Grpc);
        exchange.names("m");
        assert_eq!(metrics.in_flight(Protocol::Grpc), 1);

        drop(exchange);

        assert_eq!(metrics.in_flight(Protocol::Grpc), 0);
        let counted: Vec<_> = metrics.models.get("m").codes.counted().collect();
        assert_eq!(counted, [(Code::Cancelled, 1)]);
        let unresolved = metrics.unresolved(Method::Predict, Protocol::Grpc);
        assert_eq!(unresolved.counted().collect::<Vec<_>>(), counted);
    }
}
