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

use crate::app::Options;
use crate::frontend::metrics::own_page;
use crate::inference::model_status::VersionStatus;
use crate::inference::serialized::examples::replay;
use crate::request_log::{Complain, Logging};
use crate::servable::python::PythonServable;
use crate::servable::tensorflow::{load_library, load_saved_model as load, Library, LoadOptions};
use crate::servable::Servable as Runs;
use crate::server::Server;
use crate::serving_map::{Model, Released, ServableHandle, Snapshot};
use crate::status::{Code, Status};

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

#[pyclass(frozen, module = "servable._engine")]
struct Servable {
    /// `None` once closed.
    inner: Mutex<Option<Arc<dyn Runs>>>,
    released: Released,
}

impl Servable {
    fn new(inner: Arc<dyn Runs>) -> Self {
        Self { inner: Mutex::new(Some(inner)), released: Released::default() }
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

    #[pyo3(signature = (log_type, request, engine=None))]
    fn replay<'py>(
        &self,
        py: Python<'py>,
        log_type: i32,
        request: &[u8],
        engine: Option<&Bound<'py, Engine>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let handle = ServableHandle::new(String::new(), 0, self.get()?, &self.released);
        let request = Bytes::copy_from_slice(request);
        let app = engine.map(|engine| engine.get().server.app.clone());
        let metrics = app.as_ref().map(|app| &app.metrics);
        let answer = py.detach(|| replay(&handle, log_type, &request, metrics));
        Ok(PyBytes::new(py, answer.map_err(raise)?.as_slice()))
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
            give_memory_back();
            true
        }))
    }
}

fn seconds(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Return what the allocator keeps of freed memory to the system.
fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointers, and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[pyfunction]
fn load_tensorflow(py: Python<'_>, library_directory: &str) -> PyResult<String> {
    let library = py.detach(|| load_library(Path::new(library_directory)));
    library.map(Library::version_text).map_err(raise)
}

#[pyfunction]
fn load_saved_model(
    py: Python<'_>,
    path: &str,
    tags: Vec<String>,
    session_config: Vec<u8>,
    inter_op_in_caller: bool,
) -> PyResult<Servable> {
    let options = LoadOptions { tags, session_config, inter_op_in_caller };
    let model = py.detach(|| {
        // Opened before: the directory counts only the first time.
        let library = load_library(Path::new(""))?;
        load(library, Path::new(path), &options)
    });
    Ok(Servable::new(Arc::new(model.map_err(raise)?)))
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

type Versions = HashMap<i64, Py<Servable>>;

#[pymethods]
impl Engine {
    #[new]
    fn new(options: Options) -> PyResult<Self> {
        Ok(Self { server: Server::new(options).map_err(raise)? })
    }

    #[allow(clippy::needless_pass_by_value)]
    fn publish(
        &self,
        py: Python<'_>,
        servables: HashMap<String, Versions>,
        labels: HashMap<String, HashMap<String, i64>>,
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
                        let name = name.clone();
                        Arc::new(ServableHandle::new(name, version, inner, &servable.released))
                    }
                };
                model.versions.insert(version, handle);
            }
            snapshot.models.insert(name, model);
        }
        for (name, labels) in labels {
            snapshot.models.entry(name).or_default().labels = labels;
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

    fn set_ready(&self, py: Python<'_>, ready: bool) {
        py.detach(|| self.server.set_ready(ready));
    }

    fn start_grpc(&self, py: Python<'_>) -> PyResult<Option<u16>> {
        py.detach(|| self.server.start_grpc()).map_err(raise)
    }

    fn start_rest(&self, py: Python<'_>) -> PyResult<u16> {
        py.detach(|| self.server.start_rest()).map_err(raise)
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

    fn metrics(&self, py: Python<'_>) -> String {
        py.detach(|| own_page(&self.server.app))
    }
}

#[pymodule]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("EngineError", module.py().get_type::<exception::EngineError>())?;
    module.add_class::<Servable>()?;
    module.add_class::<Engine>()?;
    module.add_function(wrap_pyfunction!(load_tensorflow, module)?)?;
    module.add_function(wrap_pyfunction!(load_saved_model, module)?)?;
    module.add_function(wrap_pyfunction!(python_servable, module)?)?;
    module.add_function(wrap_pyfunction!(crate::bench::python::bench, module)?)?;
    Ok(())
}
