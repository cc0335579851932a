//! Models inside somebody else's program: opened from a directory, run on the caller's thread,
//! replaced when a newer version appears.
//!
//! There is no network, no Python and no control plane here, and one model at a time: what is
//! opened is a SavedModel, or the newest version under a base path that loads. Which versions are
//! tried is decided in `versions`, where the runtime is found in `library`; `version` runs
//! requests, and this file loads, replaces and frees.

mod library;
mod version;
mod versions;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex};

pub use self::version::{Input, Version};
use self::versions::{Attempts, Content, Found};
use crate::batching::{self, Parameters};
use crate::compute::Compute;
use crate::metrics::Batching;
use crate::servable::tensorflow::{load_library, load_saved_model, Library, LoadOptions};
use crate::status::{Result, Status};

/// How to open a model.
#[derive(Clone, Default)]
pub struct Options {
    /// Where the TensorFlow library is; `None`: it is looked for.
    pub tensorflow_directory: Option<PathBuf>,
    /// Name the graph; none: `serve`.
    pub tags: Vec<String>,
    /// Serialized `tensorflow.ConfigProto`.
    pub session_config: Vec<u8>,
    /// How often a base path is looked at again; `None`: never.
    pub poll_interval: Option<Duration>,
    /// Rows of a batch; 0: requests run by themselves.
    pub max_batch_size: usize,
    /// How long a batch waits for rows; zero: sizes and waits are found from what runs.
    pub batch_timeout: Duration,
    /// Told what becomes of versions, on the thread where it happens.
    pub on_event: Option<Listener>,
}

/// Is told the number of a version, and what became of it.
pub type Listener = Arc<dyn Fn(i64, Event<'_>) + Send + Sync>;

impl Options {
    fn tell(&self, version: i64, event: Event<'_>) {
        if let Some(on_event) = &self.on_event {
            on_event(version, event);
        }
    }
}

/// What became of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'s> {
    /// It answers from now on.
    Loaded,
    /// It does not load; it is tried again when its files have changed.
    Failed(&'s Status),
    /// It was freed.
    Unloaded,
}

/// An open model. Dropping it leaves the versions that somebody still holds.
pub struct Model {
    shared: Arc<Shared>,
    watcher: Option<JoinHandle<()>>,
}

struct Shared {
    path: PathBuf,
    loader: Loader,
    current: ArcSwap<Version>,
    signal: Arc<Signal>,
}

/// A version that somebody uses: it stays loaded until this is dropped.
pub struct Lease {
    version: Arc<Version>,
    model: Arc<Signal>,
}

impl Lease {
    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Only versions that were replaced wait for anybody.
        if self.version.is_retired() {
            let left = Arc::strong_count(&self.version);
            // This one, and the watcher's.
            if left <= 2 {
                self.model.wake(|state| state.is_released = true);
            }
        }
    }
}

/// What wakes the watcher.
#[derive(Default)]
struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    /// Whether somebody let go of a version that was replaced.
    is_released: bool,
}

impl Signal {
    fn wake(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    /// Wait for a change, `timeout` at most; false when the model was closed.
    fn wait(&self, timeout: Duration) -> bool {
        let mut state = self.state.lock();
        self.changed.wait_while_for(
            &mut state,
            |state| !state.is_closed && !state.is_released,
            timeout,
        );
        state.is_released = false;
        !state.is_closed
    }
}

impl Model {
    /// Open the SavedModel at `path`, or the newest version below it that loads. Blocks for as long
    /// as that takes.
    ///
    /// # Errors
    /// NOT_FOUND when there is no model; FAILED_PRECONDITION without TensorFlow; what the newest
    /// version failed with, when none loads.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        let directory = library::directory(options.tensorflow_directory.as_deref())?;
        let path = path.canonicalize().map_err(|error| {
            Status::not_found(format!("There is no model at {}: {error}", path.display()))
        })?;
        let loader = Loader::new(load_library(&directory)?, options)?;
        let mut attempts = Attempts::default();
        let (version, failed) = loader.newest(&path, &mut attempts, None)?;
        let version = version.ok_or_else(|| failed.unwrap_or_else(|| no_version(&path)))?;
        loader.options.tell(version.number(), Event::Loaded);
        let poll_interval =
            loader.options.poll_interval.filter(|_| !versions::is_saved_model(&path));
        let shared = Arc::new(Shared {
            path,
            loader,
            current: ArcSwap::new(Arc::new(version)),
            signal: Arc::default(),
        });
        let watcher = match poll_interval {
            None => None,
            Some(interval) => Some(watch(shared.clone(), attempts, interval)?),
        };
        Ok(Self { shared, watcher })
    }

    /// The version that answers now.
    pub fn acquire(&self) -> Lease {
        Lease { version: self.shared.current.load_full(), model: self.shared.signal.clone() }
    }

    /// Version of the TensorFlow library.
    pub fn tensorflow_version(&self) -> String {
        self.shared.loader.library.version_text()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.shared.signal.wake(|state| state.is_closed = true);
        if let Some(watcher) = self.watcher.take() {
            // One that panicked has nothing more to end.
            drop(watcher.join());
        }
        let current = self.shared.current.load_full();
        current.retire();
    }
}

fn no_version(path: &Path) -> Status {
    Status::not_found(format!(
        "There is no SavedModel at {0}: neither a file saved_model.pb nor a directory named by a \
         number",
        path.display()
    ))
}

fn watch(
    shared: Arc<Shared>,
    mut attempts: Attempts,
    interval: Duration,
) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name("servable-watch".to_owned());
    let watch = move || {
        let mut retired: Vec<Arc<Version>> = Vec::new();
        while shared.signal.wait(interval) {
            let all = std::mem::take(&mut retired);
            let (used, unused) =
                all.into_iter().partition(|version| Arc::strong_count(version) > 1);
            retired = used;
            free(unused, &shared.loader.options);
            let current = shared.current.load_full();
            let newest = shared.loader.newest(&shared.path, &mut attempts, Some(current.number()));
            // What cannot be listed now may be listed next time; what is loaded stays.
            if let Ok((Some(version), _)) = newest {
                let number = version.number();
                shared.current.store(Arc::new(version));
                current.retire();
                shared.loader.options.tell(number, Event::Loaded);
                retired.push(current);
                shared.signal.wake(|state| state.is_released = true);
            }
        }
    };
    let failed = |error| Status::internal(format!("A thread cannot be started: {error}"));
    thread.spawn(watch).map_err(failed)
}

/// Free versions that nobody uses: here, and on no thread that has requests to run.
fn free(unused: Vec<Arc<Version>>, options: &Options) {
    for version in unused {
        let number = version.number();
        drop(version);
        options.tell(number, Event::Unloaded);
    }
}

/// Loads versions.
struct Loader {
    library: &'static Library,
    options: Options,
    batching: Option<Arc<Batches>>,
}

/// What batches need.
pub struct Batches {
    pub runtime: tokio::runtime::Runtime,
    pub parameters: Parameters,
    pub shared: batching::Shared,
}

impl Loader {
    fn new(library: &'static Library, mut options: Options) -> Result<Self> {
        if options.tags.is_empty() {
            options.tags.push("serve".to_owned());
        }
        let batching = match options.max_batch_size {
            0 => None,
            size => Some(Arc::new(Batches::new(size, options.batch_timeout)?)),
        };
        Ok(Self { library, options, batching })
    }

    /// Load the newest version at `path` that loads, unless it is `current`; and what the newest
    /// one failed with, if one did.
    fn newest(
        &self,
        path: &Path,
        attempts: &mut Attempts,
        current: Option<i64>,
    ) -> Result<(Option<Version>, Option<Status>)> {
        let mut failed = None;
        for Found { number, path } in versions::list(path)? {
            if current == Some(number) {
                break;
            }
            let content = Content::of(&path);
            if !attempts.is_worth(number, content) {
                continue;
            }
            let loaded = self.load(number, &path, content).map_err(|status| {
                Status::new(status.code, format!("{}: {}", path.display(), status.message))
            });
            match loaded {
                Ok(version) => {
                    attempts.loaded(number);
                    return Ok((Some(version), failed));
                }
                Err(status) => {
                    attempts.failed(number, content);
                    self.options.tell(number, Event::Failed(&status));
                    failed.get_or_insert(status);
                }
            }
        }
        Ok((None, failed))
    }

    fn load(&self, number: i64, path: &Path, content: Content) -> Result<Version> {
        let options = LoadOptions {
            tags: self.options.tags.clone(),
            session_config: self.options.session_config.clone(),
            inter_op_in_caller: true,
            session_target: String::new(),
            load_run_options: Vec::new(),
            // There is no Python to restore them.
            refuses_unrestored: true,
        };
        let model = load_saved_model(self.library, path, &options)?;
        if Content::of(path) != content {
            return Err(Status::unavailable(
                "The files of the version changed while it was loaded; the copy may be incomplete",
            ));
        }
        Ok(Version::new(number, Arc::new(model), self.batching.clone()))
    }
}

impl Batches {
    fn new(max_batch_size: usize, timeout: Duration) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("servable-io")
            .enable_time()
            .build()
            .map_err(|error| Status::internal(format!("A thread cannot be started: {error}")))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let metrics = Arc::<Batching>::default();
        let name = "servable-batch".to_owned();
        Ok(Self {
            runtime,
            parameters: Parameters {
                // Requests that are larger than a batch are split.
                max_batch_size: i32::MAX as usize,
                batch_timeout_s: timeout.as_secs_f64(),
                max_enqueued_batches: 1000,
                allowed_batch_sizes: Vec::new(),
                pad_variable_length_inputs: false,
                enable_large_batch_splitting: true,
                max_execution_batch_size: max_batch_size,
                run_unbatchable_alone: true,
                padding_value: None,
                unpad_outputs: false,
                unbatched_signatures: Vec::new(),
                batcher: None,
                policy: if timeout.is_zero() { "adaptive" } else { "fixed" }.to_owned(),
                target_p99_ms: 0.0,
                max_in_flight: 0,
            },
            shared: batching::Shared {
                pool: Arc::new(batching::Pool::new(cores, name, metrics.clone())),
                compute: Arc::new(Compute::new(cores)),
                metrics,
            },
        })
    }
}
