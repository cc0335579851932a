//! Request logging: a sample of the requests that were answered, kept in files.
//!
//! A request is chosen when it arrives and handed over when it is answered; both take no longer
//! than a look at a map and a push onto a queue of bounded size. When the queue is full the record
//! is dropped and counted. `writer` has the thread that does everything else, `files` what a file
//! looks like, when the next one begins, and which ones go, and `leftovers` finishes those of who
//! was killed.

mod files;
mod leftovers;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;

pub use self::files::Limits;
use self::writer::Writer;
use crate::metrics::{Codes, LogCounts};
use crate::status::Code;
use crate::wire;

/// What is logged, by the field of `PredictionLog` that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Classify = 2,
    Regress = 3,
    MultiInference = 4,
    SessionRun = 5,
    Predict = 6,
}

/// How requests to one model are logged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logging {
    /// What the names of the files begin with.
    pub filename_prefix: String,
    /// The part of the requests that is logged, from 0 to 1.
    pub sampling_rate: f64,
    /// Serialized `SamplingConfig`, for the records.
    pub sampling_config: Vec<u8>,
    pub saved_model_tags: Vec<String>,
}

/// Told, on a thread of its own, what a person has to know: files cannot be written.
pub type Complain = Arc<dyn Fn(&str) + Send + Sync>;

/// The logs of all models.
pub struct RequestLogs {
    limits: Limits,
    by_model: ArcSwap<HashMap<String, Arc<ModelLog>>>,
    /// By prefix: models may share files. Held only while the configuration changes.
    writers: Mutex<HashMap<String, Arc<Writer>>>,
}

impl RequestLogs {
    pub fn new(limits: Limits) -> Self {
        Self { limits, by_model: ArcSwap::default(), writers: Mutex::default() }
    }

    /// Log requests as `models` says from now on, and no others. Files that nobody writes to any
    /// more are finished soon.
    pub fn set(&self, models: HashMap<String, Logging>, counts: &LogCounts, complain: &Complain) {
        let mut writers = self.writers.lock();
        let mut used = HashMap::new();
        let mut by_model = HashMap::new();
        for (model, logging) in models {
            let prefix = &logging.filename_prefix;
            let writer = used.entry(prefix.clone()).or_insert_with(|| {
                let kept = writers.remove(prefix);
                kept.unwrap_or_else(|| Writer::start(prefix, self.limits, complain.clone()))
            });
            let log = ModelLog { counts: counts.get(&model), writer: writer.clone(), logging };
            by_model.insert(model, Arc::new(log));
        }
        self.by_model.store(Arc::new(by_model));
        for unused in std::mem::replace(&mut *writers, used).into_values() {
            unused.close();
        }
    }

    /// Choose a request, which is put together only if it is chosen.
    pub fn sample(&self, model: &str, request: impl FnOnce() -> Request) -> Option<Sample> {
        let by_model = self.by_model.load();
        if by_model.is_empty() {
            return None;
        }
        let log = by_model.get(model)?;
        // A rate of 1 means every request: random numbers are below 1.
        (fastrand::f64() < log.logging.sampling_rate).then(|| Sample {
            log: log.clone(),
            model: model.to_owned(),
            request: request(),
        })
    }

    /// Bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.writers.lock().values().map(|writer| writer.queued_bytes()).sum()
    }

    /// Write what waits, finish the files, and log nothing any more; whether all was written
    /// within `timeout`.
    pub fn close(&self, timeout: Duration) -> bool {
        self.by_model.store(Arc::default());
        let writers = std::mem::take(&mut *self.writers.lock());
        for writer in writers.values() {
            writer.close();
        }
        let give_up_at = std::time::Instant::now() + timeout;
        writers.values().all(|writer| writer.wait_until_closed(give_up_at))
    }
}

/// The log of one model, as it is configured now.
struct ModelLog {
    logging: Logging,
    counts: Arc<Codes>,
    writer: Arc<Writer>,
}

/// A request as it is logged.
pub struct Request {
    pub kind: Kind,
    /// The serialized message.
    pub message: Bytes,
    pub signature_name: String,
}

/// A request that was chosen; dropped if it is not answered with success.
pub struct Sample {
    log: Arc<ModelLog>,
    model: String,
    request: Request,
}

impl Sample {
    /// Hand it over with the serialized response. Never waits.
    pub fn answered(self, version: i64, response: &[u8]) {
        let Self { log, model, request } = self;
        let size = request.message.len() + response.len();
        // Looked at first, so that nothing is copied in vain.
        if !log.writer.has_room(size) {
            log.counts.count(Code::ResourceExhausted);
            return;
        }
        let record = Record {
            metadata: metadata(&log.logging, &model, version, &request.signature_name),
            kind: request.kind,
            request: request.message,
            response: Bytes::copy_from_slice(response),
            counts: log.counts.clone(),
        };
        if !log.writer.push(record) {
            log.counts.count(Code::ResourceExhausted);
        }
    }
}

/// A `PredictionLog` in pieces.
struct Record {
    /// Serialized `LogMetadata`.
    metadata: Vec<u8>,
    kind: Kind,
    request: Bytes,
    response: Bytes,
    counts: Arc<Codes>,
}

impl Record {
    fn byte_size(&self) -> usize {
        self.metadata.len() + self.request.len() + self.response.len()
    }

    /// Append the serialized `PredictionLog`.
    fn write(&self, out: &mut Vec<u8>) {
        let Self { metadata, kind, request, response, .. } = self;
        wire::put_bytes(out, 1, metadata);
        let len = wire::bytes_len(1, request.len()) + wire::bytes_len(2, response.len());
        wire::put_tag(out, *kind as u32, wire::BYTES);
        wire::put_varint(out, len as u64);
        wire::put_bytes(out, 1, request);
        wire::put_bytes(out, 2, response);
    }
}

/// Serialized `LogMetadata`.
fn metadata(logging: &Logging, model: &str, version: i64, signature_name: &str) -> Vec<u8> {
    let mut spec = Vec::new();
    wire::put_bytes(&mut spec, 1, model.as_bytes());
    let mut number = Vec::new();
    wire::put_tag(&mut number, 1, wire::VARINT);
    wire::put_varint(&mut number, version as u64);
    wire::put_bytes(&mut spec, 2, &number);
    if !signature_name.is_empty() {
        wire::put_bytes(&mut spec, 3, signature_name.as_bytes());
    }
    let mut out = Vec::new();
    wire::put_bytes(&mut out, 1, &spec);
    wire::put_bytes(&mut out, 2, &logging.sampling_config);
    for tag in &logging.saved_model_tags {
        wire::put_bytes(&mut out, 3, tag.as_bytes());
    }
    wire::put_tag(&mut out, 4, wire::VARINT);
    wire::put_varint(&mut out, seconds_since_1970());
    out
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use prost::Message as _;

    use super::*;
    use crate::protos::tensorflow::serving::{model_spec, PredictionLog};

    /// A folder of a test's own, which goes with it.
    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const LIMITS: Limits = Limits {
        file_bytes: 1 << 20,
        file_age: Duration::from_secs(3600),
        max_files: 0,
        queue_bytes: 1 << 20,
    };

    fn logging(folder: &Path, name: &str, sampling_rate: f64) -> Logging {
        let filename_prefix = folder.join(name).to_str().unwrap().to_owned();
        Logging { filename_prefix, sampling_rate, ..Logging::default() }
    }

    fn silent() -> Complain {
        Arc::new(|problem| panic!("{problem}"))
    }

    fn ask(logs: &RequestLogs, model: &str, message: &'static [u8]) -> bool {
        let request = || Request {
            kind: Kind::Predict,
            message: Bytes::from_static(message),
            signature_name: "s".to_owned(),
        };
        let sample = logs.sample(model, request);
        let is_chosen = sample.is_some();
        if let Some(sample) = sample {
            sample.answered(7, b"answer");
        }
        is_chosen
    }

    fn counted(counts: &LogCounts, model: &str) -> Vec<(Code, u64)> {
        counts.get(model).counted().collect()
    }

    #[test]
    fn the_rate_decides_how_many_requests_are_logged() {
        let folder = Folder::new("rates");
        let counts = LogCounts::default();
        let logs = RequestLogs::new(LIMITS);
        let rates = [("all", 1.0), ("none", 0.0), ("some", 0.25)];
        logs.set(
            rates.map(|(model, rate)| (model.to_owned(), logging(&folder.0, "log", rate))).into(),
            &counts,
            &silent(),
        );
        let chosen = |model| (0..2000).filter(|_| ask(&logs, model, b"?")).count();

        assert_eq!(chosen("all"), 2000);
        assert_eq!(chosen("none"), 0);
        assert_eq!(chosen("unknown"), 0);
        // Seven standard deviations.
        assert!((365..=635).contains(&chosen("some")));
        assert!(logs.close(Duration::from_secs(20)));
    }

    #[test]
    fn what_was_answered_is_in_a_finished_file_after_closing() {
        let folder = Folder::new("closing");
        let counts = LogCounts::default();
        let logs = RequestLogs::new(LIMITS);
        let mut config = logging(&folder.0, "log", 1.0);
        config.sampling_config = vec![9, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f];
        config.saved_model_tags = vec!["serve".to_owned()];
        logs.set([("m".to_owned(), config)].into(), &counts, &silent());
        let request = || Request {
            kind: Kind::Predict,
            message: Bytes::new(),
            signature_name: "s".to_owned(),
        };
        logs.sample("m", request).unwrap().answered(7, b"");
        assert!(logs.close(Duration::from_secs(20)));

        let names = folder.names();
        assert_eq!(names.len(), 1, "{names:?}");
        assert!(names[0].starts_with("log-") && names[0].ends_with(".tfrecord"), "{names:?}");
        let file = fs::read(folder.0.join(&names[0])).unwrap();
        let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        assert_eq!(file.len(), 12 + len + 4);
        let record = PredictionLog::decode(&file[12..12 + len]).unwrap();
        let metadata = record.log_metadata.unwrap();
        let spec = metadata.model_spec.unwrap();
        assert_eq!((spec.name.as_str(), spec.signature_name.as_str()), ("m", "s"));
        assert_eq!(spec.version_choice, Some(model_spec::VersionChoice::Version(7)));
        assert_eq!(metadata.sampling_config.unwrap().sampling_rate, 1.0);
        assert_eq!(metadata.saved_model_tags, ["serve"]);
        assert!(metadata.timestamp_secs > 0);
        // The messages themselves are what they were, and no messages here.
        assert!(file[..12 + len].ends_with(b"\x32\x04\x0a\x00\x12\x00"));
        assert_eq!(counted(&counts, "m"), [(Code::Ok, 1)]);
        assert!(!ask(&logs, "m", b"later"));
    }

    #[test]
    fn a_record_that_does_not_fit_into_the_queue_is_dropped_and_counted() {
        let folder = Folder::new("queue");
        let counts = LogCounts::default();
        let logs = RequestLogs::new(Limits { queue_bytes: 10, ..LIMITS });
        logs.set([("m".to_owned(), logging(&folder.0, "log", 1.0))].into(), &counts, &silent());

        assert!(ask(&logs, "m", b"more than ten bytes"));
        assert_eq!(counted(&counts, "m"), [(Code::ResourceExhausted, 1)]);
        assert!(logs.close(Duration::from_secs(20)));
        assert_eq!(folder.names(), [""; 0]);
    }

    #[test]
    fn a_file_that_is_full_is_finished_and_the_next_one_begun() {
        let folder = Folder::new("full");
        let counts = LogCounts::default();
        let logs = RequestLogs::new(Limits { file_bytes: 1, ..LIMITS });
        logs.set([("m".to_owned(), logging(&folder.0, "log", 1.0))].into(), &counts, &silent());
        for _ in 0..3 {
            assert!(ask(&logs, "m", b"question"));
        }
        assert!(logs.close(Duration::from_secs(20)));

        assert_eq!(folder.names().len(), 3);
    }

    #[test]
    fn of_the_finished_files_of_a_prefix_the_newest_are_kept() {
        let folder = Folder::new("kept");
        let counts = LogCounts::default();
        let logs = RequestLogs::new(Limits { file_bytes: 1, max_files: 2, ..LIMITS });
        let models = [("m", "log"), ("n", "other")]
            .map(|(model, name)| (model.to_owned(), logging(&folder.0, name, 1.0)));
        logs.set(models.into(), &counts, &silent());
        assert!(ask(&logs, "n", b"question"));
        for _ in 0..5 {
            assert!(ask(&logs, "m", b"question"));
        }
        assert!(logs.close(Duration::from_secs(20)));

        let prefixes = folder.names().into_iter().map(|n| n.split('-').next().unwrap().to_owned());
        assert_eq!(prefixes.collect::<Vec<_>>(), ["log", "log", "other"]);
        assert_eq!(counted(&counts, "m"), [(Code::Ok, 5)]);
    }

    #[test]
    fn models_with_one_prefix_share_files_and_a_prefix_that_is_dropped_is_finished() {
        let folder = Folder::new("prefixes");
        let counts = LogCounts::default();
        let logs = RequestLogs::new(LIMITS);
        let both = ["a", "b"].map(|name| (name.to_owned(), logging(&folder.0, "one", 1.0)));
        logs.set(both.into(), &counts, &silent());
        assert!(ask(&logs, "a", b"1") && ask(&logs, "b", b"2"));
        logs.set([("b".to_owned(), logging(&folder.0, "other", 1.0))].into(), &counts, &silent());
        assert!(!ask(&logs, "a", b"3") && ask(&logs, "b", b"4"));
        assert!(logs.close(Duration::from_secs(20)));

        // Closing does not wait for the prefix that was dropped, which may not even have a file yet.
        let finished = |name: &&String| name.ends_with(".tfrecord");
        while folder.names().iter().filter(finished).count() < 2 {
            std::thread::yield_now();
        }
        let names: Vec<_> =
            folder.names().iter().map(|n| n.split('-').next().unwrap().to_owned()).collect();
        assert_eq!(names, ["one", "other"]);
        assert_eq!(counted(&counts, "a"), [(Code::Ok, 1)]);
    }

    #[test]
    fn a_folder_that_is_gone_is_told_of_and_counted() {
        let counts = LogCounts::default();
        let logs = RequestLogs::new(LIMITS);
        let (told, heard) = std::sync::mpsc::channel();
        let complain: Complain = Arc::new(move |problem| {
            let _ = told.send(problem.to_owned());
        });
        let config = logging(Path::new("/nonexistent"), "log", 1.0);
        logs.set([("m".to_owned(), config)].into(), &counts, &complain);
        assert!(ask(&logs, "m", b"question"));
        assert!(logs.close(Duration::from_secs(20)));

        assert!(heard.recv().unwrap().contains("/nonexistent/log"));
        assert_eq!(counted(&counts, "m"), [(Code::NotFound, 1)]);
    }
}
