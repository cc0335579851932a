//! Series: what is counted together, under the same labels.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::histogram::{Histogram, DURATION, EXAMPLES, LATENCY, STAGE};
use super::sharded::Sharded;
use crate::status::Code;

/// What was asked for, in the words of the gRPC API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Predict,
    Classify,
    Regress,
    MultiInference,
    GetModelMetadata,
    GetModelStatus,
    HandleReloadConfigRequest,
    /// Nothing there is: a target that makes no sense, or a browser's question.
    Other,
}

impl Method {
    pub const ALL: [Self; 8] = [
        Self::Predict,
        Self::Classify,
        Self::Regress,
        Self::MultiInference,
        Self::GetModelMetadata,
        Self::GetModelStatus,
        Self::HandleReloadConfigRequest,
        Self::Other,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Predict => "Predict",
            Self::Classify => "Classify",
            Self::Regress => "Regress",
            Self::MultiInference => "MultiInference",
            Self::GetModelMetadata => "GetModelMetadata",
            Self::GetModelStatus => "GetModelStatus",
            Self::HandleReloadConfigRequest => "HandleReloadConfigRequest",
            Self::Other => "",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    Rest,
}

impl Protocol {
    pub const ALL: [Self; 2] = [Self::Grpc, Self::Rest];

    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Rest => "rest",
        }
    }
}

/// The parts of a request, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the whole request to tensors.
    Decode,
    /// Waiting for a thread to run on.
    Queue,
    /// In the servable.
    Run,
    /// From tensors to the answer.
    Encode,
}

impl Stage {
    pub const ALL: [Self; 4] = [Self::Decode, Self::Queue, Self::Run, Self::Encode];

    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Queue => "queue",
            Self::Run => "run",
            Self::Encode => "encode",
        }
    }
}

/// A count for each canonical code.
#[derive(Default)]
pub struct Codes(Sharded<[AtomicU64; CODES]>);

const CODES: usize = 17;

impl Codes {
    pub fn count(&self, code: Code) {
        self.0.here(Default::default)[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Code and count, of those that were counted.
    pub fn counted(&self) -> impl Iterator<Item = (Code, u64)> {
        let mut counts = [0; CODES];
        for shard in self.0.all() {
            for (total, count) in counts.iter_mut().zip(shard) {
                *total += count.load(Ordering::Relaxed);
            }
        }
        let numbered = counts.into_iter().zip(0..).filter(|(count, _)| *count > 0);
        numbered.map(|(count, number)| (Code::from_number(number), count))
    }
}

/// A histogram that takes no memory until something is recorded.
#[derive(Default)]
pub struct Lazy(OnceLock<Box<Histogram>>);

impl Lazy {
    pub fn get(&self) -> Option<&Histogram> {
        self.0.get().map(|histogram| &**histogram)
    }
}

/// What TensorFlow Serving counts by the name of a model, whether there is such a model or not.
#[derive(Default)]
pub struct ModelSeries {
    pub codes: Codes,
    latencies: [Lazy; Self::LATENCIES.len()],
    runtimes: [Lazy; Self::RUNTIMES.len()],
    pub example_counts: Lazy,
    pub examples: AtomicU64,
}

impl ModelSeries {
    /// Labels `API` and `entrypoint` of each latency of requests.
    const LATENCIES: [(&'static str, &'static str); 7] = [
        ("Predict", "GRPC"),
        ("Classify", "GRPC"),
        ("Regress", "GRPC"),
        ("predict", "REST"),
        ("classify", "REST"),
        ("regress", "REST"),
        ("", "REST"),
    ];

    /// Label `API` of each latency of runs.
    const RUNTIMES: [&'static str; 4] = ["Predict", "Classify", "Regress", "MultiInference"];

    pub fn record_latency(&self, method: Method, protocol: Protocol, latency: Duration) {
        let at = match (protocol, method) {
            (Protocol::Grpc, Method::Predict) => 0,
            (Protocol::Grpc, Method::Classify) => 1,
            (Protocol::Grpc, Method::Regress) => 2,
            (Protocol::Rest, Method::Predict) => 3,
            (Protocol::Rest, Method::Classify) => 4,
            (Protocol::Rest, Method::Regress) => 5,
            (Protocol::Rest, _) => 6,
            (Protocol::Grpc, _) => return,
        };
        record(&self.latencies[at], latency);
    }

    pub fn record_run(&self, method: Method, latency: Duration) {
        if let Some(lazy) = self.runtimes.get(method as usize) {
            record(lazy, latency);
        }
    }

    pub fn record_examples(&self, count: usize) {
        let count = count as u64;
        self.examples.fetch_add(count, Ordering::Relaxed);
        self.example_counts.0.get_or_init(|| Box::new(Histogram::new(&EXAMPLES))).record(count);
    }

    /// API, entry point and latencies, of those that were recorded.
    pub fn latencies(&self) -> impl Iterator<Item = ((&'static str, &'static str), &Histogram)> {
        let all = Self::LATENCIES.into_iter().zip(&self.latencies);
        all.filter_map(|(labels, lazy)| Some((labels, lazy.get()?)))
    }

    /// API and latencies, of those that were recorded.
    pub fn runtimes(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        let all = Self::RUNTIMES.into_iter().zip(&self.runtimes);
        all.filter_map(|(api, lazy)| Some((api, lazy.get()?)))
    }
}

fn record(lazy: &Lazy, time: Duration) {
    lazy.0.get_or_init(|| Box::new(Histogram::new(&LATENCY))).record_time(time);
}

/// The series of every name that is or was served, and of some that clients made up.
pub struct Models {
    /// Read by requests, replaced when a name is added.
    by_name: ArcSwap<HashMap<String, Arc<ModelSeries>>>,
    adding: Mutex<()>,
    /// How many names are there that nobody served when they came.
    strangers: AtomicUsize,
    unknown: Arc<ModelSeries>,
}

impl Default for Models {
    fn default() -> Self {
        let unknown = Arc::<ModelSeries>::default();
        let by_name = HashMap::from([(Self::UNKNOWN.to_owned(), unknown.clone())]);
        Self {
            by_name: ArcSwap::from_pointee(by_name),
            adding: Mutex::default(),
            strangers: AtomicUsize::new(0),
            unknown,
        }
    }
}

impl Models {
    /// Names that clients made up get series of their own up to this many, and this long.
    const MAX_STRANGERS: usize = 128;
    const MAX_LENGTH: usize = 256;
    /// The others are counted under this name.
    const UNKNOWN: &'static str = "unknown";

    /// The series of a name that a request gives.
    pub fn get(&self, name: &str) -> Arc<ModelSeries> {
        if let Some(series) = self.by_name.load().get(name) {
            return series.clone();
        }
        let has_room = || self.strangers.load(Ordering::Relaxed) < Self::MAX_STRANGERS;
        if name.len() > Self::MAX_LENGTH || !has_room() {
            return self.unknown.clone();
        }
        let adding = self.adding.lock();
        // Others may have added names meanwhile, this one even.
        if let Some(series) = self.by_name.load().get(name) {
            return series.clone();
        }
        if !has_room() {
            return self.unknown.clone();
        }
        self.strangers.fetch_add(1, Ordering::Relaxed);
        let series = Arc::<ModelSeries>::default();
        self.add([(name.to_owned(), series.clone())]);
        drop(adding);
        series
    }

    /// Have series for names that are served, however many there are.
    pub fn serve<'n>(&self, names: impl IntoIterator<Item = &'n String>) {
        let _adding = self.adding.lock();
        let known = self.by_name.load();
        let new: Vec<_> = names
            .into_iter()
            .filter(|name| !known.contains_key(*name))
            .map(|name| (name.clone(), Arc::default()))
            .collect();
        if !new.is_empty() {
            self.add(new);
        }
    }

    /// Name and series, sorted by name.
    pub fn sorted(&self) -> Vec<(String, Arc<ModelSeries>)> {
        let all = self.by_name.load();
        let mut all: Vec<_> =
            all.iter().map(|(name, series)| (name.clone(), series.clone())).collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }

    fn add(&self, new: impl IntoIterator<Item = (String, Arc<ModelSeries>)>) {
        let mut by_name = HashMap::clone(&self.by_name.load());
        by_name.extend(new);
        self.by_name.store(Arc::new(by_name));
    }
}

/// What is counted of the requests for one signature of a version, in one way.
pub struct RequestSeries {
    pub method: Method,
    pub protocol: Protocol,
    /// Empty where none is meant, or one that does not exist.
    pub signature_name: String,
    pub codes: Codes,
    /// Of requests that succeeded.
    pub total: Histogram,
    pub stages: [Histogram; Stage::ALL.len()],
}

/// What became of a copy of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowResult {
    /// The answers were equal.
    Equal,
    Different,
    /// The version that got the copy could not answer.
    Failed,
    /// The copy was too large, or there was other work.
    Dropped,
}

impl ShadowResult {
    pub const ALL: [Self; 4] = [Self::Equal, Self::Different, Self::Failed, Self::Dropped];

    pub fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Different => "different",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// How the copies fared that a version got.
#[derive(Default)]
pub struct ShadowCounts([AtomicU64; ShadowResult::ALL.len()]);

impl ShadowCounts {
    pub fn count(&self, result: ShadowResult) {
        self.0[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn counted(&self) -> impl Iterator<Item = (ShadowResult, u64)> + '_ {
        ShadowResult::ALL.into_iter().zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

/// What a version has answered so far, in all ways together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answered {
    pub ok: u64,
    /// With another code than OK, but for requests that were given up.
    pub failed: u64,
    /// Limits in seconds, and how many answers took at most that; the last is infinite.
    pub within: Vec<(f64, u64)>,
}

/// All series of one version; they go when it does.
#[derive(Default)]
pub struct VersionSeries {
    pub shadow: ShadowCounts,
    /// Read by requests, replaced when one is added.
    all: ArcSwap<Vec<Arc<RequestSeries>>>,
    adding: Mutex<()>,
}

impl VersionSeries {
    /// The series of requests for a signature that exists, or for `""`.
    pub fn get(
        &self,
        method: Method,
        protocol: Protocol,
        signature_name: &str,
    ) -> Arc<RequestSeries> {
        let find = |all: &[Arc<RequestSeries>]| {
            let mut all = all.iter();
            let found = all.find(|series| {
                series.method == method
                    && series.protocol == protocol
                    && series.signature_name == signature_name
            });
            found.cloned()
        };
        if let Some(series) = find(&self.all.load()) {
            return series;
        }
        let _adding = self.adding.lock();
        let mut all = Vec::clone(&self.all.load());
        // Another thread may have added it meanwhile.
        if let Some(series) = find(&all) {
            return series;
        }
        let series = Arc::new(RequestSeries {
            method,
            protocol,
            signature_name: signature_name.to_owned(),
            codes: Codes::default(),
            total: Histogram::new(&DURATION),
            stages: std::array::from_fn(|_| Histogram::new(&STAGE)),
        });
        all.push(series.clone());
        self.all.store(Arc::new(all));
        series
    }

    pub fn all(&self) -> Arc<Vec<Arc<RequestSeries>>> {
        self.all.load_full()
    }

    /// What was answered to requests that run the servable.
    pub fn answered(&self) -> Answered {
        let mut answered = Answered::default();
        let runs = |series: &&Arc<RequestSeries>| {
            use Method::{Classify, MultiInference, Predict, Regress};
            matches!(series.method, Predict | Classify | Regress | MultiInference)
        };
        for series in self.all().iter().filter(runs) {
            for (code, count) in series.codes.counted() {
                match code {
                    Code::Ok => answered.ok += count,
                    Code::Cancelled => {}
                    _ => answered.failed += count,
                }
            }
            let limits = series
                .total
                .cumulative()
                .map(|(name, count)| (name.parse().unwrap_or(f64::INFINITY), count));
            if answered.within.is_empty() {
                answered.within = limits.collect();
            } else {
                for (sum, (_, count)) in answered.within.iter_mut().zip(limits) {
                    sum.1 += count;
                }
            }
        }
        answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_are_counted_together_beyond_a_bound_and_served_ones_are_not() {
        let models = Models::default();
        for number in 0..1000 {
            models.get(&format!("made up {number}")).codes.count(Code::NotFound);
        }
        models.get(&"x".repeat(1 << 20)).codes.count(Code::NotFound);
        let served = "served".to_owned();
        models.serve([&served]);
        models.get("served").codes.count(Code::Ok);

        let all = models.sorted();
        assert_eq!(all.len(), 128 + 2);
        let count = |name: &str| {
            let (_, series) = all.iter().find(|(known, _)| known == name).unwrap();
            series.codes.counted().collect::<Vec<_>>()
        };
        assert_eq!(count("unknown"), [(Code::NotFound, 1000 - 128 + 1)]);
        assert_eq!(count("made up 127"), [(Code::NotFound, 1)]);
        assert_eq!(count("served"), [(Code::Ok, 1)]);
    }

    #[test]
    fn names_added_from_several_threads_are_all_kept() {
        let models = Models::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let models = &models;
                scope.spawn(move || {
                    for number in 0..32 {
                        models.get(&format!("{}", thread % 2 * 32 + number)).codes.count(Code::Ok);
                    }
                });
            }
        });

        let sorted = models.sorted();
        let counts: Vec<u64> =
            sorted.iter().flat_map(|(_, series)| series.codes.counted()).map(|c| c.1).collect();
        assert_eq!(counts, vec![2; 64]);
    }

    #[test]
    fn a_series_is_found_again_by_all_of_its_labels() {
        let series = VersionSeries::default();
        let one = series.get(Method::Predict, Protocol::Grpc, "a");

        assert!(Arc::ptr_eq(&one, &series.get(Method::Predict, Protocol::Grpc, "a")));
        for (method, protocol, name) in [
            (Method::Predict, Protocol::Grpc, "b"),
            (Method::Predict, Protocol::Rest, "a"),
            (Method::Regress, Protocol::Grpc, "a"),
        ] {
            assert!(!Arc::ptr_eq(&one, &series.get(method, protocol, name)));
        }
        assert_eq!(series.all().len(), 4);
    }

    #[test]
    fn what_a_version_answered_is_the_sum_of_its_series() {
        let series = VersionSeries::default();
        for (method, protocol, code) in [
            (Method::Predict, Protocol::Grpc, Code::Ok),
            (Method::Predict, Protocol::Rest, Code::Ok),
            (Method::Predict, Protocol::Rest, Code::Internal),
            (Method::Regress, Protocol::Rest, Code::InvalidArgument),
            (Method::Predict, Protocol::Grpc, Code::Cancelled),
            (Method::GetModelMetadata, Protocol::Grpc, Code::Ok),
        ] {
            let one = series.get(method, protocol, "");
            one.codes.count(code);
            if code == Code::Ok {
                one.total.record_time(Duration::from_millis(3));
            }
        }

        let answered = series.answered();
        assert_eq!((answered.ok, answered.failed), (2, 2));
        let within = |limit: f64| answered.within.iter().find(|(at, _)| *at >= limit).unwrap().1;
        assert_eq!((within(0.002), within(0.004), within(f64::INFINITY)), (0, 2, 2));
    }
}
