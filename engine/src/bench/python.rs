//! `bench` as Python calls it.

use pyo3::exceptions::{PyConnectionError, PyOSError, PyValueError};
use pyo3::prelude::*;

use super::{run, BenchError, Spec};

/// Drive a server with load as `spec_json` says and return the result as JSON.
///
/// Releases the GIL; takes it back about ten times a second for `progress` and for signals.
///
/// # Errors
///
/// `ValueError`, `ConnectionError` or `OSError` as [`run`] says, and whatever `progress` raised.
#[pyfunction]
#[allow(clippy::needless_pass_by_value)] // what a #[pyfunction] takes
#[pyo3(signature = (spec_json, progress = None))]
pub fn bench(py: Python<'_>, spec_json: &str, progress: Option<Py<PyAny>>) -> PyResult<String> {
    let spec: Spec = serde_json::from_str(spec_json)
        .map_err(|e| PyValueError::new_err(format!("specification: {e}")))?;
    let mut raised = None;
    let report = py.detach(|| {
        run(&spec, &mut |part| {
            Python::attach(|py| {
                let told = match &progress {
                    Some(progress) => progress.call1(py, (part,)).map(drop),
                    None => Ok(()),
                };
                raised = told.and_then(|()| py.check_signals()).err();
                raised.is_none()
            })
        })
    });
    if let Some(error) = raised {
        return Err(error);
    }
    let report = report.map_err(|error| to_python(&error))?;
    serde_json::to_string(&report).map_err(|e| PyValueError::new_err(e.to_string()))
}

fn to_python(error: &BenchError) -> PyErr {
    let message = error.to_string();
    match error {
        BenchError::Spec(_) => PyValueError::new_err(message),
        BenchError::Connect { .. } => PyConnectionError::new_err(message),
        BenchError::Process { .. } | BenchError::Stopped | BenchError::Io(_) => {
            PyOSError::new_err(message)
        }
    }
}
