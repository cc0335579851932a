//! What the front ends share: options, the serving map, version states, compute threads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use crate::abandoned::{Abandoned, Going, Threads};
use crate::access::Access;
use crate::admission::{Admission, Limit, Limits};
use crate::batching::{queue_timeout, Admitted, Pool, Queues, Shared, Ticket};
use crate::compute::{Compute, Full, Kind};
use crate::inference::model_status::VersionStates;
use crate::inference::profile::{self, Profiler};
use crate::memory;
use crate::metrics::{Exchange, Metrics, Protocol, Run};
use crate::request_log::{self, Complain, Logging, RequestLogs};
use crate::servable::RunOptions;
use crate::serving_map::{ServableHandle, ServingMap, Snapshot};
use crate::shadow::{Copy, Shadows};
use crate::status::{Result, Status};
use crate::tensor::Tensor;
use crate::turns::Client;

/// What the engine is told once, when it is made; see `ServerOptions` in `_engine.pyi`.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "python", derive(pyo3::FromPyObject))]
pub struct Options {
    pub grpc_host: String,
    pub grpc_port: Option<u16>,
    pub grpc_socket_path: String,
    pub grpc_listener: Option<i32>,
    pub grpc_socket_listener: Option<i32>,
    pub grpc_server_key: String,
    pub grpc_server_cert: String,
    pub grpc_custom_ca: String,
    pub grpc_client_verify: bool,
    pub rest_port: Option<u16>,
    pub rest_listener: Option<i32>,
    pub rest_timeout_ms: i64,
    pub rest_enable_cors: bool,
    pub rest_server_key: String,
    pub rest_server_cert: String,
    pub rest_custom_ca: String,
    pub rest_client_verify: bool,
    pub rest_api_extensions: bool,
    pub rest_compression_min_bytes: usize,
    pub io_threads: usize,
    pub compute_threads: usize,
    pub num_batch_threads: usize,
    pub batch_thread_name: String,
    pub enable_signature_method_name_check: bool,
    pub enable_serialization_as_tensor_content: bool,
    pub enable_grpc_healthcheck_service: bool,
    pub enable_profiler: bool,
    pub enable_session_service: bool,
    pub grpc_channel_arguments: HashMap<String, i64>,
    pub allow_remote_administration: bool,
    pub prometheus_path: String,
    pub metrics_path: String,
    pub max_message_bytes: usize,
    pub max_body_bytes: usize,
    pub max_in_flight_bytes: usize,
    pub max_concurrent_requests: usize,
    pub max_queued_requests: usize,
    pub max_examples: usize,
    pub max_expanded_bytes: usize,
    pub max_inflated_bytes: usize,
    pub max_inflation_ratio: usize,
    pub max_request_line_bytes: usize,
    pub max_header_bytes: usize,
    pub max_header_fields: usize,
    pub max_body_chunks: usize,
    pub max_connections: usize,
    pub max_connections_per_peer: usize,
    pub grpc_default_timeout_ms: i64,
    pub abandoned_run_s: f64,
    pub request_log_file_bytes: u64,
    pub request_log_file_s: f64,
    pub request_log_max_files: usize,
    pub request_log_queue_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            grpc_host: "0.0.0.0".to_owned(),
            grpc_port: None,
            grpc_socket_path: String::new(),
            grpc_listener: None,
            grpc_socket_listener: None,
            grpc_server_key: String::new(),
            grpc_server_cert: String::new(),
            grpc_custom_ca: String::new(),
            grpc_client_verify: false,
            rest_port: None,
            rest_listener: None,
            rest_timeout_ms: 30_000,
            rest_enable_cors: false,
            rest_server_key: String::new(),
            rest_server_cert: String::new(),
            rest_custom_ca: String::new(),
            rest_client_verify: false,
            rest_api_extensions: false,
            rest_compression_min_bytes: 16 << 10,
            io_threads: 0,
            compute_threads: 0,
            num_batch_threads: 1,
            batch_thread_name: "servable-batch".to_owned(),
            enable_signature_method_name_check: false,
            enable_serialization_as_tensor_content: false,
            enable_grpc_healthcheck_service: false,
            enable_profiler: false,
            enable_session_service: false,
            grpc_channel_arguments: HashMap::new(),
            allow_remote_administration: false,
            prometheus_path: String::new(),
            metrics_path: String::new(),
            max_message_bytes: i32::MAX as usize,
            max_body_bytes: 64 << 20,
            max_in_flight_bytes: 2 << 30,
            max_concurrent_requests: 16_384,
            max_queued_requests: 4096,
            max_examples: 65_536,
            max_expanded_bytes: 64 << 20,
            max_inflated_bytes: 100 << 20,
            max_inflation_ratio: 200,
            max_request_line_bytes: 8 << 10,
            max_header_bytes: 16 << 10,
            max_header_fields: 100,
            max_body_chunks: 65_536,
            max_connections: 16_384,
            max_connections_per_peer: 0,
            grpc_default_timeout_ms: 0,
            abandoned_run_s: 5.0,
            request_log_file_bytes: 256 << 20,
            request_log_file_s: 3600.0,
            request_log_max_files: 0,
            request_log_queue_bytes: 64 << 20,
        }
    }
}

impl Options {
    /// How much may be in flight, within the files that the system allows.
    fn limits(&self) -> Limits {
        // Models and logs have to be opened, too, when all connections are.
        let files = memory::max_files().map(|files| (files / 2).max(files.saturating_sub(256)));
        let connections = match (self.max_connections, files) {
            (0, _) => 0,
            (most, files) => most.min(files.unwrap_or(most)).max(1),
        };
        let connections_per_peer = match self.max_connections_per_peer {
            0 => connections / 2,
            most => most,
        };
        Limits {
            bytes: self.max_in_flight_bytes,
            requests: self.max_concurrent_requests,
            connections,
            connections_per_peer,
        }
    }
}

/// Who carries out a reload: takes a serialized `ModelServerConfig`, may block.
pub type ReloadHandler = Arc<dyn Fn(Vec<u8>) -> Status + Send + Sync>;

/// Who carries out what `servable.Administration` offers: takes the name of a method and its
/// serialized request and gives the serialized response, may block.
pub type AdministrationHandler = Arc<dyn Fn(&str, Vec<u8>) -> Result<Vec<u8>> + Send + Sync>;

/// Everything a front end needs to answer requests.
pub struct App {
    pub options: Options,
    pub access: Access,
    pub map: ServingMap,
    pub states: VersionStates,
    pub compute: Arc<Compute>,
    pub admission: Arc<Admission>,
    pub abandoned: Arc<Abandoned>,
    /// The threads that run batches with fixed parameters.
    batch_pool: Arc<Pool>,
    pub shadows: Shadows,
    pub metrics: Metrics,
    pub request_logs: RequestLogs,
    pub ready: AtomicBool,
    /// Set once clients are to look elsewhere, for good.
    leaving: AtomicBool,
    pub reload: RwLock<Option<ReloadHandler>>,
    pub profiler: RwLock<Option<Arc<dyn Profiler>>>,
    pub profile: profile::Current,
    pub administration: RwLock<Option<AdministrationHandler>>,
}

impl App {
    pub fn new(options: Options) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (threads, most_busy) = match options.compute_threads {
            // Where there are several cores, one more is ready when a run ends.
            0 => (4 * cores, if cores > 1 { cores + 1 } else { 1 }),
            threads => (threads, threads),
        };
        let max_waiting = match options.max_queued_requests {
            0 => usize::MAX,
            most => most,
        };
        let compute = Compute::bounded(threads, max_waiting).with_most_busy(most_busy);
        let logs = request_log::Limits {
            file_bytes: options.request_log_file_bytes,
            // What no clock can count is never.
            file_age: Duration::try_from_secs_f64(options.request_log_file_s)
                .unwrap_or(Duration::MAX),
            max_files: options.request_log_max_files,
            queue_bytes: options.request_log_queue_bytes,
        };
        let metrics = Metrics::default();
        let batch_pool = Pool::new(
            options.num_batch_threads,
            options.batch_thread_name.clone(),
            metrics.batching.clone(),
        );
        let patience =
            Duration::try_from_secs_f64(options.abandoned_run_s).unwrap_or(Duration::MAX);
        let batch_threads = options.num_batch_threads;
        Self {
            admission: Admission::new(options.limits()),
            abandoned: Abandoned::new(patience, threads, batch_threads),
            options,
            access: Access::default(),
            request_logs: RequestLogs::new(logs),
            map: ServingMap::default(),
            states: VersionStates::default(),
            compute: Arc::new(compute),
            batch_pool: Arc::new(batch_pool),
            shadows: Shadows::default(),
            metrics,
            ready: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            reload: RwLock::default(),
            profiler: RwLock::default(),
            profile: profile::Current::default(),
            administration: RwLock::default(),
        }
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.is_leaving()
    }

    /// Answer on, and have clients look elsewhere from now on.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// What the queues of a version need.
    pub fn batching(&self) -> Shared {
        Shared {
            pool: self.batch_pool.clone(),
            compute: self.compute.clone(),
            metrics: self.metrics.batching.clone(),
        }
    }

    /// Answer requests from `snapshot` from now on.
    pub fn publish(&self, snapshot: Snapshot) {
        self.metrics.models.serve(snapshot.models.keys());
        self.metrics.decisions.keep(|name| snapshot.models.contains_key(name));
        let before = self.map.snapshot();
        self.map.publish(snapshot);
        let now = self.map.snapshot();
        for (name, model) in &before.models {
            for (version, handle) in &model.versions {
                let after = now.models.get(name).and_then(|model| model.versions.get(version));
                if !after.is_some_and(|after| Arc::ptr_eq(after, handle)) {
                    handle.batching.iter().for_each(Queues::close);
                }
            }
        }
    }

    /// Log requests as `models` says, and no others.
    pub fn set_request_logging(&self, models: HashMap<String, Logging>, complain: &Complain) {
        self.request_logs.set(models, &self.metrics.request_logs, complain);
    }

    /// Run a servable, in a batch with other requests where its version has that, and by itself
    /// otherwise. Feeds and fetches are names in its graph.
    ///
    /// The answer comes at the deadline at the latest, even when the run goes on.
    ///
    /// # Errors
    /// What the runtime says, DEADLINE_EXCEEDED, or what the batching refuses.
    pub async fn run(
        &self,
        handle: Arc<ServableHandle>,
        feeds: Vec<(String, Tensor)>,
        fetches: Vec<String>,
        options: RunOptions,
        exchange: &mut Exchange<'_>,
    ) -> Result<Vec<Tensor>> {
        let copy = Copy::take(&handle, &feeds, &fetches, || self.compute.queue_depth() > 0);
        let outputs = self.run_unobserved(handle, feeds, fetches, options, exchange).await?;
        if let Some(copy) = copy {
            self.shadows.submit(copy, &outputs);
        }
        Ok(outputs)
    }

    /// Run it in a batch, or by itself.
    async fn run_unobserved(
        &self,
        handle: Arc<ServableHandle>,
        feeds: Vec<(String, Tensor)>,
        fetches: Vec<String>,
        options: RunOptions,
        exchange: &mut Exchange<'_>,
    ) -> Result<Vec<Tensor>> {
        let Some(queues) = &handle.batching else {
            return self.run_alone(handle, feeds, fetches, options, exchange).await;
        };
        let hold = handle.clone();
        let name = exchange.signature_name();
        let threads =
            if queues.parameters().is_fixed() { Threads::Batch } else { Threads::Compute };
        self.check_not_stuck(&handle, threads)?;
        match queues.admit(feeds, fetches, name, options, hold)? {
            // Boxed, so that whoever does not wait need not hold all of that.
            Admitted::Queued(mut ticket) => {
                Box::pin(async {
                    let task = ticket.task();
                    let mut awaited = self.awaited(&handle, threads, move || task.going());
                    let ran = wait_for_batch(&mut ticket, options, exchange).await;
                    if ran.as_ref().err() != Some(&Status::timed_out()) {
                        awaited.has_ended();
                    }
                    ran
                })
                .await
            }
            Admitted::AtOnce(feeds, fetches, leave) => {
                let began = exchange.lap();
                let (outputs, run) = leave.run(feeds, &fetches, options, began)?;
                exchange.ran(run, run.ended);
                Ok(outputs)
            }
            Admitted::Alone(feeds, fetches) => {
                self.run_alone(handle, feeds, fetches, options, exchange).await
            }
        }
    }

    /// Run a servable for one request, on a compute thread unless the run is known to be quick.
    async fn run_alone(
        &self,
        handle: Arc<ServableHandle>,
        feeds: Vec<(String, Tensor)>,
        fetches: Vec<String>,
        options: RunOptions,
        exchange: &mut Exchange<'_>,
    ) -> Result<Vec<Tensor>> {
        // What is quick begins where the request was decoded.
        let at_once = handle.servable.is_quick(&feeds, &fetches).then(|| exchange.lap());
        let servable = handle.servable.clone();
        let run = move || {
            let began = at_once.unwrap_or_else(Instant::now);
            let outputs = servable.run(feeds, &fetches, options)?;
            Ok((outputs, Run { began, ended: Instant::now() }))
        };
        let (outputs, run) = if at_once.is_some() {
            run()?
        } else {
            Box::pin(self.run_on_thread(handle, options.client, options.deadline, run)).await?
        };
        let resumed = if at_once.is_some() { run.ended } else { Instant::now() };
        exchange.ran(run, resumed);
        Ok(outputs)
    }

    /// Do the work of one request on a compute thread, which holds the version until it ends.
    ///
    /// # Errors
    /// The work's, DEADLINE_EXCEEDED, and UNAVAILABLE when too much waits for the model or too much
    /// of it is stuck.
    pub async fn run_on_thread<T: Send + 'static>(
        &self,
        handle: Arc<ServableHandle>,
        client: Client,
        deadline: Option<Instant>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let threads = Threads::Compute;
        self.check_not_stuck(&handle, threads)?;
        let servable = handle.servable.clone();
        let compute = servable.compute().unwrap_or(&self.compute);
        let going = Arc::new(Going::default());
        let watched = Arc::downgrade(&going);
        let mut awaited = self.awaited(&handle, threads, move || Some(watched.clone()));
        let held = handle.clone();
        let kind = Kind { lane: &handle.name, is_busy: servable.waits_for_nothing() };
        let ran = compute.run_in(kind, client, deadline, move || {
            going.begin();
            let done = work();
            drop((held, going));
            done
        });
        match ran.await {
            Ok(Err(status)) if status == Status::timed_out() => Err(status),
            Ok(ran) => {
                awaited.has_ended();
                ran
            }
            Err(full) => {
                self.admission.count_refused(Limit::Queue);
                Err(queue_is_full(&handle.name, full))
            }
        }
    }

    /// Wait for a run of which `going` tells: until that has ended, it is abandoned by whoever
    /// drops what is returned. Versions with threads of their own see to that themselves.
    fn awaited<'r, F: Fn() -> Option<Weak<Going>>>(
        &'r self,
        handle: &'r ServableHandle,
        threads: Threads,
        going: F,
    ) -> Awaited<'r, F> {
        let going = handle.servable.compute().is_none().then_some(going);
        Awaited { abandoned: &self.abandoned, model: &handle.name, threads, going }
    }

    fn check_not_stuck(&self, handle: &ServableHandle, threads: Threads) -> Result<()> {
        if handle.servable.compute().is_some() {
            return Ok(());
        }
        let checked = self.abandoned.check(&handle.name, threads, Instant::now());
        if checked.is_err() {
            self.admission.count_refused(Limit::AbandonedRuns);
        }
        checked
    }
}

/// Whoever waits for a run.
struct Awaited<'r, F: Fn() -> Option<Weak<Going>>> {
    abandoned: &'r Arc<Abandoned>,
    model: &'r str,
    threads: Threads,
    /// `None` once there is nothing to wait for.
    going: Option<F>,
}

impl<F: Fn() -> Option<Weak<Going>>> Awaited<'_, F> {
    fn has_ended(&mut self) {
        self.going = None;
    }
}

impl<F: Fn() -> Option<Weak<Going>>> Drop for Awaited<'_, F> {
    fn drop(&mut self) {
        if let Some(going) = self.going.as_ref().and_then(|going| going()) {
            self.abandoned.add(self.model, self.threads, &going, Instant::now());
        }
    }
}

fn queue_is_full(model: &str, full: Full) -> Status {
    Status::unavailable(match full {
        Full::Waiting(waiting) => format!(
            "{waiting} requests for {model} wait for a compute thread, and --max_queued_requests \
             allows no more. Try again later"
        ),
        Full::Late(wait) => format!(
            "Requests for {model} wait for about {} ms for a compute thread, more than half of the \
             time that this one has. Try again later",
            wait.as_millis()
        ),
    })
}

async fn wait_for_batch(
    ticket: &mut Ticket,
    options: RunOptions,
    exchange: &mut Exchange<'_>,
) -> Result<Vec<Tensor>> {
    let ran = match options.deadline {
        None => ticket.answer().await,
        Some(deadline) => match tokio::time::timeout_at(deadline.into(), ticket.answer()).await {
            Ok(ran) => ran,
            // A gRPC client finds out by its own clock, and calls it by that name.
            Err(_) if ticket.has_begun() || exchange.protocol() == Protocol::Grpc => {
                Err(Status::timed_out())
            }
            Err(_) => Err(queue_timeout()),
        },
    };
    let (outputs, run) = ran?;
    exchange.ran(run, Instant::now());
    Ok(outputs)
}

/// The deadline of a request that may take `timeout_ms` from now; none when that is not positive.
pub fn deadline_after_ms(timeout_ms: i64) -> Option<Instant> {
    let timeout = u64::try_from(timeout_ms).ok().filter(|&ms| ms > 0)?;
    Instant::now().checked_add(Duration::from_millis(timeout))
}
