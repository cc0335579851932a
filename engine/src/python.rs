//! The Python module `servable._engine`, and nothing else: `_engine.pyi` says what is here.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::access::{Scopes, Token};
use crate::app::Options;
use crate::batching::{Decision, Parameters, Queues};
use crate::composite::Composite;
use crate::frontend::metrics::own_page;
use crate::frontend::tls::Credentials;
use crate::inference::model_status::VersionStatus;
use crate::inference::profile::{Levels, Profiler};
use crate::inference::serialized::examples::replay;
use crate::memory;
use crate::promptness;
use crate::request_log::{Complain, Logging};
use crate::servable::fixed_inputs::FixedInputs;
use crate::servable::native;
use crate::servable::python::PythonServable;
use crate::servable::table::{Column, Rows, Table, Value};
use crate::servable::tensorflow::{load_library, load_saved_model as load, Library, LoadOptions};
use crate::servable::worker::{self, Recipe};
use crate::servable::Servable as Runs;
use crate::server::{Port, Server};
use crate::serving_map::{Model, Released, Route, ServableHandle, Snapshot};
use crate::status::{Code, Result, Status};
use crate::tensor::DType;

mod exception {
    use super::{Code, PyErr, PyResult, Python, Status};
    use pyo3::prelude::*;

    pyo3::create_exception!(
        _engine,
        EngineError,
        pyo3::exceptions::PyException,
        "What the engine refuses or fails at, with a canonical status code."
    );

    pub fn raise(status: Status) -> PyErr {
        Python::attach(|py| {
            let error = EngineError::new_err(status.to_string());
            let value = error.value(py);
            let set = value
                .setattr("code", status.code.number())
                .and_then(|()| value.setattr("message", status.message.as_ref()));
            match set {
                Ok(()) => error,
                Err(other) => other,
            }
        })
    }

    /// What a handler in Python answered, as a status.
    pub fn status(answer: PyResult<(i32, String)>) -> Status {
        match answer {
            Ok((code, message)) => Status::new(Code::from_number(code), message),
            Err(_) => Status::internal("The handler failed"),
        }
    }
}

use exception::raise;

/// Name, SHA-256, names of scopes, models.
type TokenRow = (String, Vec<u8>, Vec<String>, Vec<String>);

#[pyclass(frozen, module = "servable._engine")]
struct Servable {
    /// `None` once closed.
    inner: Mutex<Option<Arc<dyn Runs>>>,
    batching: Mutex<Option<Parameters>>,
    released: Released,
}

impl Servable {
    fn new(inner: Arc<dyn Runs>) -> Self {
        Self {
            inner: Mutex::new(Some(inner)),
            batching: Mutex::default(),
            released: Released::default(),
        }
    }

    fn get(&self) -> PyResult<Arc<dyn Runs>> {
        let inner = self.inner.lock().clone();
        inner.ok_or_else(|| raise(Status::failed_precondition("The servable was closed")))
    }
}

#[pymethods]
impl Servable {
    #[getter]
    fn signature_def_map<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, self.get()?.signature_def_map()))
    }

    #[pyo3(signature = (log_type, request, engine=None, all_batch_sizes=false))]
    fn replay<'py>(
        &self,
        py: Python<'py>,
        log_type: i32,
        request: &[u8],
        engine: Option<&Bound<'py, Engine>>,
        all_batch_sizes: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let inner = self.get()?;
        let request = Bytes::copy_from_slice(request);
        let app = engine.map(|engine| engine.get().server.app.clone());
        let metrics = app.as_ref().map(|app| &app.metrics);
        let mut handle = ServableHandle::new(String::new(), 0, inner.clone(), &self.released);
        if let (Some(app), Some(parameters)) = (&app, self.batching.lock().clone()) {
            handle = handle.batched(Queues::new(String::new(), inner, parameters, app.batching()));
        }
        let answer = py.detach(|| replay(&handle, log_type, &request, metrics, all_batch_sizes));
        Ok(PyBytes::new(py, answer.map_err(raise)?.as_slice()))
    }

    fn set_batching(&self, parameters: Parameters) {
        *self.batching.lock() = Some(parameters);
    }

    fn in_use(&self) -> bool {
        self.released.in_use()
    }

    #[pyo3(signature = (timeout_s=None))]
    fn close(&self, py: Python<'_>, timeout_s: Option<f64>) -> PyResult<bool> {
        let timeout = timeout_s.map(seconds).transpose()?;
        Ok(py.detach(|| {
            if !self.released.wait(timeout) {
                return false;
            }
            let inner = self.inner.lock().take();
            drop(inner);
            memory::give_back();
            true
        }))
    }
}

fn seconds(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(error.to_string()))
}

#[pyfunction]
fn give_way(nice: i32) -> bool {
    promptness::give_way(nice)
}

#[pyfunction]
fn load_tensorflow(py: Python<'_>, library_directory: &str) -> PyResult<String> {
    let library = py.detach(|| load_library(Path::new(library_directory)));
    library.map(Library::version_text).map_err(raise)
}

#[pyfunction]
fn load_op_library(py: Python<'_>, path: &str) -> PyResult<()> {
    let loaded = py.detach(|| load_library(Path::new(""))?.load_op_library(Path::new(path)));
    loaded.map_err(raise)
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
#[pyo3(signature = (
    path, tags, session_config, inter_op_in_caller, session_target=String::new(),
    load_run_options=Vec::new(), fixed_inputs=Vec::new(),
))]
fn load_saved_model(
    py: Python<'_>,
    path: &str,
    tags: Vec<String>,
    session_config: Vec<u8>,
    inter_op_in_caller: bool,
    session_target: String,
    load_run_options: Vec<u8>,
    fixed_inputs: Vec<(String, Vec<u8>)>,
) -> PyResult<Servable> {
    let options = LoadOptions {
        tags,
        session_config,
        inter_op_in_caller,
        session_target,
        load_run_options,
        // Those were given to Python's TensorFlow, or left out of account, before.
        refuses_unrestored: false,
    };
    let model = py.detach(|| {
        // Opened before: the directory counts only the first time.
        let library = load_library(Path::new(""))?;
        load(library, Path::new(path), &options)
    });
    let model: Arc<dyn Runs> = Arc::new(model.map_err(raise)?);
    if fixed_inputs.is_empty() {
        return Ok(Servable::new(model));
    }
    let inputs = fixed_inputs.into_iter().map(|(name, input)| (name, Bytes::from(input)));
    let with_inputs = FixedInputs::new(model, inputs.collect()).map_err(raise)?;
    Ok(Servable::new(Arc::new(with_inputs)))
}

#[pyfunction]
#[pyo3(signature = (command, payload, run_limit_s, inner=None))]
fn load_worker(
    py: Python<'_>,
    command: Vec<String>,
    payload: Vec<u8>,
    run_limit_s: f64,
    inner: Option<&Bound<'_, Servable>>,
) -> PyResult<Servable> {
    let recipe = Recipe { command, payload, run_limit: seconds(run_limit_s)? };
    let inner = inner.map(|servable| servable.get().get()).transpose()?;
    let loaded = py.detach(|| worker::load(recipe, inner));
    Ok(Servable::new(loaded.map_err(raise)?))
}

#[pyfunction]
fn load_native(
    py: Python<'_>,
    library: &str,
    directory: &str,
    model_name: &str,
    model_version: i64,
) -> PyResult<Servable> {
    let directory = Path::new(directory);
    let version = native::Version { directory, model_name, number: model_version };
    // SAFETY: whoever runs the server has said that native models are trusted.
    let loaded = py.detach(|| unsafe { native::load(Path::new(library), &version) });
    Ok(Servable::new(Arc::new(loaded.map_err(raise)?)))
}

/// Collects the rows of a look-up table.
#[pyclass(frozen, module = "servable._engine")]
struct TableBuilder {
    /// The keys, and each column by its alias; `None` once the table was made.
    columns: Mutex<Option<(Column, Vec<Value>)>>,
}

#[pymethods]
impl TableBuilder {
    #[new]
    fn new(key_dtype: i32, columns: Vec<(String, i32, Vec<i64>)>) -> PyResult<Self> {
        let column = |number: i32, row_shape: Vec<i64>| {
            let dtype = DType::from_number(number)
                .ok_or_else(|| Status::invalid_argument(format!("Unknown type {number}")))?;
            Column::new(dtype, row_shape)
        };
        let keys = column(key_dtype, Vec::new()).map_err(raise)?;
        let values = columns.into_iter().map(|(alias, number, row_shape)| {
            Ok(Value { alias, column: column(number, row_shape)?, default: Vec::new() })
        });
        let values = values.collect::<Result<Vec<_>>>().map_err(raise)?;
        Ok(Self { columns: Mutex::new(Some((keys, values))) })
    }

    fn add(&self, keys: &Bound<'_, PyAny>, columns: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
        let mut state = self.columns.lock();
        let (own_keys, values) = state.as_mut().ok_or_else(|| raise(was_made()))?;
        if columns.len() != values.len() {
            return Err(PyValueError::new_err("there are other columns"));
        }
        add_rows(own_keys, keys)?;
        for (value, rows) in values.iter_mut().zip(&columns) {
            add_rows(&mut value.column, rows)?;
        }
        Ok(())
    }

    fn finish(
        &self,
        py: Python<'_>,
        signature_def_map: &[u8],
        defaults: Vec<Vec<u8>>,
        is_strict: bool,
    ) -> PyResult<(Servable, usize, usize)> {
        let (keys, mut values) = self.columns.lock().take().ok_or_else(|| raise(was_made()))?;
        if defaults.len() != values.len() {
            return Err(PyValueError::new_err("there are other columns"));
        }
        for (value, default) in values.iter_mut().zip(defaults) {
            value.default = default;
        }
        let map = Bytes::copy_from_slice(signature_def_map);
        let made = py.detach(|| {
            let rows = Rows::new(keys, values, is_strict)?;
            let (count, memory_bytes) = (rows.len(), rows.memory_bytes());
            Ok((Table::new(rows, map)?, count, memory_bytes))
        });
        let (table, count, memory_bytes) = made.map_err(raise)?;
        Ok((Servable::new(Arc::new(table)), count, memory_bytes))
    }
}

fn was_made() -> Status {
    Status::failed_precondition("The table was made already")
}

/// Append a list of bytes to texts, a buffer to anything else.
fn add_rows(column: &mut Column, rows: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Column::Texts(_) = column {
        for text in rows.try_iter()? {
            let text = text?;
            column.push_text(text.cast::<PyBytes>()?.as_bytes()).map_err(raise)?;
        }
        return Ok(());
    }
    column.extend(rows.cast::<PyBytes>()?.as_bytes()).map_err(raise)
}

#[pyfunction]
fn composite_servable(
    engine: &Bound<'_, Engine>,
    recipe: &str,
    signature_def_map: &[u8],
) -> PyResult<Servable> {
    let map = Bytes::copy_from_slice(signature_def_map);
    let made = Composite::new(&engine.get().server.app, recipe, map).map_err(raise)?;
    Ok(Servable::new(Arc::new(made)))
}

#[pyfunction]
fn python_servable(servable: Py<PyAny>, signature_def_map: &[u8]) -> PyResult<Servable> {
    let map = Bytes::copy_from_slice(signature_def_map);
    let inner = PythonServable::new(servable, map).map_err(raise)?;
    Ok(Servable::new(Arc::new(inner)))
}

#[pyclass(frozen, module = "servable._engine")]
struct Engine {
    server: Server,
}

/// `QueueObservation` in `_engine.pyi`.
#[derive(IntoPyObject)]
struct QueueObservation {
    model: String,
    version: i64,
    signature: String,
    policy: String,
    max_batch_size: usize,
    target_p99_s: f64,
    waiting_rows: usize,
    in_flight: usize,
    arrival_rate: f64,
    row_s: Vec<(usize, f64)>,
    size: usize,
    wait_s: f64,
    max_in_flight: usize,
}

impl QueueObservation {
    fn of(handle: &ServableHandle) -> Vec<Self> {
        let Some(queues) = &handle.batching else { return Vec::new() };
        let parameters = queues.parameters();
        if parameters.is_fixed() {
            return Vec::new();
        }
        let observed = queues.observe().into_iter().map(|(signature, seen)| Self {
            model: handle.name.clone(),
            version: handle.version,
            signature,
            policy: parameters.policy.clone(),
            max_batch_size: parameters.limits().max_batch_size,
            target_p99_s: parameters.target_p99_ms / 1e3,
            waiting_rows: seen.waiting_rows,
            in_flight: seen.in_flight,
            arrival_rate: seen.arrival_rate,
            row_s: seen.costs.known().map(|(size, row_s, _)| (size, row_s)).collect(),
            size: seen.decision.size,
            wait_s: seen.decision.wait.as_secs_f64(),
            max_in_flight: seen.decision.in_flight,
        });
        observed.collect()
    }
}

type Versions = HashMap<i64, Py<Servable>>;
/// Stable version, candidate, part, tolerance of a shadow.
type Routes = HashMap<String, (i64, i64, f64, Option<f64>)>;
/// OK, failed, answers within so many seconds, copies by result.
type Answered = (u64, u64, Vec<(f64, u64)>, HashMap<&'static str, u64>);

#[pymethods]
impl Engine {
    #[new]
    fn new(options: Options) -> PyResult<Self> {
        worker::prepare();
        Ok(Self { server: Server::new(options).map_err(raise)? })
    }

    #[allow(clippy::needless_pass_by_value)]
    #[pyo3(signature = (servables, labels, routes=None))]
    fn publish(
        &self,
        py: Python<'_>,
        servables: HashMap<String, Versions>,
        labels: HashMap<String, HashMap<String, i64>>,
        routes: Option<Routes>,
    ) -> PyResult<()> {
        // Versions that stay keep their handles: only what is new gets one.
        let before = self.server.app.map.snapshot();
        let mut snapshot = Snapshot::default();
        for (name, versions) in servables {
            let mut model = Model::default();
            for (version, servable) in versions {
                let servable = servable.get();
                let inner = servable.get()?;
                let kept = before.models.get(&name).and_then(|model| model.versions.get(&version));
                let handle = match kept {
                    Some(handle) if Arc::ptr_eq(&handle.servable, &inner) => handle.clone(),
                    _ => {
                        let queues = servable.batching.lock().clone().map(|parameters| {
                            let shared = self.server.app.batching();
                            Queues::new(name.clone(), inner.clone(), parameters, shared)
                        });
                        let released = &servable.released;
                        let handle = ServableHandle::new(name.clone(), version, inner, released);
                        Arc::new(match queues {
                            Some(queues) => handle.batched(queues),
                            None => handle,
                        })
                    }
                };
                model.versions.insert(version, handle);
            }
            snapshot.models.insert(name, model);
        }
        for (name, labels) in labels {
            snapshot.models.entry(name).or_default().labels = labels;
        }
        for (name, (stable, candidate, part, tolerance)) in routes.unwrap_or_default() {
            let route = Route::new(stable, candidate, part, tolerance);
            let known = before.models.get(&name).and_then(|model| model.route.as_ref());
            let route = known.map_or_else(|| route.clone(), |known| route.clone().after(known));
            snapshot.models.entry(name).or_default().route = Some(route);
        }
        py.detach(|| {
            self.server.app.publish(snapshot);
            drop(before);
        });
        Ok(())
    }

    fn set_version_state(
        &self,
        py: Python<'_>,
        name: &str,
        version: i64,
        state: i32,
        code: i32,
        message: String,
    ) {
        let code = Code::from_number(code);
        let status = VersionStatus { version, state, code, message };
        py.detach(|| self.server.set_version_state(name, status));
    }

    fn set_reload_handler(&self, handler: Py<PyAny>) {
        let handler = move |config: Vec<u8>| {
            Python::attach(|py| {
                let answer = handler.call1(py, (PyBytes::new(py, &config),));
                exception::status(answer.and_then(|answer| answer.extract(py)))
            })
        };
        *self.server.app.reload.write() = Some(Arc::new(handler));
    }

    fn set_request_logging(
        &self,
        py: Python<'_>,
        models: HashMap<String, (String, f64, Vec<u8>, Vec<String>)>,
        complain: Py<PyAny>,
    ) {
        let models = models.into_iter().map(|(model, logging)| {
            let (filename_prefix, sampling_rate, sampling_config, saved_model_tags) = logging;
            let logging =
                Logging { filename_prefix, sampling_rate, sampling_config, saved_model_tags };
            (model, logging)
        });
        let models = models.collect();
        let complain: Complain = Arc::new(move |problem| {
            Python::attach(|py| {
                // Whoever is told must not fail; there is nobody else to tell.
                let _ = complain.call1(py, (problem,));
            });
        });
        py.detach(|| self.server.app.set_request_logging(models, &complain));
    }

    fn set_warning_handler(&self, handler: Py<PyAny>) {
        self.server.app.abandoned.set_tell(Arc::new(move |warning| {
            Python::attach(|py| {
                // Whoever is told must not fail; there is nobody else to tell.
                let _ = handler.call1(py, (warning,));
            });
        }));
    }

    fn set_profiler(&self, profiler: Py<PyAny>) {
        *self.server.app.profiler.write() = Some(Arc::new(PythonProfiler(profiler)));
    }

    #[allow(clippy::too_many_arguments)]
    fn replace_credentials(
        &self,
        py: Python<'_>,
        port: &str,
        server_key: String,
        server_cert: String,
        custom_ca: String,
        client_verify: bool,
    ) -> PyResult<()> {
        let port = if port == "rest" { Port::Rest } else { Port::Grpc };
        let credentials = Credentials { server_key, server_cert, custom_ca, client_verify };
        py.detach(|| self.server.replace_credentials(port, &credentials)).map_err(raise)
    }

    fn set_auth_tokens(&self, tokens: Vec<TokenRow>) -> PyResult<()> {
        let token = |(name, sha256, scopes, models): TokenRow| {
            let wrong = || PyValueError::new_err(format!("{name} is no token"));
            let sha256 = sha256.try_into().map_err(|_| wrong())?;
            let scopes = Scopes::named(scopes.iter().map(String::as_str)).ok_or_else(wrong)?;
            Ok(Token { name, sha256, scopes, models })
        };
        let tokens = tokens.into_iter().map(token).collect::<PyResult<_>>()?;
        self.server.app.access.set(tokens);
        Ok(())
    }

    fn set_administration_handler(&self, handler: Py<PyAny>) {
        let handler = move |method: &str, request: Vec<u8>| {
            Python::attach(|py| {
                let answer = handler.call1(py, (method, PyBytes::new(py, &request)));
                let answer = answer.and_then(|answer| {
                    let (code, message, response): (i32, String, Vec<u8>) = answer.extract(py)?;
                    Ok((Status::new(Code::from_number(code), message), response))
                });
                let failed = |_| Status::internal("The handler failed");
                let (status, response) = answer.map_err(failed)?;
                if status.code == Code::Ok {
                    Ok(response)
                } else {
                    Err(status)
                }
            })
        };
        *self.server.app.administration.write() = Some(Arc::new(handler));
    }

    fn answered(&self, py: Python<'_>, name: &str) -> HashMap<i64, Answered> {
        py.detach(|| {
            let snapshot = self.server.app.map.snapshot();
            let versions = snapshot.models.get(name).map(|model| model.versions.values());
            let each = versions.into_iter().flatten().map(|handle| {
                let all = handle.series.answered();
                let shadow = handle.series.shadow.counted();
                let shadow = shadow.map(|(result, count)| (result.name(), count)).collect();
                (handle.version, (all.ok, all.failed, all.within, shadow))
            });
            each.collect()
        })
    }

    fn record_decision(&self, name: &str, decision: &str) {
        self.server.app.metrics.decisions.count(name, decision);
    }

    fn record_fetch(
        &self,
        store: &str,
        outcome: &str,
        sizes_bytes: (u64, u64),
        seconds: f64,
        cache_bytes: u64,
    ) {
        self.server.app.metrics.fetches.count(store, outcome, sizes_bytes, seconds, cache_bytes);
    }

    fn set_ready(&self, py: Python<'_>, ready: bool) {
        py.detach(|| self.server.set_ready(ready));
    }

    fn start_grpc(&self, py: Python<'_>) -> PyResult<Option<u16>> {
        py.detach(|| self.server.start_grpc()).map_err(raise)
    }

    fn start_rest(&self, py: Python<'_>) -> PyResult<u16> {
        py.detach(|| self.server.start_rest()).map_err(raise)
    }

    fn leave(&self, py: Python<'_>) {
        py.detach(|| self.server.leave());
    }

    fn stop(&self, py: Python<'_>, grace_s: f64) -> PyResult<bool> {
        let grace = seconds(grace_s)?;
        Ok(py.detach(|| self.server.stop(grace)))
    }

    fn record_warmup(
        &self,
        path: &str,
        status: &str,
        records: u64,
        latency_s: f64,
    ) -> PyResult<()> {
        let latency = seconds(latency_s)?;
        self.server.app.metrics.warmups.record(path, status, records, latency);
        Ok(())
    }

    fn set_mlmd_uuid(&self, model: &str, version: i64, uuid: Option<String>) {
        self.server.app.metrics.mlmd.set(model, version, uuid);
    }

    fn observe_batching(&self, py: Python<'_>) -> Vec<QueueObservation> {
        py.detach(|| {
            let snapshot = self.server.app.map.snapshot();
            let versions = snapshot.models.values().flat_map(|model| model.versions.values());
            versions.flat_map(|handle| QueueObservation::of(handle)).collect()
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn decide_batching(
        &self,
        py: Python<'_>,
        model: &str,
        version: i64,
        signature: &str,
        size: usize,
        wait_s: f64,
        in_flight: usize,
    ) -> PyResult<()> {
        let decision = Decision { size, wait: seconds(wait_s)?, in_flight };
        py.detach(|| {
            let snapshot = self.server.app.map.snapshot();
            let handle = snapshot.models.get(model).and_then(|model| model.versions.get(&version));
            if let Some(queues) = handle.and_then(|handle| handle.batching.as_ref()) {
                queues.decide(signature, decision);
            }
        });
        Ok(())
    }

    fn metrics(&self, py: Python<'_>) -> String {
        py.detach(|| own_page(&self.server.app))
    }
}

/// A profiler of the control plane's.
struct PythonProfiler(Py<PyAny>);

impl Profiler for PythonProfiler {
    fn start(&self, levels: Levels) -> Result<()> {
        let Levels { host, device, python } = levels;
        Python::attach(|py| {
            let started = self.0.call_method1(py, "start", (host, device, python));
            let status = exception::status(started.and_then(|answer| answer.extract(py)));
            if status.code == Code::Ok {
                Ok(())
            } else {
                Err(status)
            }
        })
    }

    fn stop(&self) -> Result<Vec<u8>> {
        Python::attach(|py| {
            let stopped = self.0.call_method0(py, "stop");
            let answer: PyResult<(i32, String, Vec<u8>)> =
                stopped.and_then(|answer| answer.extract(py));
            match answer {
                Ok((code, _, xspace)) if code == Code::Ok.number() => Ok(xspace),
                other => Err(exception::status(other.map(|(code, text, _)| (code, text)))),
            }
        })
    }
}

#[pymodule]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("EngineError", module.py().get_type::<exception::EngineError>())?;
    module.add_class::<Servable>()?;
    module.add_class::<Engine>()?;
    module.add_function(wrap_pyfunction!(load_tensorflow, module)?)?;
    module.add_function(wrap_pyfunction!(load_op_library, module)?)?;
    module.add_function(wrap_pyfunction!(give_way, module)?)?;
    module.add_function(wrap_pyfunction!(load_saved_model, module)?)?;
    module.add_function(wrap_pyfunction!(python_servable, module)?)?;
    module.add_function(wrap_pyfunction!(load_worker, module)?)?;
    module.add_function(wrap_pyfunction!(load_native, module)?)?;
    module.add_function(wrap_pyfunction!(composite_servable, module)?)?;
    module.add_class::<TableBuilder>()?;
    module.add_function(wrap_pyfunction!(crate::bench::python::bench, module)?)?;
    Ok(())
}
