//! Batchers written in Python: `Batcher` in `_engine.pyi`. Called with the GIL held, on whichever
//! thread runs the batch, but never on one that reads requests.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::batcher::{Batcher, Group, Installed, Request};
use crate::servable::python::{from_python, status_of, to_python};
use crate::status::{Result, Status};
use crate::tensor::Tensor;

struct PythonBatcher(Py<PyAny>);

impl<'a, 'py> FromPyObject<'a, 'py> for Installed {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(Arc::new(PythonBatcher(object.to_owned().unbind()))))
    }
}

/// What is called back to make the inputs of a group, and the answers.
struct PythonGroup {
    object: Py<PyAny>,
    places: Vec<usize>,
}

impl Batcher for PythonBatcher {
    fn group(&self, signature_name: &str, requests: &[Request<'_>]) -> Result<Vec<Box<dyn Group>>> {
        with_python(|py| {
            let requests =
                requests.iter().map(|request| Ok((request.rows, dictionary(py, &request.inputs)?)));
            let requests = requests.collect::<PyResult<Vec<_>>>()?;
            let groups = self.0.bind(py).call_method1("group", (signature_name, requests))?;
            let groups: Vec<(Vec<usize>, Py<PyAny>)> = groups.extract()?;
            let groups = groups.into_iter().map(|(places, object)| {
                let group: Box<dyn Group> = Box::new(PythonGroup { object, places });
                group
            });
            Ok(Ok(groups.collect()))
        })
    }
}

impl Group for PythonGroup {
    fn places(&self) -> &[usize] {
        &self.places
    }

    fn pad(&self, size: usize) -> Result<Vec<(String, Tensor)>> {
        with_python(|py| named(&self.object.bind(py).call_method1("pad", (size,))?))
    }

    fn split(&self, outputs: &[(&str, &Tensor)]) -> Result<Vec<Vec<(String, Tensor)>>> {
        with_python(|py| {
            let outputs = dictionary(py, outputs)?;
            let parts = self.object.bind(py).call_method1("split", (outputs,))?;
            let parts: Vec<Bound<'_, PyAny>> = parts.extract()?;
            parts.iter().map(named).collect()
        })
    }
}

fn with_python<T>(work: impl FnOnce(Python<'_>) -> PyResult<Result<T>>) -> Result<T> {
    Python::attach(|py| work(py).unwrap_or_else(|error| Err(status_of(py, &error))))
}

fn dictionary<'py>(py: Python<'py>, tensors: &[(&str, &Tensor)]) -> PyResult<Bound<'py, PyDict>> {
    let dictionary = PyDict::new(py);
    for (alias, tensor) in tensors {
        dictionary.set_item(alias, to_python(py, tensor)?)?;
    }
    Ok(dictionary)
}

/// A list of pairs of alias and tensor.
fn named(tensors: &Bound<'_, PyAny>) -> PyResult<Result<Vec<(String, Tensor)>>> {
    let tensors: Vec<(String, Bound<'_, PyTuple>)> = tensors.extract()?;
    tensors
        .into_iter()
        .map(|(alias, tensor)| {
            Ok(match from_python(&tensor)? {
                Ok(tensor) => Ok((alias, tensor)),
                Err(what) => {
                    Err(Status::internal(format!("The batcher's {alias} is no tensor: {what}")))
                }
            })
        })
        .collect()
}
